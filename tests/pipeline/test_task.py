"""Tasks and splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.task import SPLITS, Task, resolve, split, split_unlabelled
from targets.errors import ConfigError, DataError

CLASSES = ("a", "b", "c")
SHARES = {"select": 0.1, "calibrate": 0.05, "test": 0.2}


@given(
    counts=st.lists(st.integers(6, 60), min_size=2, max_size=5),
    own=st.booleans(),
    limit=st.none() | st.integers(5, 40),
    seed=st.integers(0, 9),
)
def test_splits_are_disjoint_and_each_holds_every_class(counts, own, limit, seed):
    labels = np.concatenate([np.full(count, label) for label, count in enumerate(counts)])
    own_test = 0
    if own:
        test_labels = np.repeat(np.arange(len(counts)), 3)
        labels, own_test = np.concatenate([labels, test_labels]), len(test_labels)
    names = [str(label) for label in range(len(counts))]
    parts = split(labels, names, own_test, SHARES, limit, seed)
    joined = np.concatenate([parts[name] for name in SPLITS])
    assert len(np.unique(joined)) == len(joined)
    for name in SPLITS:
        assert set(labels[parts[name]]) == set(range(len(counts)))
        assert (np.diff(parts[name]) > 0).all()
        if limit:
            # Every class keeps at least one image, so a very small limit may be passed by some.
            assert len(parts[name]) <= limit + len(counts)
    if own:
        assert (parts["test"] >= len(labels) - own_test).all()
        assert max(parts[name].max() for name in SPLITS[:3]) < len(labels) - own_test
    elif limit is None:
        assert len(joined) == len(labels)


def test_splits_repeat_with_the_seed_and_change_without():
    labels = np.repeat([0, 1, 2], 40)
    first, again, other = (split(labels, CLASSES, 0, SHARES, None, seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in SPLITS)
    assert any((first[name] != other[name]).any() for name in SPLITS)


@given(
    count=st.integers(8, 80),
    own=st.integers(0, 9),
    limit=st.none() | st.integers(5, 40),
    seed=st.integers(0, 9),
)
def test_images_without_labels_are_divided_into_disjoint_splits(count, own, limit, seed):
    parts = split_unlabelled(count + own, own, SHARES, limit, seed)
    joined = np.concatenate([parts[name] for name in SPLITS])
    assert len(np.unique(joined)) == len(joined) and all(len(parts[name]) for name in SPLITS)
    if own:
        assert min(parts["test"]) >= count > max(parts[name].max() for name in SPLITS[:3])
    if limit is None:
        assert len(joined) == count + own
    else:
        assert all(len(parts[name]) <= limit for name in SPLITS)


def test_too_few_images_without_labels_are_refused():
    with pytest.raises(DataError, match="the data set has 3 images"):
        split_unlabelled(3, 0, SHARES, None, 0)


def test_a_class_with_too_few_images_is_named_with_what_it_needs():
    labels = np.array([0] * 40 + [1] * 3)
    with pytest.raises(DataError, match="class 'b' has 3 images") as caught:
        split(labels, ("a", "b"), 0, SHARES, None, 0)
    assert "at least 4" in caught.value.mend
    with pytest.raises(DataError, match="class 'b' has 0 images"):
        split(np.zeros(40, np.int64), ("a", "b"), 0, SHARES, None, 0)


def test_labels_are_translated_to_outputs():
    task = resolve(CLASSES, ["c", "a"], other=True)
    assert task.outputs == ["c", "a", "other"]
    assert task.translate(np.array([0, 1, 2])).tolist() == [1, 2, 0]
    strict = resolve(CLASSES, ["c", "a"], other=False)
    assert strict.translate(np.array([0, 1, 2])).tolist() == [1, -1, 0]
    assert resolve(CLASSES, [], other=False).outputs == list(CLASSES)


def test_a_task_survives_saving(tmp_path):
    task = resolve(CLASSES, ["c"], other=True)
    task.save(tmp_path / "task.json")
    assert Task.load(tmp_path / "task.json") == task


def test_unknown_classes_are_named_with_what_there_is():
    with pytest.raises(ConfigError, match=r"no class 'Snaeker'.*did you mean 'Sneaker'") as caught:
        resolve(("Sandal", "Sneaker"), ["Snaeker"], other=True)
    assert "Sandal, Sneaker" in caught.value.mend
    with pytest.raises(ConfigError, match="nothing is left for 'other'"):
        resolve(CLASSES, list(CLASSES), other=True)
