"""Mixed precision from end to end, on a small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, ASYMMETRIC_7, SYMMETRIC, reference
from float_models import Net, batches, images, pattern, small_network
from onnx import numpy_helper

from calibration.mixed import Measured, lower, measure, smallest
from calibration.packing import pack_file
from calibration.plan import BitsPlan
from calibration.qdq import quantize
from calibration.ranges import collect
from calibration.scores import load_scores, save_scores, shrunk
from targets.capability import QuantizationConvention
from targets.errors import ConfigError, DataError
from targets.packed import unpack_file

DATA = batches(images(64, (3, 32, 32)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_network(tmp_path_factory.mktemp("mixed") / "model.onnx")


@pytest.fixture(scope="module")
def measured(network: Path) -> Measured:
    return measure(network, DATA)


def int8(model: Path, convention: QuantizationConvention) -> Path:
    path = model.with_name(f"int8-{convention.activations}-{convention.weight_bits}.onnx")
    if not path.exists():
        quantize(model, collect(model, DATA), convention, path)
    return path


def divergence(model: Path, other: Path) -> float:
    x = images(128, (3, 32, 32), seed=9)
    p, q = (reference(path, x)[0].astype(np.float64) for path in (model, other))
    return float(np.sum(p * (np.log(p) - np.log(q)), axis=1).mean())


def uniform(plan: BitsPlan, width: int) -> BitsPlan:
    layers = tuple(replace(layer, bits=(width,) * len(layer.bits)) for layer in plan.layers)
    return replace(plan, sensitivity="uniform", layers=layers)


@pytest.mark.parametrize("convention", [SYMMETRIC, ASYMMETRIC, ASYMMETRIC_7], ids=["s8", "u8", "u8s7"])
def test_lowered_weights_lie_on_grids_of_their_bits(
    network: Path, measured: Measured, convention: QuantizationConvention, tmp_path: Path
) -> None:
    plan = measured.plan(4.0)
    before = int8(network, convention)
    lower(measured, before, plan, DATA, tmp_path / "mixed.onnx", convention.weight_bits)
    model, old = onnx.load(tmp_path / "mixed.onnx"), onnx.load(before)
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in old.graph.node]
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    nodes = {node.name: node for node in model.graph.node}
    for layer in plan.layers:
        values = constants[producers[nodes[layer.node].input[1]].input[0]]
        rows = values.reshape(len(layer.bits), -1).astype(int)
        assert (rows.max(axis=1) - rows.min(axis=1) < 2 ** np.array(layer.bits)).all()
        assert np.abs(rows).max() < 2 ** (convention.weight_bits - 1)
    assert divergence(network, tmp_path / "mixed.onnx") < 0.5


def test_lowered_biases_keep_the_unit_of_the_accumulator(
    network: Path, measured: Measured, tmp_path: Path
) -> None:
    """Integer kernels add a bias as it is stored, whatever scale its DequantizeLinear names."""
    lower(measured, int8(network, ASYMMETRIC), measured.plan(4.0), DATA, tmp_path / "mixed.onnx")
    model = onnx.load(tmp_path / "mixed.onnx")
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    units = {
        node.output[0]: constants[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    biased = [node for node in model.graph.node if len(node.input) == 3 and node.input[2] in units]
    assert len(biased) > 3
    for node in biased:
        source, weight, bias = (units[name] for name in node.input)
        np.testing.assert_allclose(bias, source * weight, rtol=1e-6)


def test_the_packed_file_has_the_planned_size(network: Path, measured: Measured, tmp_path: Path) -> None:
    plan = measured.plan(4.0)
    lower(measured, int8(network, ASYMMETRIC), plan, DATA, tmp_path / "mixed.onnx")
    sizes = pack_file(tmp_path / "mixed.onnx", tmp_path / "mixed.packed")
    assert sizes.average_bits <= plan.average_bits + 0.05
    unpack_file(tmp_path / "mixed.packed", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "mixed.onnx").read_bytes()


def test_mixed_bits_beat_uniform_bits_of_the_same_size(
    network: Path, measured: Measured, tmp_path: Path
) -> None:
    mixed = measured.plan(3.0)
    for name, plan in ("mixed", mixed), ("uniform", uniform(mixed, 3)):
        lower(measured, int8(network, ASYMMETRIC), plan, DATA, tmp_path / f"{name}.onnx")
    assert divergence(network, tmp_path / "mixed.onnx") < divergence(network, tmp_path / "uniform.onnx")


def test_lowering_twice_gives_the_same_bytes(network: Path, measured: Measured, tmp_path: Path) -> None:
    for name in "ab":
        lower(measured, int8(network, ASYMMETRIC), measured.plan(4.0), DATA, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_size_is_kept_or_refused_with_the_nearest(
    network: Path, measured: Measured, tmp_path: Path
) -> None:
    packed = pack_file(int8(network, ASYMMETRIC), tmp_path / "int8.packed")
    size = packed.packed_bytes - packed.weight_bytes // 2
    lower(
        measured,
        int8(network, ASYMMETRIC),
        measured.plan_for_size(size, packed),
        DATA,
        tmp_path / "mixed.onnx",
    )
    got = pack_file(tmp_path / "mixed.onnx", tmp_path / "mixed.packed")
    assert 0.8 * size < got.packed_bytes <= size
    with pytest.raises(ConfigError, match="cannot be met"):
        measured.plan_for_size(10, packed)


def test_plans_that_do_not_fit_are_refused(network: Path, measured: Measured, tmp_path: Path) -> None:
    plan = measured.plan(4.0)
    first = plan.layers[0]
    others = [
        (replace(plan, model_sha256="0" * 64), "another model"),
        (replace(plan, layers=(replace(first, node="nowhere"),)), "no layer 'nowhere'"),
        (replace(plan, layers=(replace(first, bits=first.bits[1:]),)), "it has"),
        (replace(plan, layers=(replace(first, bits=(16,) * len(first.bits)),)), "channels of 16 bits"),
    ]
    for other, message in others:
        with pytest.raises(ConfigError, match=message):
            lower(measured, int8(network, ASYMMETRIC), other, DATA, tmp_path / "mixed.onnx")
    with pytest.raises(DataError, match="two batches"):
        lower(measured, int8(network, ASYMMETRIC), plan, DATA[:1], tmp_path / "mixed.onnx")
    assert not (tmp_path / "mixed.onnx").exists()


def test_networks_without_gradient_rule_are_planned_by_relative_error(tmp_path: Path) -> None:
    measured = measure(pattern("average_pool", tmp_path), batches(images(16)))
    assert measured.sensitivity == "relative-error"
    assert measured.plan(4.0).average_bits == pytest.approx(4.0, abs=0.3)


def test_given_scores_take_the_place_of_the_estimate(
    network: Path, measured: Measured, tmp_path: Path
) -> None:
    name = list(measured.noise)[3]
    save_scores({name: np.ones(len(measured.noise[name].power))}, tmp_path / "scores.npz")
    scores = load_scores(tmp_path / "scores.npz", measured.noise)
    plan = replace(measured, sensitivity="scores.npz", scores=scores).plan(4.0)
    assert {layer.node: min(layer.bits) for layer in plan.layers}[name] == 8
    assert all(max(layer.bits) == 2 for layer in plan.layers if layer.node != name)


@pytest.mark.parametrize("case", ["nowhere", "shape", "negative", "text", "no file"])
def test_scores_that_do_not_fit_are_refused(case: str, measured: Measured, tmp_path: Path) -> None:
    path, name = tmp_path / "scores.npz", next(iter(measured.noise))
    good = np.ones(len(measured.noise[name].power))
    if case == "text":
        path.write_text("scores")
    elif case != "no file":
        content = {"nowhere": {"nowhere": good}, "shape": {name: good[1:]}, "negative": {name: -good}}
        save_scores(content[case], path)
    with pytest.raises(DataError):
        load_scores(path, measured.noise)


def test_scores_keep_of_their_differences_what_two_halves_agree_on() -> None:
    rng = np.random.default_rng(0)
    true = rng.lognormal(0, 1, 500)
    np.testing.assert_allclose(shrunk(true, true), true)
    luck = shrunk(rng.lognormal(0, 1, 500), rng.lognormal(0, 1, 500))
    assert luck.std() < 0.15 * luck.mean()
    noisy = [true + rng.normal(0, true.std(), 500) for _ in range(2)]
    assert np.mean((shrunk(*noisy) - true) ** 2) < 0.8 * np.mean((np.mean(noisy, axis=0) - true) ** 2)


@pytest.mark.parametrize("needed", [2.25, 3.0, 5.75, 8.0])
def test_the_fewest_bits_that_keep_a_drop_are_found(needed: float) -> None:
    tried: list[float] = []

    def drop(average: float) -> float:
        tried.append(average)
        return 0.0 if average >= needed else 9.0

    assert smallest(drop, 0.5) == needed
    assert len(tried) <= 6


def test_a_drop_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="with 8 bits it is 3"):
        smallest(lambda _: 3.0, 0.5)


def test_every_layer_kind_is_planned(tmp_path: Path) -> None:
    net = Net()
    x = net.conv(net.relu(net.conv("input", 8)), 8, group=8)
    x = net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 6, trans_b=0)
    path = net.save(tmp_path / "model.onnx", net.op("MatMul", x, net.normal(6, 5, fan=6)))
    data = batches(images(32))
    measured = measure(path, data)
    assert len(measured.noise) == 4
    quantize(path, collect(path, data), ASYMMETRIC, tmp_path / "int8.onnx")
    lower(measured, tmp_path / "int8.onnx", measured.plan(6.0), data, tmp_path / "mixed.onnx")
    y = images(64, seed=5)
    expected, got = reference(path, y)[0], reference(tmp_path / "mixed.onnx", y)[0]
    assert np.sum((got - expected) ** 2) < 0.05 * np.sum((expected - expected.mean(0)) ** 2)
