"""A runtime's operators find their layers again, and what a layer is made of."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_networks import residual_net

from pipeline.evaluate import right_images, score
from pipeline.mistakes import mistakes
from pipeline.onnxmodel.file import read_model
from pipeline.onnxmodel.layers import join, layers_of
from pipeline.onnxmodel.macs import count_macs
from pipeline.png import thumbnail
from pipeline.report import load
from targets.errors import ModelError


def test_layers_have_the_macs_of_the_model(small_build: Path) -> None:
    for name, bits in (("student", {32}), ("student-int8-any-onnxruntime", {8})):
        model = read_model(small_build / "out/models" / f"{name}.onnx")
        layers = layers_of(model)
        assert sum(layer.macs for layer in layers) == count_macs(model)
        assert {layer.weight_bits for layer in layers} == bits
        assert layers[-1].channels == 4 and layers[0].weights_per_channel == 9


def test_every_layer_of_a_build_is_timed_on_every_runtime(small_build: Path) -> None:
    record = load(small_build / "out/report.json")
    macs = {network.name: network.macs for network in record.networks}
    for result in record.results:
        joined = [layer for layer in result.layers if layer.nodes]
        names = [name for layer in joined for name in layer.nodes]
        assert len(names) == len(set(names)) == 7, (result.target, result.variant)
        assert sum(layer.macs or 0 for layer in joined) == macs[result.network]
        assert {layer.weight_bits for layer in joined} == {32 if result.precision == "fp32" else 8}
        assert abs(sum(layer.share for layer in result.layers) - 1) < 1e-6
        assert len(result.bits) == (0 if result.precision == "fp32" else 7)


def test_operators_that_are_no_layer_stay_alone() -> None:
    times = [{"name": "nothing_known", "kind": "Conv", "median_ms": 1.0}]
    times += [{"name": "conv", "kind": "Reorder", "median_ms": 3.0}]
    assert join(times, residual_net()) == [{**times[0], "share": 0.25}, {**times[1], "share": 0.75}]


LABELS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=50)


@given(LABELS)
def test_the_record_knows_which_images_were_right(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    accuracy = score(predictions, labels, ["a", "b", "c"])
    np.testing.assert_array_equal(right_images(accuracy), labels == predictions)


@pytest.mark.parametrize("right", ["!", "AAAA", ""])
def test_bits_that_do_not_fit_are_refused(right: str) -> None:
    accuracy = score(np.array([0, 1]), np.array([0, 1]), ["a", "b"])
    with pytest.raises(ModelError):
        right_images(accuracy.model_copy(update={"right": right}))
    assert right_images(accuracy.model_copy(update={"right": None})) is None


def test_the_most_frequent_confusions_come_first_with_their_own_images() -> None:
    labels = np.array([0] * 6 + [1] * 4)
    predictions = np.array([1, 1, 1, 0, 2, 0, 1, 2, 2, 1])
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    accuracy = score(predictions, labels, ["a", "b", "c"])
    found = mistakes(accuracy, images, labels, predictions, np.arange(10), 2)
    assert [(each.label, each.said, each.count) for each in found] == [
        ("a", "b", 3),
        ("b", "c", 2),
        ("a", "c", 1),
    ]
    assert [len(each.images) for each in found] == [2, 2, 1]
    assert pixels(base64.b64decode(found[0].images[1]))[0, 0] == 2
    assert mistakes(accuracy, images, labels, predictions, np.arange(10), 0) == []


def pixels(png: bytes) -> np.ndarray:
    """Read back what `thumbnail` writes, with an independent reader."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([1, 3]), st.integers(0, 9))
def test_thumbnails_are_images(height: int, width: int, channels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    step = -(-max(height, width) // 64)
    read = pixels(thumbnail(image))
    np.testing.assert_array_equal(read.reshape(*read.shape[:2], channels), image[::step, ::step])
    assert max(read.shape[:2]) <= 64


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_numbers_become_an_image(channels: int) -> None:
    values = np.linspace(-1, 1, 16 * channels).reshape(4, 4, channels)
    read = pixels(thumbnail(values))
    assert read.min() == 0 and read.max() > 200
    assert pixels(thumbnail(np.full((2, 2, 1), np.nan))).max() == 0
