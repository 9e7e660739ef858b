"""Layers go back to float until a stated drop holds, and no more of them than needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC
from float_models import Net, batches, images, small_network
from onnx import TensorProto, numpy_helper

from calibration.aware import Within, quantize_within
from calibration.budgets import LargestDrop
from calibration.half import to_half
from calibration.load import load
from calibration.simulate import output_distance, simulate
from targets.errors import GateFailed, ModelError

INPUTS = batches(images(32, (3, 32, 32)), 4)


def within(path: Path, drop: LargestDrop, **options) -> tuple[Within, Path]:
    out = path.with_suffix(".int8.onnx")
    options = {"thorough": False, **options}
    convention = options.pop("convention", ASYMMETRIC)
    return quantize_within(
        path, INPUTS, convention, out, path.with_suffix(".float.onnx"), drop, **options
    ), out


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return small_network(tmp_path / "net.onnx")


def divergence(float_model: Path, quantized: Path) -> float:
    judging = INPUTS[3::4]
    return output_distance(
        simulate(load(float_model).model, judging), simulate(onnx.load(quantized), judging)
    )


def test_nothing_is_lifted_when_the_drop_holds(network: Path) -> None:
    found, out = within(network, LargestDrop(1.0, "divergence"))
    assert found.lifted.layers == found.ranked == found.sensitivities == ()
    assert found.agreement is None
    assert found.lifted.loss == divergence(network, out) <= 1.0


@pytest.mark.parametrize("ranking", ["measured", "estimated"])
def test_the_written_model_keeps_within_the_drop(network: Path, ranking: str) -> None:
    whole, _ = within(network, LargestDrop(1e9, "divergence"))
    most = whole.lifted.loss / 3
    found, out = within(network, LargestDrop(most, "divergence"), ranking=ranking)
    assert 0 < len(found.lifted.layers) < len(found.ranked)
    assert found.lifted.loss == divergence(network, out) <= most
    assert found.lifted.layers == found.ranked[: len(found.lifted.layers)]
    assert found.lifted.losses[len(found.lifted.layers) - 1] > most
    kept = {item.node for item in found.summary.kept_float}
    assert kept.issuperset(found.lifted.layers)
    assert not kept.intersection(item.node for item in found.summary.layers)
    assert (found.agreement is not None) == (ranking == "measured") == bool(found.sensitivities)


def int8_layers(path: Path) -> float:
    """Count the layers whose weights are INT8: a figure of known size."""
    nodes = onnx.load(path).graph.node
    constants = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    return float(sum(node.input[1] in constants for node in nodes if node.op_type in ("Conv", "Gemm")))


def test_the_figure_may_be_the_callers(network: Path) -> None:
    seen = []

    def figure(path: Path) -> float:
        seen.append(path)
        return int8_layers(path)

    found, out = within(network, LargestDrop(2, figure), ranking="estimated")
    assert len(found.ranked) - len(found.lifted.layers) == int8_layers(out) == found.lifted.loss == 2
    assert len(seen) <= np.log2(len(found.ranked)) + 4


def test_a_drop_that_cannot_be_kept_names_the_nearest(network: Path) -> None:
    with pytest.raises(GateFailed, match=r"the loss is 0\.5"):
        within(network, LargestDrop(0.4, lambda _: 0.5), ranking="estimated")


def test_ignored_layers_are_no_candidates(network: Path) -> None:
    whole, _ = within(network, LargestDrop(1e9, "divergence"))
    first = whole.summary.layers[0].node
    found, _ = within(
        network, LargestDrop(whole.lifted.loss / 3, "divergence"), ignore=[first], ranking="estimated"
    )
    assert first not in found.ranked
    assert first in {item.node for item in found.summary.kept_float}


def test_repairs_are_kept_when_layers_are_lifted(network: Path) -> None:
    drop = LargestDrop(12, int8_layers)
    plain, plain_out = within(network, drop, ranking="estimated", convention=SYMMETRIC)
    unrepaired = divergence(network, plain_out)
    found, out = within(network, drop, ranking="estimated", convention=SYMMETRIC, thorough=True)
    assert plain.best is None
    assert found.best is not None
    assert len(found.summary.layers) == 12
    assert divergence(network, out) < unrepaired


def test_what_stays_float_for_tensorrt_is_float16(network: Path) -> None:
    found, out = within(
        network, LargestDrop(10, int8_layers), half=True, convention=SYMMETRIC, ranking="estimated"
    )
    assert found.lifted.layers
    assert set(found.half).issuperset(found.lifted.layers)
    model = onnx.shape_inference.infer_shapes(onnx.load(out), strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    for node in model.graph.node:
        if node.name in found.lifted.layers:
            assert kinds[node.input[1]] == TensorProto.FLOAT16
    in_float32, other = within(
        network, LargestDrop(10, int8_layers), convention=SYMMETRIC, ranking="estimated"
    )
    assert in_float32.half == ()
    assert divergence(network, out) == pytest.approx(divergence(network, other), rel=0.1)


def half_net() -> tuple[Net, onnx.ModelProto]:
    net = Net()
    x = net.relu6(net.conv("input", 8))
    y = net.relu(net.conv(x, 8))
    return net, net.build(net.head(net.op("Add", x, y)))


def test_float16_differs_by_rounding_alone_and_casts_stand_at_the_borders_only() -> None:
    net, model = half_net()
    x = images(4)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"input": x})[0]
    layers = [node.name for node in net.nodes if node.op_type == "Conv"]
    converted = to_half(model, layers)
    assert set(converted) == {*layers, *(node.name for node in net.nodes if node.op_type in ("Relu", "Clip"))}
    onnx.checker.check_model(model, full_check=True)
    got = ort.InferenceSession(model.SerializeToString()).run(None, {"input": x})[0]
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 4e-3 * np.abs(expected).max()
    assert np.abs(got - expected).max() > 0
    # In: the input. Between the two layers: none. Out: what the Add reads.
    assert [node.op_type for node in model.graph.node].count("Cast") == 3


def test_weights_beyond_float16_are_refused() -> None:
    net, model = half_net()
    conv = net.nodes[0]
    tensor = next(item for item in model.graph.initializer if item.name == conv.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e6), tensor.name))
    with pytest.raises(ModelError, match="float16"):
        to_half(model, [conv.name])
