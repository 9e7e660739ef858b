"""Grids, rounding and noise: the laws they obey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import reference
from float_models import PATTERNS, Net, batches, images, pattern, small_network
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.compensate import compensated, damped, output_error
from calibration.grid import WIDTHS, fit_grid
from calibration.load import load
from calibration.noise import measure_noise
from calibration.rows import columns, from_rows, has_rows, to_rows
from calibration.stepper import Stepper


def correlated(rng: np.random.Generator, groups: int, depth: int) -> np.ndarray:
    """Return covariances of inputs of which neighbours are alike, [G, D, D]."""
    x = rng.standard_normal((groups, depth, 8 * depth))
    x[:, 1:] += x[:, :-1]
    return damped(x @ x.transpose(0, 2, 1) / x.shape[2], 0.01)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(WIDTHS), st.integers(0, 99), st.sampled_from([127, 63]))
def test_levels_fit_into_their_bits_and_into_int8(width: int, seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((6, 12)) + rng.choice([-1, 0, 1], (6, 1))
    grid = fit_grid(rows, np.ones((6, 12)), np.full(6, width), limit)
    levels = grid.nearest(rows)
    assert (levels.max(axis=1) - levels.min(axis=1) < 2**width).all()
    assert np.abs(levels).max() <= limit
    assert (grid.low <= 0).all()
    assert (grid.high >= 0).all()
    assert np.array_equal(grid.scale, grid.scale.astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
def test_covariances_that_rounding_destroyed_still_round_weights(seed: int, wrong: float) -> None:
    """Inputs that hardly differ: what is left of E[x xT] - E[x] E[x]T need not be positive definite."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, 12, 12)) * wrong
    moments = damped(1e-6 * np.eye(12) + noise + noise.transpose(0, 2, 1), 0.01)
    assert (np.linalg.eigvalsh(moments) > 0).all()
    rows = rng.standard_normal((2, 4, 12))
    grid = fit_grid(rows.reshape(8, 12), np.ones((8, 12)), np.full(8, 8), 127)
    levels, scale = compensated(rows, moments, grid)
    assert np.isfinite(levels * scale[..., None]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_more_bits_are_less_noise(seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((5, 30))
    errors = []
    for width in WIDTHS:
        grid = fit_grid(rows, np.ones_like(rows), np.full(5, width))
        errors.append(np.sum((rows - grid.nearest(rows) * grid.scale[:, None]) ** 2, axis=1))
    assert (np.diff(errors, axis=0) <= 1e-12).all()


def test_a_skewed_channel_gets_a_skewed_grid() -> None:
    rows = np.random.default_rng(0).uniform(-0.3, 1.0, (1, 500))
    grid = fit_grid(rows, np.ones_like(rows), np.array([3]))
    assert -grid.low[0] < grid.high[0] - 1


def test_widths_may_differ_from_channel_to_channel() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 400))
    levels = (grid := fit_grid(rows, np.ones_like(rows), np.array([2, 4, 8]))).nearest(rows)
    assert [len(np.unique(channel)) for channel in levels] <= [4, 16, 256]
    assert (grid.high - grid.low < [4, 16, 256]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([2, 4]), st.sampled_from([(1, 4, 70), (5, 1, 9), (2, 3, 6)]))
