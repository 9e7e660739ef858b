from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import SYMMETRIC, reference
from float_models import PATTERNS, Net, batches, images, pattern
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.channels import find_channels
from calibration.clipping import least_squares_range
from calibration.equalize import channel_ranges, equalize, rescale
from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import collect
from calibration.recentre import offset_activations, recentre


def relative(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.abs(expected - got).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", PATTERNS)
def test_equalized_models_compute_the_same(name: str, tmp_path: Path) -> None:
    path, out, inputs = pattern(name, tmp_path), tmp_path / "equal.onnx", images(16)
    equalize(path, batches(inputs), out)
    assert relative(reference(path, inputs)[0], reference(out, inputs)[0]) < 1e-5


def unequal(net: Net) -> str:
    """Two layers with channels of strengths from 1 to 1/30 and means of their own between them."""
    x = net.conv("input", 8, k=1)
    weight = next(item for item in net.initializers if item.name == net.nodes[-1].input[1])
    bias = next(item for item in net.initializers if item.name == net.nodes[-1].input[2])
    factors = np.geomspace(1, 1 / 30, 8).astype(np.float32)
    for tensor, offset in (weight, 0.0), (bias, 5.0):
        value = onnx.numpy_helper.to_array(tensor) + np.float32(offset)
        value = value * factors.reshape(-1, *[1] * (value.ndim - 1))
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return x


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "maxpool"])
def test_ranges_of_all_channels_become_equal(activation: str | None, tmp_path: Path) -> None:
    net = Net()
    x = unequal(net)
    if activation == "maxpool":
        x = net.op("MaxPool", net.relu(x), kernel_shape=[2, 2], strides=[2, 2])
    elif activation:
        x = getattr(net, activation)(x)
    depthwise = net.conv(x, 8, group=8)
    path, out = net.save(tmp_path / "net.onnx", net.head(net.conv(depthwise, 4))), tmp_path / "equal.onnx"
    equalize(path, batches(images(16)), out)
    lows, highs = channel_ranges(load(out), out, batches(images(16)))
    peaks = np.maximum(highs[x], -lows[x])
    assert peaks.max() / peaks.min() < (1.1 if activation != "relu6" else 2.0)


def test_a_residual_stream_is_scaled_as_one(tmp_path: Path) -> None:
    net = Net()
    x = unequal(net)
    total = net.op("Add", x, net.conv(net.relu(net.conv(x, 8, k=1)), 8, k=1))
    path, out = net.save(tmp_path / "net.onnx", net.head(net.relu(net.conv(total, 8)))), tmp_path / "e.onnx"
    before = channel_ranges(load(path), path, batches(images(16)))
    equalize(path, batches(images(16)), out)
    after = channel_ranges(load(out), out, batches(images(16)))
    spans = [(highs[x] - lows[x], highs[total] - lows[total]) for lows, highs in (before, after)]
    factors = [after_span / before_span for before_span, after_span in zip(*spans, strict=True)]
    np.testing.assert_allclose(factors[0], factors[1], rtol=1e-3)
    assert np.ptp(np.log(factors[0])) > 0.5


def test_linear_tensors_are_centred_and_others_left_alone(tmp_path: Path) -> None:
    net = Net()
    x = unequal(net)
    before_padding = net.conv(net.relu(net.conv(x, 6, k=1)), 5, k=1)
    path = net.save(tmp_path / "net.onnx", net.relu(net.conv(before_padding, 4)))
    graph = load(path)
    moved = recentre(graph, *channel_ranges(graph, path, batches(images(16))))
    assert set(moved) == {x}
    out = tmp_path / "centred.onnx"
    out.write_bytes(graph.model.SerializeToString())
    lows, highs = channel_ranges(load(out), out, batches(images(16)))
    np.testing.assert_allclose(highs[x], -lows[x], rtol=1e-3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(PATTERNS)), seed=st.integers(0, 99))
def test_any_factors_of_free_channels_can_be_undone(name: str, seed: int, tmp_path: Path) -> None:
    path, inputs = pattern(name, tmp_path), images(4)
    graph = load(path)
    channels = find_channels(graph)
    factors = np.ones(len(channels.parents))
    bounded = set(channels.bounds())
    free = sorted(channels.free() - bounded)
    factors[free] = np.exp(np.random.default_rng(seed).uniform(-3, 3, len(free)))
    rescale(graph, channels, factors)
    assert relative(reference(path, inputs)[0], reference(graph.model, inputs)[0]) < 1e-5


@pytest.mark.parametrize("name", PATTERNS)
def test_offset_activations_compute_the_same(name: str, tmp_path: Path) -> None:
    path, inputs = pattern(name, tmp_path), images(16)
    graph = load(path)
    highs = {name: 3.0 for node in graph.nodes for name in node.output if node.op_type in ("Relu", "Clip")}
    moved = offset_activations(graph, highs)
    assert relative(reference(path, inputs)[0], reference(graph.model, inputs)[0]) < 1e-5
    padded = [
        node.input[0]
        for node in load(path).nodes
        if any(item.name == "pads" and any(item.ints) for item in node.attribute)
    ]
    assert not set(moved).intersection(padded)


def test_symmetric_int8_gains_a_bit_by_offset_activations(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv("input", 8, k=1))
    path = net.save(tmp_path / "net.onnx", net.conv(x, 4, k=1))
    graph = load(path)
    data = batches(images(32))
    observations = collect(path, data)
    offset_activations(graph, {x: least_squares_range(observations.histograms[x], False)[1]})
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(graph.model.SerializeToString())
    scales = [
        quantize(p, collect(p, data), SYMMETRIC, tmp_path / "q.onnx").tensors[x].scale for p in (path, moved)
    ]
    assert scales[1] == pytest.approx(scales[0] / 2, rel=0.1)
