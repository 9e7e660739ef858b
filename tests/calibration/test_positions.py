"""Errors count where the network's outputs depend on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, reference
from float_models import batches
from onnx import helper, numpy_helper

from calibration.correct import repair
from calibration.load import load
from calibration.moments import halves
from calibration.positions import LEAST, weigh_positions
from calibration.qdq import quantize
from calibration.ranges import collect

RNG = np.random.default_rng(0)
SIZE = 6


def strided(path: Path) -> Path:
    """A 1 × 1 convolution read by another one of stride 2: every odd row and column is thrown away."""
    weights = {"w1": RNG.normal(size=(4, 3, 1, 1)), "w2": RNG.normal(size=(5, 4, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="second", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "strided",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def inputs() -> np.ndarray:
    return RNG.normal(size=(32, 3, SIZE, SIZE)).astype(np.float32)


def test_positions_nothing_reads_hardly_count_and_the_mean_is_one(tmp_path: Path, inputs) -> None:
    found = weigh_positions(load(strided(tmp_path / "m.onnx")), batches(inputs), ["first", "second"])
    first = np.concatenate(found["first"]).reshape(-1, SIZE, SIZE)
    read = np.zeros((SIZE, SIZE), bool)
    read[::2, ::2] = True
    assert first.mean() == pytest.approx(1.0, abs=1e-4)
    assert np.all(first[:, ~read] < 2 * LEAST)
    assert first[:, read].mean() > 3.0
    assert {part.shape[1] for part in found["second"]} == {(SIZE // 2) ** 2}


def test_biases_make_good_what_is_wrong_where_it_is_read(tmp_path: Path, inputs) -> None:
    """Far outliers, clipped away at positions that nothing reads, must not bend the bias."""
    inputs = np.abs(inputs)
    path, out = strided(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    seen = collect(path, batches(inputs))
    off = inputs.copy()
    off[:, :, 1::2, :] += 40.0
    summary = quantize(path, seen, ASYMMETRIC, out)
    weights = weigh_positions(load(path), batches(off), ["first", "second"])
    errors = []
    for chosen in (None, weights):
        model = onnx.load(out)
        repair(load(path), model, summary.layers, 8, batches(off), "nearest", weights=chosen)
        errors.append(np.abs(reference(model, off)[0] - reference(path, off)[0]).mean())
    assert errors[1] < 0.2 * errors[0]


def test_a_weight_of_two_is_a_column_twice() -> None:
    layer = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    twice = np.repeat(x, 2, axis=1)
    weighted = halves(layer, (), [(x, x), (x, x)], weights=[np.full((2, 4), 2.0, np.float32)] * 2)
    doubled = halves(layer, (), [(twice, twice), (twice, twice)])
    for one, other in zip(weighted, doubled, strict=True):
        assert one.count == other.count
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-5)
        np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-4, atol=1e-6)


def test_covariances_of_inputs_far_from_zero_are_those_of_inputs_around_it() -> None:
    layer = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = RNG.normal(size=(40, 200, 6)).astype(np.float32)
    weights = [RNG.uniform(0.01, 50.0, (40, 200)).astype(np.float32)] * 2
    near, far = (
        halves(layer, (), [(x + shift, x + shift)] * 2, 200, weights)[0]
        for shift in np.float32([0.0, 1024.0])
    )
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(far.mean - 1024.0, near.mean, atol=1e-4)