def test_compensated_rounding_is_never_worse_than_nearest(
    seed: int, width: int, shape: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(seed)
    groups, count, depth = shape
    rows, moments = rng.standard_normal(shape), correlated(rng, groups, depth)
    importance = np.repeat(np.einsum("gdd->gd", moments), count, axis=0)
    grid = fit_grid(rows.reshape(-1, depth), importance, np.full(groups * count, width))
    nearest = grid.nearest(rows.reshape(-1, depth)) * grid.scale[:, None]
    levels, scale = compensated(rows, moments, grid)
    got = output_error(rows - levels * scale[..., None], moments).sum()
    assert got <= output_error(rows - nearest.reshape(shape), moments).sum() * (1 + 1e-9)
    assert (levels.reshape(-1, depth) >= grid.low[:, None]).all()
    assert (levels.reshape(-1, depth) <= grid.high[:, None]).all()


def test_without_correlation_compensation_is_nearest_rounding() -> None:
    rows = np.random.default_rng(0).standard_normal((1, 4, 20))
    grid = fit_grid(rows[0], np.ones((4, 20)), np.full(4, 4))
    levels, _ = compensated(rows, np.eye(20)[None], grid, sweeps=0)
    np.testing.assert_array_equal(levels[0], grid.nearest(rows[0]))


@pytest.mark.parametrize("name", PATTERNS)
def test_rows_times_columns_is_what_the_layer_computes(name: str, tmp_path: Path) -> None:
    path = pattern(name, tmp_path)
    graph, x = load(path), images(4)
    for node in filter(has_rows, graph.nodes):
        weight = np.asarray(graph.constant(node.input[1]))
        rows = to_rows(node, weight)
        np.testing.assert_array_equal(from_rows(node, rows, weight.shape), weight)
        copy = onnx.ModelProto()
        copy.CopyFrom(graph.model)
        tensors = list(dict.fromkeys([node.input[0], node.output[0]]))
        values = (
            dict(zip(tensors, reference(copy, x, tensors), strict=True))
            if node.input[0] != "input"
            else {"input": x, node.output[0]: reference(copy, x, [node.output[0]])[0]}
        )
        got = rows @ columns(node, values[node.input[0]], weight.shape[2:], 10**9)
        bias = graph.constant(graph.bias(node))
        expected = np.moveaxis(values[node.output[0]], 1, 0).reshape(got.shape[0] * got.shape[1], -1)
        added = 0.0 if bias is None else np.asarray(bias).reshape(-1, 1)
        np.testing.assert_allclose(got.reshape(expected.shape) + added, expected, atol=2e-4)


@pytest.mark.parametrize(
    "attributes", [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"dilations": [2, 1]}]
)
def test_columns_follow_every_way_of_padding(attributes: dict[str, object], tmp_path: Path) -> None:
    net = Net()
    weight = net.normal(4, 3, 3, 3)
    extra = {} if "auto_pad" in attributes else {"pads": [0, 1, 2, 1]}
    output = net.op("Conv", "input", weight, strides=[2, 2], kernel_shape=[3, 3], **attributes, **extra)
    graph, x = load(net.save(tmp_path / "model.onnx", output)), images(2)
    node = graph.nodes[0]
    got = to_rows(node, np.asarray(graph.constant(weight))) @ columns(node, x, (3, 3), 10**9)
    expected = np.moveaxis(reference(graph.model, x)[0], 1, 0).reshape(1, 4, -1)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_noise_is_what_the_rounded_layer_adds(tmp_path: Path) -> None:
    """Variance of the change of the layer's output, over all positions of all inputs."""
    net = Net()
    path = net.save(tmp_path / "model.onnx", net.conv("input", 6, k=1))
    graph, x = load(path), images(64)
    layer = graph.nodes[0]
    noise = measure_noise(graph, [layer.name], batches(x))[layer.name]
    assert noise.noise.shape == (6, len(WIDTHS))
    assert (noise.noise[:, 0] > noise.noise[:, -1]).all()
    change = noise.change.reshape(6, 3) @ x.transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(change.var(axis=1), noise.noise[:, WIDTHS.index(3)], rtol=0.2)


def test_a_stepped_model_computes_what_the_whole_does(tmp_path: Path) -> None:
    graph, x = load(small_network(tmp_path / "model.onnx")), images(8, (3, 32, 32))
    stepper = Stepper(graph.model, batches(x, 4))
    for node in graph.nodes[::7]:
        assert node.input[0] in stepper.before(node.name)[0]
    output = graph.model.graph.output[0].name
    got = np.concatenate([values[output] for values in stepper.finish()])
    np.testing.assert_allclose(got, reference(graph.model, x)[0], rtol=1e-5, atol=1e-6)
