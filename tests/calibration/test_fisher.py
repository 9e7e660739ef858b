"""Gradients without a training framework, and what they say about noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_cases import reference
from float_models import PATTERNS, Net, batches, images, pattern, small_network
from onnx import helper, numpy_helper

from calibration.fisher import responses
from calibration.gradient import SEED, gradient_model
from calibration.graph import FloatGraph
from calibration.load import load
from calibration.stepper import session_options
from targets.errors import ModelError

WITHOUT_RULE = {"transposed_conv", "grouped_transposed_conv", "reflect_pad_conv", "average_pool"}


def squeeze_excite(net: Net) -> str:
    x = net.op("HardSwish", net.conv("input", 8))
    gate = net.op("HardSigmoid", net.conv(net.op("GlobalAveragePool", x), 8, k=1), alpha=0.2)
    x = net.op("Mul", x, gate)
    y = net.conv(x, 8)
    return net.head(net.op("Mul", y, net.op("Sigmoid", y)))


def moved(
    graph: FloatGraph, layer: onnx.NodeProto, step: np.ndarray, logits: str, x: np.ndarray
) -> np.ndarray:
    """Return the logits when a layer's output is moved by a step."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    nodes = list(model.graph.node)
    index = [node.name for node in nodes].index(layer.name)
    output = nodes[index].output[0]
    nodes[index].output[0] = "unmoved"
    nodes.insert(index + 1, helper.make_node("Add", ["unmoved", "step"], [output]))
    del model.graph.node[:], model.graph.value_info[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(step.astype(np.float32), "step"))
    return reference(model, x, [logits])[0].astype(np.float64)


def directional_errors(path: Path, x: np.ndarray) -> list[float]:
    """Compare the backward pass with finite differences, at every layer along one random direction."""
    graph = load(path)
    layers = [node for node in graph.nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    gradient = gradient_model(graph, {"input": x.shape}, [node.name for node in layers])
    session = ort.InferenceSession(gradient.model.SerializeToString(), session_options())
    shape = next(item.shape for item in session.get_inputs() if item.name == SEED)
    seed = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    errors = []
    for layer in layers:
        slope = session.run([gradient.gradients[layer.name]], {"input": x, SEED: seed})[0].astype(np.float64)
        direction = np.random.default_rng(1).standard_normal(slope.shape)
        ends = [moved(graph, layer, sign * 1e-3 * direction, gradient.logits, x) for sign in (1, -1)]
        measured = float(np.sum((ends[0] - ends[1]) * seed)) / 2e-3
        errors.append(abs(measured - np.sum(slope * direction)) / np.linalg.norm(slope))
    return errors


# Steps across the kinks of ReLU and max pooling make finite differences a little wrong.
@pytest.mark.parametrize("name", sorted(set(PATTERNS) - WITHOUT_RULE))
def test_gradients_equal_finite_differences(name: str, tmp_path: Path) -> None:
    assert max(directional_errors(pattern(name, tmp_path), images(4))) < 0.15


def test_gradients_of_squeeze_excite(tmp_path: Path) -> None:
    net = Net()
    assert max(directional_errors(net.save(tmp_path / "model.onnx", squeeze_excite(net)), images(4))) < 0.15


@pytest.mark.parametrize("name", sorted(WITHOUT_RULE))
def test_an_operator_without_rule_is_named(name: str, tmp_path: Path) -> None:
    graph = load(pattern(name, tmp_path))
    layer = next(node.name for node in graph.nodes if node.op_type == "Conv")
    with pytest.raises(ModelError, match="no gradient rule for"):
        gradient_model(graph, {"input": (2, 3, 16, 16)}, [layer])


def test_responses_predict_the_divergence(tmp_path: Path) -> None:
    """Half the response of a small change is the divergence of the outputs it causes."""
    path = small_network(tmp_path / "model.onnx")
    graph, x = load(path), images(256, (3, 32, 32))
    p = reference(path, x)[0].astype(np.float64)
    layer = [node for node in graph.nodes if node.op_type == "Conv"][3]
    weight = np.asarray(graph.constant(layer.input[1]))
    change = np.zeros_like(weight)
    change[2] = 0.02 * np.random.default_rng(0).standard_normal(weight.shape[1:])
    response = responses(graph, {layer.name: change}, batches(x, 32))[layer.name]
    assert response.shape == (len(weight),)
    assert np.flatnonzero(response).tolist() == [2]
    q = changed(graph, layer, change, x)
    divergence = float(np.sum(p * (np.log(p) - np.log(q)), axis=1).mean())
    assert 0.5 * response[2] == pytest.approx(divergence, rel=0.35)


def changed(graph: FloatGraph, layer: onnx.NodeProto, change: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the outputs with other weights, the mean of the change taken by the bias."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    tensors = {item.name: item for item in model.graph.initializer}
    before = reference(graph.model, x, [layer.output[0]])[0]
    weight = numpy_helper.to_array(tensors[layer.input[1]]) + change
    tensors[layer.input[1]].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), layer.input[1]))
    shift = (before - reference(model, x, [layer.output[0]])[0]).mean(axis=(0, 2, 3))
    bias = numpy_helper.to_array(tensors[layer.input[2]]) + shift
    tensors[layer.input[2]].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), layer.input[2]))
    return reference(model, x, [graph.model.graph.output[0].name])[0].astype(np.float64)
