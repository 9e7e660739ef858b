"""The quantized model: exact where it must be, close to float where it may not, accepted by the runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from calibration_cases import ASYMMETRIC, ASYMMETRIC_7, SYMMETRIC, SYMMETRIC_7, reference, sqnr_db
from float_models import PATTERNS, Net, batches, images, pattern, small_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvidia_parser import needs_parser, parse
from onnx import numpy_helper

from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import collect
from targets.errors import DataError, ModelError

CORE = openvino.Core()
BOTH = pytest.mark.parametrize("convention", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])


def run_onnxruntime(model: Path, inputs: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"input": inputs})[0]


def run_openvino(model: Path, inputs: np.ndarray) -> np.ndarray:
    compiled = CORE.compile_model(CORE.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(inputs)[0]


def constants(model: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}


@BOTH
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_close_to_float_and_stay_so_in_the_runtimes(name, convention, tmp_path, observe) -> None:
    path, out, inputs = pattern(name, tmp_path), tmp_path / "int8.onnx", images(16, seed=9)
    observations, expected = observe(path), reference(pattern(name, tmp_path), inputs)[0]
    quantize(path, observations, convention, out)
    assert sqnr_db(expected, reference(out, inputs)[0]) > 20
    seven = SYMMETRIC_7 if convention is SYMMETRIC else ASYMMETRIC_7
    quantize(path, observations, seven, out)
    assert sqnr_db(expected, run_onnxruntime(out, inputs)) > 18
    assert sqnr_db(expected, run_openvino(out, inputs)) > 18


@needs_parser
@pytest.mark.parametrize("name", PATTERNS)
def test_nvidias_parser_takes_every_pattern(name: str, tmp_path: Path, observe) -> None:
    path, out = pattern(name, tmp_path), tmp_path / "int8.onnx"
    quantize(path, observe(path), SYMMETRIC, out)
    assert parse(out) == []


@needs_parser
def test_nvidias_parser_refuses_zero_points(tmp_path: Path, observe) -> None:
    path, out = pattern("residual", tmp_path), tmp_path / "int8.onnx"
    quantize(path, observe(path), ASYMMETRIC, out)
    assert parse(out)


@BOTH
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_a_whole_network(convention, method: str, tmp_path: Path) -> None:
    path, out, inputs = (
        small_network(tmp_path / "net.onnx"),
        tmp_path / "int8.onnx",
        images(32, (3, 32, 32), 9),
    )
    observations = collect(path, batches(images(64, (3, 32, 32))))
    summary = quantize(path, observations, convention, out, method)
    expected = reference(path, inputs)[0]
    assert np.mean(reference(out, inputs)[0].argmax(1) == expected.argmax(1)) > 0.9
    for run in (run_onnxruntime, run_openvino):
        assert run(out, inputs).shape == expected.shape
    assert len(summary.layers) == 14
    assert [item.op_type for item in summary.kept_float] == ["Softmax"]


@BOTH
@pytest.mark.parametrize("name", ["grouped", "gemm", "matmul", "transposed_conv"])
def test_stored_weights_equal_numpy_bit_for_bit(name, convention, tmp_path: Path, observe) -> None:
    path, out = pattern(name, tmp_path), tmp_path / "int8.onnx"
    summary = quantize(path, observe(path), convention, out)
    stored, graph = constants(out), load(path)
    axes = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
    for layer in summary.layers:
        weight = graph.constant(layer.weight)
        node = next(node for node in graph.nodes if node.name == layer.node)
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        axis = axes.get(layer.op_type, 0 if transposed else 1)
        others = tuple(set(range(weight.ndim)) - {axis})
        scale = np.abs(weight).max(others, keepdims=True) / np.float32(127)
        np.testing.assert_array_equal(stored[f"{layer.weight}_scale"], scale.reshape(-1))
        np.testing.assert_array_equal(stored[f"{layer.weight}_quantized"], np.round(weight / scale))
        assert stored[f"{layer.weight}_quantized"].dtype == np.int8
        assert layer.weight not in stored
        assert layer.channels == weight.shape[axis]


@BOTH
def test_activations_are_quantized_as_the_summary_says(convention, tmp_path: Path, observe) -> None:
    path, out, inputs = pattern("residual", tmp_path), tmp_path / "int8.onnx", images(4, seed=9)
    summary = quantize(path, observe(path), convention, out)
    names = list(summary.dequantized)
    floats = dict(zip(names, reference(out, inputs, names), strict=True))
    twins = dict(zip(names, reference(out, inputs, list(summary.dequantized.values())), strict=True))
    smallest, largest = (-128, 127) if convention is SYMMETRIC else (0, 255)
    for name, tensor in summary.tensors.items():
        scale = np.float32(tensor.scale)
        stored = np.clip(np.rint(floats[name] / scale) + tensor.zero_point, smallest, largest)
        np.testing.assert_array_equal(twins[name], (stored - tensor.zero_point).astype(np.float32) * scale)


@pytest.mark.parametrize("name", PATTERNS)
def test_symmetric_never_shows_a_zero_point_nor_integer_biases(name: str, tmp_path: Path, observe) -> None:
    path, out = pattern(name, tmp_path), tmp_path / "int8.onnx"
    summary = quantize(path, observe(path), SYMMETRIC, out)
    zero_points = {key: value for key, value in constants(out).items() if key.endswith("_zero_point")}
    assert zero_points
    assert all(value.dtype == np.int8 and not value.any() for value in zero_points.values())
    assert all(layer.bias in ("float32", "none") for layer in summary.layers)


def test_asymmetric_biases_are_in_accumulator_units(tmp_path: Path, observe) -> None:
    path, out = pattern("reflect_pad_conv", tmp_path), tmp_path / "int8.onnx"
    summary = quantize(path, observe(path), ASYMMETRIC, out)
    assert {layer.bias for layer in summary.layers} == {"int32"}
    stored, graph = constants(out), load(path)
    for node in [node for node in graph.nodes if node.op_type in ("Conv", "Gemm")]:
        source = graph.producers.get(node.input[0])
        name = source.input[0] if source is not None and source.op_type == "Pad" else node.input[0]
        unit = np.float32(summary.tensors[name].scale) * stored[f"{node.input[1]}_scale"]
        np.testing.assert_array_equal(stored[f"{node.input[2]}_scale"], unit)
        expected = np.rint(graph.constant(node.input[2]).astype(np.float64) / unit)
        np.testing.assert_array_equal(stored[f"{node.input[2]}_quantized"], expected)


def test_gemm_with_alpha_keeps_its_bias_in_float(tmp_path: Path) -> None:
    net = Net(shape=("N", 8))
    output = net.gemm("input", 4)
    net.nodes[-1].attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    path, out = net.save(tmp_path / "alpha.onnx", output), tmp_path / "int8.onnx"
    inputs = images(32, (8,))[:, 0, 0]
    summary = quantize(path, collect(path, [{"input": inputs}]), ASYMMETRIC, out)
    assert [layer.bias for layer in summary.layers] == ["float32"]
    assert sqnr_db(reference(path, inputs)[0], reference(out, inputs)[0]) > 30


@BOTH
@pytest.mark.parametrize("name", PATTERNS)
def test_one_pair_a_tensor_and_the_outputs_keep_names_and_stay_float(
    name, convention, tmp_path, observe
) -> None:
    path, out = pattern(name, tmp_path), tmp_path / "int8.onnx"
    summary = quantize(path, observe(path), convention, out)
    model = onnx.load(out)
    quantized = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(quantized) == sorted(summary.tensors)
    producers = {name: node for node in model.graph.node for name in node.output}
    for value in model.graph.output:
        assert producers[value.name].op_type != "DequantizeLinear"
    assert [value.name for value in model.graph.output] == [
        value.name for value in onnx.load(path).graph.output
    ]
    made = {name for node in model.graph.node for name in node.output}
    assert {name for node in load(path).nodes for name in node.output} <= made
    assert set(summary.dequantized.values()) <= made


def test_shared_scales_where_values_only_move(tmp_path: Path, observe) -> None:
    for name, kinds in {
        "concat": {"Concat"},
        "maxpool": {"MaxPool"},
        "shuffle": {"Reshape", "Transpose"},
    }.items():
        path, out = pattern(name, tmp_path), tmp_path / "int8.onnx"
        tensors = quantize(path, observe(path), ASYMMETRIC, out).tensors
        moving = [node for node in load(path).nodes if node.op_type in kinds]
        assert moving
        for node in moving:
            ends = [tensors[end] for end in (*node.input, *node.output) if end in tensors]
            assert len(ends) >= 2
            assert len({(end.scale, end.zero_point) for end in ends}) == 1


def test_a_tensor_that_is_read_and_put_out_is_put_out_in_float(tmp_path: Path, observe) -> None:
    net = Net()
    middle = net.relu(net.conv("input", 4))
    path, out = net.save(tmp_path / "two.onnx", middle, net.conv(middle, 4)), tmp_path / "int8.onnx"
    summary = quantize(path, observe(path), ASYMMETRIC, out)
    assert middle in summary.tensors
    got = reference(out, images(4))[0]
    assert len(np.unique(got)) > 256


def test_a_weight_shared_by_two_layers_is_stored_once(tmp_path: Path, observe) -> None:
    net = Net()
    x = net.relu(net.conv("input", 3, bias=False))
    path = net.save(tmp_path / "shared.onnx", net.op("Conv", x, net.nodes[0].input[1], pads=[1] * 4))
    out = tmp_path / "int8.onnx"
    assert len(quantize(path, observe(path), ASYMMETRIC, out).layers) == 2
    assert sum(value.ndim == 4 for value in constants(out).values()) == 1


def test_channels_without_weight_keep_their_bias(tmp_path: Path, observe) -> None:
    net = Net()
    strength = np.array([1, 0, 1e-20, 1e-7], np.float32).reshape(4, 1, 1, 1)
    weight = net.constant(net.rng.standard_normal((4, 3, 1, 1)).astype(np.float32) * strength)
    bias = net.constant(np.array([0.5, 7, -3, 11], np.float32))
    path, out = (
        net.save(tmp_path / "dead.onnx", net.op("Conv", "input", weight, bias)),
        tmp_path / "int8.onnx",
    )
    quantize(path, observe(path), ASYMMETRIC, out)
    got, expected = reference(out, images(2))[0], reference(path, images(2))[0]
    np.testing.assert_allclose(got[:, 1:], expected[:, 1:], atol=1e-3)


def test_same_bytes_every_time_and_in_every_process(tmp_path: Path, observe) -> None:
    path = small_network(tmp_path / "net.onnx")
    observations = collect(path, batches(images(8, (3, 32, 32))))
    observations.save(tmp_path / "observations.npz")
    summaries = [quantize(path, observations, ASYMMETRIC, tmp_path / name) for name in ("a.onnx", "b.onnx")]
    assert summaries[0] == summaries[1]
    script = """
