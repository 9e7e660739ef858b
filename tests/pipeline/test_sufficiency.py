"""Too few images to rank channels by: how many there are, how many are wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.discriminant import information, ridge
from pipeline.compress.groups import Group
from pipeline.compress.scatter import Scatter
from pipeline.compress.sufficiency import check_images, check_teacher, images_needed
from targets.errors import DataError

GROUPS = [Group("narrow", 8, ("narrow",)), Group("wide", 64, ("wide",))]


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def test_enough_images_are_no_reason_to_speak() -> None:
    assert images_needed(GROUPS, 3) == 64
    assert check_images(labels(64, 64, 64), "abc", GROUPS) == []
    assert check_images(labels(1, 1), "ab", []) == []


def test_a_class_with_too_few_images_is_named_with_what_it_has_and_needs() -> None:
    (warning,) = check_images(labels(80, 12, 64), ("boot", "bag", "shirt"), GROUPS)
    assert warning.startswith("class 'bag' has 12 images to score channels on: 64 are wanted")
    assert "wide, which has 64" in warning and "3 classes" in warning


def test_many_such_classes_are_counted() -> None:
    warnings = check_images(labels(*[1] * 20), [f"class {label}" for label in range(20)], GROUPS)
    assert len(warnings) == 9
    assert warnings[-1] == "12 more classes have too few images to score channels on"


def test_a_class_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no image of class 'b' is among the 10 .* nor of 1 other") as caught:
        check_images(labels(10, 0, 0), "abc", GROUPS)
    assert "64" in str(caught.value.mend)
    with pytest.raises(DataError, match="class 'a'"):
        check_images([], "a", GROUPS)


def test_a_teacher_that_does_not_know_a_class_is_named() -> None:
    given = labels(30, 30, 30, 10)
    logits = np.eye(4)[given][:, :3]
    assert check_teacher(logits, given, ("boot", "bag", "shirt")) == []
    logits[30:50] = [9, 0, 0]
    (warning,) = check_teacher(logits, given, ("boot", "bag", "shirt"))
    assert "takes 10 of 30 images of class 'bag'" in warning
    assert len(check_teacher(np.roll(np.eye(3), 1, 1)[given[:90]], given[:90], "abc")) == 3


@pytest.mark.parametrize(("counts", "classes"), [((50,), "a"), ((2, 50, 50), "abc"), ((0, 50), "ab")])
def test_too_little_to_judge_a_teacher_by_says_nothing(counts: tuple[int, ...], classes: str) -> None:
    given = labels(*counts)
    logits = np.eye(len(classes))[given]
    logits[given == 0] = 0.0
    logits[given == 0, -1] = 1.0
    assert check_teacher(logits, given, classes) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([12, 24, 48]))
def test_with_as_many_images_noise_explains_at_most_about_a_third(
    seed: int, classes: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = images_needed([Group("wide", width, ("wide",))], classes)
    targets = torch.nn.functional.one_hot(torch.arange(classes).repeat(count), classes).double()
    noise = torch.randn(len(targets), width, generator=generator, dtype=torch.float64)
    found = Scatter.of(noise, targets)
    explained = information(found.xx, found.xy, ridge(found.xx)) / float(found.yy.diagonal().sum())
    assert explained < 1 / 3 + 4 / width**0.5 / 3
