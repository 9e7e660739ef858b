"""Loading somebody's model: prepared exactly, refused clearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_cases import ASYMMETRIC, reference
from float_models import PATTERNS, Net, images, pattern
from onnx import helper, numpy_helper

from calibration.load import load
from calibration.qdq import quantize
from targets.errors import ModelError


@pytest.mark.parametrize("name", PATTERNS)
def test_prepared_model_computes_the_same(name: str, tmp_path: Path) -> None:
    path, inputs = pattern(name, tmp_path), images(4)
    before, after = reference(path, inputs)[0], reference(load(path).model, inputs)[0]
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize(
    "name", ["conv_norm_relu", "depthwise", "transposed_conv", "grouped_transposed_conv"]
)
def test_batch_norms_after_layers_are_gone(name: str, tmp_path: Path) -> None:
    assert "BatchNormalization" not in {node.op_type for node in load(pattern(name, tmp_path)).nodes}


@pytest.mark.parametrize("trans_b", [0, 1])
def test_batch_norm_after_gemm_with_beta_and_row_bias(trans_b: int, tmp_path: Path) -> None:
    net = Net(shape=("N", 12))
    x = net.gemm("input", 6, trans_b)
    net.nodes[-1].attribute.append(helper.make_attribute("beta", 0.5))
    net.nodes[-1].attribute.append(helper.make_attribute("alpha", 2.0))
    net.nodes[-1].input[2] = net.normal(1, 6)
    path, inputs = net.save(tmp_path / "gemm.onnx", net.norm(x)), images(4, (12,))[:, 0, 0]
    graph = load(path)
    assert [node.op_type for node in graph.nodes] == ["Gemm"]
    np.testing.assert_allclose(
        reference(graph.model, inputs)[0], reference(path, inputs)[0], rtol=1e-5, atol=1e-5
    )


def test_batch_norm_stays_when_the_layer_has_another_reader(tmp_path: Path) -> None:
    net = Net()
    x = net.conv("input", 4)
    path = net.save(tmp_path / "two.onnx", net.op("Add", net.norm(x), x))
    assert "BatchNormalization" in {node.op_type for node in load(path).nodes}


def test_folding_a_shared_weight_leaves_the_other_layer_alone(tmp_path: Path) -> None:
    net = Net()
    x = net.norm(net.conv("input", 3, bias=False))
    shared = next(node.input[1] for node in net.nodes)
    path = net.save(tmp_path / "shared.onnx", net.op("Conv", x, shared, kernel_shape=[3, 3]))
    np.testing.assert_allclose(
        reference(load(path).model, images(2))[0], reference(path, images(2))[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("automatic", [None, "VALID"])
def test_zero_pads_become_part_of_the_conv(automatic: str | None, tmp_path: Path) -> None:
    net = Net()
    x = net.op("Pad", "input", net.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)), channels=3)
    own = {"auto_pad": automatic, "pads": None} if automatic else {"pads": [1, 1, 1, 1]}
    path = net.save(tmp_path / "pad.onnx", net.conv(x, 4, **own))
    graph = load(path)
    assert [node.op_type for node in graph.nodes] == ["Conv"]
    np.testing.assert_array_equal(reference(graph.model, images(2))[0], reference(path, images(2))[0])


@pytest.mark.parametrize("amounts", [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0, 0]])
def test_other_pads_stay(amounts: list[int], tmp_path: Path) -> None:
    net = Net()
    x = net.op("Pad", "input", net.constant(np.array(amounts, np.int64)), channels=3 + amounts[1])
    path = net.save(tmp_path / "pad.onnx", net.conv(x, 4))
    assert [node.op_type for node in load(path).nodes] == ["Pad", "Conv"]


def test_constant_nodes_become_initializers(tmp_path: Path) -> None:
    net = Net()
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32))
    net.nodes.append(helper.make_node("Constant", [], ["w"], value=weights))
    graph = load(net.save(tmp_path / "constant.onnx", net.op("Conv", "input", "w")))
    assert [node.op_type for node in graph.nodes] == ["Conv"]
    assert "w" in graph.constants


def test_old_opset_is_converted_and_old_inputs_are_separated(tmp_path: Path) -> None:
    net = Net(opset=11)
    x = net.relu6(net.norm(net.conv("input", 4)))
    model = net.build(net.head(net.op("Pad", x, net.constant(np.array([0, 0, 1, 1] * 2, np.int64)))))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    path = tmp_path / "old.onnx"
    onnx.save(model, path)
    graph = load(path)
    assert [item.version for item in graph.model.opset_import] == [13]
    assert [value.name for value in graph.model.graph.input] == ["input"]
    np.testing.assert_allclose(
        reference(graph.model, images(2))[0], reference(path, images(2))[0], rtol=1e-4, atol=1e-5
    )


def test_opset_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    net = Net(opset=9)
    model = net.build(net.op("Affine", "input", alpha=1.0, beta=0.0))
    model.graph.output[0].CopyFrom(model.graph.input[0])
    model.graph.output[0].name = model.graph.node[0].output[0]
    path = tmp_path / "experimental.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="opset 9"):
        load(path)


def test_already_quantized_is_refused(tmp_path, observe) -> None:
    path, out = pattern("residual", tmp_path), tmp_path / "int8.onnx"
    quantize(path, observe(path), ASYMMETRIC, out)
    with pytest.raises(ModelError, match="already quantized"):
        load(out)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_unreadable_files_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(pattern("gemm", tmp_path).read_bytes()[:3000] if content is None else content)
    with pytest.raises(ModelError, match="not a readable ONNX model"):
        load(path)
    with pytest.raises(ModelError, match="not a readable ONNX model"):
        load(tmp_path / "missing.onnx")


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    model = onnx.load(pattern("gemm", tmp_path))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    assert load(path).constants
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin"):
        load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Conv", "input", net.constant(np.full((2, 3, 3, 3), np.nan, np.float32)))
    with pytest.raises(ModelError, match="NaN"):
        load(net.save(tmp_path / "nan.onnx", x))
