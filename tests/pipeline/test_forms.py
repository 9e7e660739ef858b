"""The form a device needs: opset, fixed batch, fp16 in the graph; what is computed stays the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipeline.forms.form import before_form, write_form
from pipeline.forms.half import LARGEST, SMALLEST_SCALE, write_half
from pipeline.forms.opset import to_opset
from pipeline.onnxmodel.session import OnnxSession
from targets.capability import load_device
from targets.checks import check_model
from targets.errors import ModelError
from targets.onnxfile import inputs_of, opset_of


def model(nodes, constants, shape=(1, 4, 8, 8), opset=18, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(found)


def network(opset=18, batch=1, seed=0):
    """Convolution, pooling over axes given as an input, reshape with allowzero: as exporters write it."""
    random = np.random.default_rng(seed)
    constants = {
        "w": random.standard_normal((6, 4, 3, 3)).astype(np.float32),
        "axes": np.array([2, 3]),
        "shape": np.array([-1, 6]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("HardSwish", ["c"], ["h"], name="swish"),
        helper.make_node("ReduceMean", ["h", "axes"], ["m"], name="mean", keepdims=1),
        helper.make_node("Reshape", ["m", "shape"], ["y"], name="flat", allowzero=1),
    ]
    return model(nodes, constants, (batch, 4, 8, 8), opset)


def quantized(weight_scale, opset=19):
    """Q → DQ → Conv → Q → DQ → Relu, weights per channel."""
    random = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.03),
        "z": np.int8(0),
        "w": random.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "ws": np.asarray(weight_scale, np.float32),
        "wz": np.zeros(6, np.int8),
        "b": random.standard_normal(6).astype(np.float32),
        "t": np.float32(0.5),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], name="dw", axis=0),
        helper.make_node("Conv", ["d", "dw", "b"], ["c"], name="conv"),
        helper.make_node("QuantizeLinear", ["c", "t", "z"], ["cq"], name="cq"),
        helper.make_node("DequantizeLinear", ["cq", "t", "z"], ["cd"], name="cd"),
        helper.make_node("Relu", ["cd"], ["y"], name="relu"),
    ]
    return model(nodes, constants, opset=opset)


def run(found, batch=1):
    x = np.random.default_rng(1).standard_normal((batch, 4, 8, 8)).astype(np.float32)
    return OnnxSession(found)({"x": x})["y"]


def operators(found):
    return [node.op_type for node in found.graph.node]


@pytest.mark.parametrize("opset", [13, 15, 17])
def test_a_lowered_model_computes_the_same(opset):
    lowered = to_opset(network(), opset)
    assert opset_of(lowered) == opset
    np.testing.assert_allclose(run(lowered), run(network()), rtol=1e-6, atol=1e-6)
    assert ("HardSwish" in operators(lowered)) == (opset >= 14)


def test_axes_become_an_attribute_again_and_leave_no_constant_behind():
    lowered = to_opset(network(), 13)
    (mean,) = [node for node in lowered.graph.node if node.op_type == "ReduceMean"]
    assert list(mean.input) == ["h"] and "axes" not in {tensor.name for tensor in lowered.graph.initializer}
    assert lowered.ir_version == 7


def test_a_raised_model_computes_the_same():
    raised = to_opset(network(), 19)
    assert opset_of(raised) == 19
    np.testing.assert_allclose(run(raised), run(network()), rtol=1e-6, atol=1e-6)


def test_the_same_opset_changes_nothing():
    found = network()
    assert to_opset(found, 18) is found


@pytest.mark.parametrize(
    ("operator", "attributes", "inputs", "reason"),
    [
        ("Gelu", {}, ["x"], "Gelu cannot be written at opset 13: the operator itself is newer"),
        ("ReduceMax", {"noop_with_empty_axes": 1}, ["x"], "noop_with_empty_axes 1 is newer"),
        ("ReduceMean", {}, ["x", "computed"], "input computed is newer"),
    ],
)
def test_what_cannot_be_lowered_is_refused_by_name(operator, attributes, inputs, reason):
    nodes = [
        helper.make_node("Shape", ["x"], ["computed"]),
        helper.make_node(operator, inputs, ["y"], name="the node", **attributes),
    ]
    with pytest.raises(ModelError, match=reason) as caught:
        to_opset(model(nodes, {}, opset=20), 13)
    assert "node the node" in str(caught.value)


def test_nothing_is_lowered_below_13():
    with pytest.raises(ModelError, match="older than 13"):
        to_opset(network(), 12)


def test_fp16_is_written_and_inputs_and_outputs_stay():
    half = write_half(network())
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT64}
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [1, 1]
    np.testing.assert_allclose(run(half), run(network()), rtol=5e-3, atol=5e-3)


def test_no_cast_comes_between_qdq_and_its_layer():
    half = write_half(quantized(np.full(6, 0.01)))
    assert operators(half) == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Conv",
        "QuantizeLinear",
        "DequantizeLinear",
        "Relu",
        "Cast",
    ]
    np.testing.assert_allclose(run(half), run(quantized(np.full(6, 0.01))), atol=0.51)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(2.0**-24, 8.0), min_size=6, max_size=6))
def test_weights_survive_scales_that_fp16_does_not_have(scales):
    before, after = quantized(scales), write_half(quantized(scales))

    def weights(found):
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
        (node,) = [node for node in found.graph.node if node.name == "dw"]
        integers, scale = (stored[name].astype(np.float64) for name in node.input[:2])
        return integers * scale.reshape(-1, 1, 1, 1), scale

    (old, scale), (new, new_scale) = weights(before), weights(after)
    step = np.maximum(scale, SMALLEST_SCALE).reshape(-1, 1, 1, 1)
    # Half a step of rounding; near the smallest scale a cut of the largest integers by up to one more.
    assert np.all(np.abs(new - old) <= 1.5 * step)
    assert np.all(new_scale >= SMALLEST_SCALE * 0.99) and np.all(np.isfinite(new_scale))


def test_scales_in_fp16_need_opset_19():
    with pytest.raises(ModelError, match="fp16 scales need ONNX opset 19"):
        write_half(quantized(np.full(6, 0.01), opset=18))


def test_a_constant_beyond_fp16_keeps_its_node_in_fp32():
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["m"], name="mul"),
        helper.make_node("Clip", ["m", "low", "high"], ["y"], name="clip"),
    ]
    large = {"large": np.float32(1e6), "low": np.float32(-1e9), "high": np.float32(1e9)}
    half = write_half(model(nodes, large))
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert types["large"] == TensorProto.FLOAT
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert stored["high_half"] == np.float16(LARGEST)


def test_scales_of_resize_stay_fp32():
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], name="resize", mode="nearest")]
    found = model(nodes, {"scales": np.array([1, 1, 2, 2], np.float32)})
    half = write_half(found)
    assert operators(half) == ["Cast", "Resize", "Cast"]
    np.testing.assert_allclose(run(half), run(found), atol=2e-3)


def test_a_tensor_that_is_an_output_and_used_on_is_cast_once():
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="one"),
        helper.make_node("Sigmoid", ["y"], ["z"], name="other"),
    ]
    half = write_half(model(nodes, {}, outputs=("y", "z")))
    assert operators(half).count("Cast") == 3


def test_branches_are_refused():
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "branch", [], [value])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(ModelError, match="branches of If"):
        write_half(model(nodes, {}))


@pytest.mark.parametrize(
    ("device", "precision", "batch", "changes"),
    [
        ("oak-rvc2", "fp16", "N", ["the batch is fixed at 1", "opset 18 became 13"]),
        ("jetson-nano", "fp16", 1, ["opset 18 became 13"]),
        ("jetson-xavier-nx", "fp16", 1, ["opset 18 became 17"]),
        ("jetson-orin-nano", "fp16", "N", ["float parts are fp16, inputs and outputs float32"]),
        ("intel-npu-4000", "fp16", "N", ["the batch is fixed at 1"]),
        ("x86-avx2", "fp32", "N", []),
    ],
)
def test_every_device_gets_its_form_and_takes_it(tmp_path, device, precision, batch, changes):
    source, out = tmp_path / "network.onnx", tmp_path / "form.onnx"
    onnx.save(network(batch=batch), source)
    capability = load_device(device).capability()
    assert write_form(source, capability, precision, out) == changes
    assert check_model(out, capability) == []
    (spec,) = inputs_of(onnx.load(out))
    assert spec.shape[0] == (1 if capability.shapes == "static" or batch == 1 else -1)
    np.testing.assert_allclose(run(onnx.load(out)), run(network()), rtol=5e-3, atol=5e-3)


def test_before_its_form_a_device_takes_newer_opsets_and_open_batches():
    capability = before_form(load_device("oak-rvc2").capability())
    assert capability.opset_max >= 18 and capability.shapes == "dynamic"
    assert capability.unsupported_operators == load_device("oak-rvc2").capability().unsupported_operators