from pathlib import Path
from calibration_cases import ASYMMETRIC
from calibration.observations import Observations
from calibration.qdq import quantize
quantize(Path("net.onnx"), Observations.load(Path("observations.npz")), ASYMMETRIC, Path("c.onnx"))
"""
    search = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": search}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    contents = {(tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx", "c.onnx")}
    assert len(contents) == 1


def test_summary_is_a_json_document(tmp_path: Path, observe) -> None:
    path = pattern("residual", tmp_path)
    summary = quantize(path, observe(path), ASYMMETRIC_7, tmp_path / "q.onnx", "percentile", ["Gemm"], 99.9)
    document = json.loads(json.dumps(summary.document(), allow_nan=False))
    assert document["schema"] == "edgewright.quantization/1"
    assert document["method"] == "percentile 99.9"
    assert (document["weight_bits"], document["samples"], document["opset"]) == (7, 32, 17)
    assert document["counts"]["quantized_layers"] == len(document["layers"]) == 3
    assert {item["op_type"]: item["reason"] for item in document["kept_float"]}["Gemm"] == "ignored by 'Gemm'"
    assert all(layer["weight_sqnr_db"] > 30 for layer in document["layers"])


def test_seven_bit_weights_stay_within_63(tmp_path: Path, observe) -> None:
    path, out = pattern("depthwise", tmp_path), tmp_path / "int8.onnx"
    summary = quantize(path, observe(path), ASYMMETRIC_7, out)
    stored = constants(out)
    assert {int(np.abs(stored[f"{layer.weight}_quantized"]).max()) for layer in summary.layers} == {63}


def test_observations_of_another_model_are_refused(tmp_path: Path, observe) -> None:
    observations = observe(pattern("residual", tmp_path))
    with pytest.raises(DataError, match="another model"):
        quantize(pattern("residual", tmp_path, seed=1), observations, SYMMETRIC, tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_ignoring_everything_is_refused(tmp_path: Path, observe) -> None:
    path = pattern("residual", tmp_path)
    with pytest.raises(ModelError, match="no layer of this model can be quantized"):
        quantize(path, observe(path), SYMMETRIC, tmp_path / "q.onnx", ignore=["Conv", "Gemm"])


STEPS = {
    "conv": lambda net, x: net.conv(x, 6),
    "conv_norm": lambda net, x: net.norm(net.conv(x, 4, k=1, bias=False)),
    "depthwise": lambda net, x: net.conv(x, net.channels[x], group=net.channels[x]),
    "relu": Net.relu,
    "relu6": Net.relu6,
    "sigmoid": lambda net, x: net.op("Sigmoid", x),
    "maxpool": lambda net, x: net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "residual": lambda net, x: net.op("Add", x, net.conv(x, net.channels[x])),
    "fire": lambda net, x: net.op("Concat", net.conv(x, 3), x, axis=1, channels=3 + net.channels[x]),
    "twice": lambda net, x: net.op("Add", net.relu(x), net.op("Transpose", x, perm=[0, 1, 3, 2])),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7),
    convention=st.sampled_from([SYMMETRIC, ASYMMETRIC, ASYMMETRIC_7]),
)
def test_random_networks_survive(steps: list[str], convention, tmp_path: Path) -> None:
    net = Net(shape=("N", 3, 8, 8))
    x = net.conv("input", 4)
    for step in steps:
        x = STEPS[step](net, x)
    path, out, inputs = net.save(tmp_path / "random.onnx", x), tmp_path / "q.onnx", images(16, (3, 8, 8))
    quantize(path, collect(path, batches(inputs)), convention, out)
    assert sqnr_db(reference(path, inputs)[0], reference(out, inputs)[0]) > 12
    assert run_onnxruntime(out, inputs).shape == reference(path, inputs)[0].shape
