from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, ASYMMETRIC_7, SYMMETRIC, reference, sqnr_db
from float_models import PATTERNS, batches, images, pattern, small_network

from calibration.best import quantize_best
from calibration.correct import repair
from calibration.evidence import REPAIRED
from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import collect
from calibration.recipes import is_closer
from calibration.simulate import output_distance, output_distances, simulate
from targets.errors import DataError

CONVENTIONS = pytest.mark.parametrize("convention", [SYMMETRIC, ASYMMETRIC, ASYMMETRIC_7])


def repaired(path: Path, convention, rounding: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    inputs = images(32)
    out = path.with_suffix(".int8.onnx")
    summary = quantize(path, collect(path, batches(inputs)), convention, out)
    before, after = onnx.load(out), onnx.load(out)
    layers = repair(load(path), after, summary.layers, convention.weight_bits, batches(inputs), rounding)
    assert [layer.node for layer in layers] == [layer.node for layer in summary.layers]
    onnx.checker.check_model(after)
    return before, after


@CONVENTIONS
@pytest.mark.parametrize("name", PATTERNS)
def test_repaired_models_keep_to_the_convention(name: str, convention, tmp_path: Path) -> None:
    before, after = repaired(pattern(name, tmp_path), convention, "absorbing")
    limit = 2 ** (convention.weight_bits - 1) - 1
    for model in (before, after):
        kinds = {}
        for tensor in model.graph.initializer:
            value = onnx.numpy_helper.to_array(tensor)
            if value.dtype == np.int8 and value.ndim > 1:
                assert np.abs(value.astype(int)).max() <= limit
            kinds[tensor.name] = value.dtype, value.shape
        if model is before:
            expected = kinds
    assert {name: kinds[name] for name in expected if name in kinds} == {
        name: kind for name, kind in expected.items() if name in kinds
    }


@CONVENTIONS
@pytest.mark.parametrize("rounding", ["nearest", "compensated", "absorbing"])
def test_the_mean_of_every_output_channel_is_right_afterwards(rounding, convention, tmp_path: Path) -> None:
    path = pattern("conv_norm_relu", tmp_path)
    before, after = repaired(path, convention, rounding)
    expected = reference(path, images(32))[0].mean((0, 2, 3))
    off = [
        np.abs(reference(model, images(32))[0].mean((0, 2, 3)) - expected).max() for model in (before, after)
    ]
    assert off[1] < 0.5 * off[0]


@CONVENTIONS
def test_compensation_brings_the_outputs_closer_on_other_inputs(convention, tmp_path: Path) -> None:
    path = pattern("residual", tmp_path)
    before, after = repaired(path, convention, "compensated")
    inputs = images(64, seed=5)
    expected = reference(path, inputs)[0]
    assert sqnr_db(expected, reference(after, inputs)[0]) > sqnr_db(expected, reference(before, inputs)[0])


def test_the_simulator_computes_what_is_written(tmp_path: Path) -> None:
    _, model = repaired(pattern("depthwise", tmp_path), ASYMMETRIC, "nearest")
    inputs = images(24)
    got = next(iter(simulate(model, batches(inputs)).values()))
    assert sqnr_db(reference(model, inputs)[0], got) > 40


def test_distance_is_zero_for_equals_and_grows_with_noise() -> None:
    rng = np.random.default_rng(0)
    for shape in ((20, 10), (4, 3, 8, 8)):
        value = {"output": rng.standard_normal(shape).astype(np.float32)}
        noise = rng.standard_normal(shape).astype(np.float32)
        distances = [
            output_distance(value, {"output": value["output"] + factor * noise}) for factor in (0, 0.1, 1)
        ]
        assert distances[0] == pytest.approx(0.0, abs=1e-12)
        assert distances == sorted(distances)
        each = output_distances(value, {"output": value["output"] + noise})
        assert each.shape == (shape[0],)
        assert each.mean() == pytest.approx(distances[-1])


def test_a_gain_counts_when_it_is_larger_than_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    distances = rng.uniform(1.0, 2.0, 50)
    assert is_closer(distances - 0.01, distances)
    assert not is_closer(distances, distances)
    assert not is_closer(distances + 0.01, distances)
    assert not is_closer(distances - 0.001 + rng.normal(0.0, 0.1, 50), distances)
    assert is_closer(np.array([1.0]), np.array([1.1]))


@CONVENTIONS
def test_the_best_recipe_is_at_least_as_good_as_the_plain_one(convention, tmp_path: Path) -> None:
    path, data = small_network(tmp_path / "net.onnx"), batches(images(64, (3, 32, 32)))
    out, twin = tmp_path / "best.onnx", tmp_path / "float.onnx"
    best = quantize_best(path, data, convention, out, twin)
    kept = [trial.distance for trial in best.trials if trial.kept]
    assert kept == sorted(kept, reverse=True)
    assert best.best.distance == kept[-1] <= best.trials[0].distance
    # Larger inputs than those seen may be clipped by a ReLU6 earlier than before.
    seen = images(64, (3, 32, 32))[:24]
    np.testing.assert_allclose(reference(path, seen)[0], reference(twin, seen)[0], atol=1e-4)
    inputs = images(32, (3, 32, 32), 7)
    plain = tmp_path / "plain.onnx"
    quantize(path, collect(path, data), convention, plain)
    expected = reference(path, inputs)[0]
    assert sqnr_db(expected, reference(out, inputs)[0]) > sqnr_db(expected, reference(plain, inputs)[0]) - 1


def test_too_little_data_to_judge_by_is_refused(tmp_path: Path) -> None:
    path = pattern("residual", tmp_path)
    with pytest.raises(DataError, match="3 batches"):
        quantize_best(path, batches(images(24)), SYMMETRIC, tmp_path / "a", tmp_path / "b")


def test_batches_as_large_as_all_that_is_repaired_with_will_do(tmp_path: Path) -> None:
    path, data = pattern("residual", tmp_path), batches(images(4 * REPAIRED), REPAIRED)
    assert quantize_best(path, data, ASYMMETRIC, tmp_path / "a", tmp_path / "b").best.distance < 0.1
