"""Small ONNX networks built by hand, and ways to spoil them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LAYERS = 6


def residual_net(batch: int | str = "batch", seed: int = 0) -> onnx.ModelProto:
    """Six 3×3 convolutions, each with a ReLU and every second one inside a residual, pooling, Gemm to 5."""
    rng = np.random.default_rng(seed)
    weights = {"w0": rng.standard_normal((8, 2, 3, 3)) * 0.3}
    nodes, last = [], "input"
    for layer in range(LAYERS):
        if layer:
            weights[f"w{layer}"] = rng.standard_normal((8, 8, 3, 3)) * 0.15
        weights[f"b{layer}"] = rng.standard_normal(8) * 0.1
        inputs = [last, f"w{layer}", f"b{layer}"]
        nodes.append(helper.make_node("Conv", inputs, [f"conv{layer}"], pads=[1, 1, 1, 1]))
        total = f"conv{layer}"
        if layer % 2:
            total = f"sum{layer}"
            nodes.append(helper.make_node("Add", [f"conv{layer}", last], [total]))
        nodes.append(helper.make_node("Relu", [total], [f"relu{layer}"]))
        last = f"relu{layer}"
    weights |= {"wf": rng.standard_normal((8, 5)), "bf": rng.standard_normal(5)}
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wf", "bf"], ["logits"]),
    ]
    return make_model(nodes, weights, {"input": [batch, 2, 9, 9]}, {"logits": [batch, 5]})


def make_model(nodes, weights, inputs, outputs, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def changed(model: onnx.ModelProto, tensor: str, change) -> onnx.ModelProto:
    """A copy whose initialiser is `change(values)`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for initialiser in copy.graph.initializer:
        if initialiser.name == tensor:
            values = change(numpy_helper.to_array(initialiser).copy())
            initialiser.CopyFrom(numpy_helper.from_array(values, tensor))
    return copy


def one_wrong(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Plant one wrong weight."""
    values.reshape(-1)[values.size // 2] += 3.0
    return values


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def images(count: int = 12, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {"input": rng.standard_normal((count, 2, 9, 9)).astype(np.float32)}


def quantized(model: onnx.ModelProto, scales: dict[str, float]) -> onnx.ModelProto:
    """A copy in which everything that reads one of these tensors reads it through u8 QDQ."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        node.input[:] = [f"{name}_dq" if name in scales else name for name in node.input]
    for name in set(scales) & {value.name for value in copy.graph.input}:
        nodes += _qdq(copy, name, scales[name])
    for node in copy.graph.node:
        nodes.append(node)
        for name in set(scales) & set(node.output):
            nodes += _qdq(copy, name, scales[name])
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _qdq(model: onnx.ModelProto, name: str, scale: float) -> list[onnx.NodeProto]:
    zero_point = 128 if name == "input" else 0
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(zero_point, np.uint8), f"{name}_zero"))
    shared = [f"{name}_scale", f"{name}_zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *shared], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", *shared], [f"{name}_dq"]),
    ]
