"""Small ONNX models in the forms real networks have, for the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 19


class Graph:
    """A model being written: operators return the name of what they compute."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.random = np.random.default_rng(seed)

    def constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        return self.constant(self.random.standard_normal(shape) / np.sqrt(fan_in))

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        output = output or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"node {output}", **attributes))
        return output

    def quantize(self, tensor: str, scale: float, zero: int, dtype: type[np.generic]) -> str:
        """QuantizeLinear then DequantizeLinear, per tensor."""
        scale_name, zero_name = self.constant(scale), self.constant(zero, dtype)
        quantized = self.op("QuantizeLinear", tensor, scale_name, zero_name)
        return self.op("DequantizeLinear", quantized, scale_name, zero_name)

    def stored(self, values: NDArray[np.float32], dtype: type[np.generic], scale: NDArray[np.float32]) -> str:
        """An integer constant with one scale per first axis, dequantized."""
        broad = scale.reshape(-1, *[1] * (values.ndim - 1))
        integers = self.constant(np.round(values / broad), dtype)
        zeros = self.constant(np.zeros(len(scale)), dtype)
        return self.op("DequantizeLinear", integers, self.constant(scale), zeros, axis=0)

    def model(
        self,
        inputs: dict[str, list[int | str]],
        outputs: dict[str, list[int | str] | None],
        opset: int = OPSET,
    ) -> onnx.ModelProto:
        def declare(name: str, shape: list[int | str] | None) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            "graph",
            [declare(*item) for item in inputs.items()],
            [declare(*item) for item in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


@dataclass(frozen=True)
class Case:
    """A model, its precision, the shapes to run it with, and how far a runtime may be off."""

    model: onnx.ModelProto
    shapes: dict[str, tuple[int, ...]]
    precision: str = "fp32"
    atol: float = 1e-4

    def inputs(self, seed: int = 0) -> dict[str, NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        return {name: random.standard_normal(shape).astype(np.float32) for name, shape in self.shapes.items()}


def conv_relu(opset: int = OPSET, batch: int | str = 1) -> onnx.ModelProto:
    graph = Graph()
    conv = graph.op("Conv", "x", graph.weight(16, 3, 3, 3), graph.weight(16), pads=[1] * 4)
    graph.op("Relu", conv, output="y")
    return graph.model({"x": [batch, 3, 12, 12]}, {"y": [batch, 16, 12, 12]}, opset)


def residual() -> onnx.ModelProto:
    graph = Graph()
    first = graph.op("Relu", graph.op("Conv", "x", graph.weight(8, 8, 3, 3), pads=[1] * 4))
    second = graph.op("Conv", first, graph.weight(8, 8, 3, 3), pads=[1] * 4)
    graph.op("Relu", graph.op("Add", second, "x"), output="y")
    return graph.model({"x": [2, 8, 10, 10]}, {"y": [2, 8, 10, 10]})


def depthwise() -> onnx.ModelProto:
    graph = Graph()
    deep = graph.op("Conv", "x", graph.weight(24, 1, 3, 3), graph.weight(24), group=24, strides=[2, 2])
    graph.op("Clip", deep, graph.constant(0), graph.constant(6), output="y")
    return graph.model({"x": [1, 24, 15, 15]}, {"y": [1, 24, 7, 7]})


def classifier() -> onnx.ModelProto:
    graph = Graph()
    pooled = graph.op("Flatten", graph.op("GlobalAveragePool", "image"))
    scores = graph.op("Gemm", pooled, graph.weight(5, 6), graph.weight(5), transB=1)
    graph.op("Softmax", scores, output="probability", axis=1)
    return graph.model({"image": [3, 6, 4, 4]}, {"probability": [3, 5]})


def two_by_two() -> onnx.ModelProto:
    """Two inputs and two outputs, one of them feeding the other, declared against the order computed."""
    graph = Graph()
    left = graph.op("Conv", "left", graph.weight(4, 2, 1, 1))
    graph.op("Mul", left, "right", output="product")
    graph.op("Sigmoid", "product", output="gate")
    return graph.model(
        {"right": [1, 4, 6, 6], "left": [1, 2, 6, 6]}, {"gate": [1, 4, 6, 6], "product": [1, 4, 6, 6]}
    )


def quantized(dtype: type[np.generic], residual_inputs: bool) -> onnx.ModelProto:
    """A residual block in explicit QDQ, 7-bit weights per channel, as calibration writes it.

    Unsigned: asymmetric activations and INT32 biases. Signed: symmetric activations and float biases.
    """
    graph, signed = Graph(), dtype is np.int8
    zero, scale = (0, 3 / 127) if signed else (128, 6 / 255)

    def layer(x: str, scale: float) -> str:
        values = graph.random.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12
        bias = graph.random.standard_normal(16).astype(np.float32) / 4
        weight_scale = np.abs(values).max((1, 2, 3)) / 63
        weight = graph.stored(values, np.int8, weight_scale)
        stored = graph.constant(bias) if signed else graph.stored(bias, np.int32, weight_scale * scale)
        return graph.op("Conv", x, weight, stored, pads=[1] * 4)

    x = graph.quantize("x", scale, zero, dtype)
    relu = graph.op("Relu", layer(x, scale))
    hidden_scale = scale if signed else scale / 2
    second = layer(graph.quantize(relu, hidden_scale, 0, dtype), hidden_scale)
    if residual_inputs:
        second = graph.quantize(second, scale, zero, dtype)
    added = graph.op("Relu", graph.op("Add", second, x))
    graph.op("Identity", graph.quantize(added, scale, zero, dtype), output="y")
    return graph.model({"x": [1, 16, 8, 8]}, {"y": [1, 16, 8, 8]})


def all_positive() -> onnx.ModelProto:
    """Sums as large as 7-bit weights can make them: 8-bit weights saturate here on CPUs without VNNI."""
    graph = Graph()
    values = graph.random.uniform(0.5, 1, (16, 16, 3, 3)).astype(np.float32)
    weight = graph.stored(values, np.int8, values.max((1, 2, 3)) / 63)
    conv = graph.op("Conv", graph.quantize("x", 6 / 255, 0, np.uint8), weight, pads=[1] * 4)
    graph.op("Identity", graph.quantize(conv, 3.0, 0, np.uint8), output="y")
    return graph.model({"x": [1, 16, 8, 8]}, {"y": [1, 16, 8, 8]})


def custom_operator() -> onnx.ModelProto:
    """A valid file with an operator that no runtime has."""
    graph = Graph()
    graph.op("Frobnicate", graph.op("Relu", "x"), output="y")
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )


# What one step of a quantized output is worth: a runtime may round a tie to the other side.
STEP = 6 / 255

CASES = {
    "conv relu": Case(conv_relu(), {"x": (1, 3, 12, 12)}),
    "residual": Case(residual(), {"x": (2, 8, 10, 10)}),
    "depthwise": Case(depthwise(), {"x": (1, 24, 15, 15)}),
    "classifier": Case(classifier(), {"image": (3, 6, 4, 4)}),
    "two by two": Case(two_by_two(), {"right": (1, 4, 6, 6), "left": (1, 2, 6, 6)}),
    "dynamic batch": Case(conv_relu(batch="N"), {"x": (5, 3, 12, 12)}),
    "int8 unsigned": Case(quantized(np.uint8, True), {"x": (1, 16, 8, 8)}, "int8", 2.01 * STEP),
    "int8 unsigned, float residual": Case(
        quantized(np.uint8, False), {"x": (1, 16, 8, 8)}, "int8", 2.01 * STEP
    ),
    "int8 signed": Case(quantized(np.int8, True), {"x": (1, 16, 8, 8)}, "int8", 2.01 * STEP),
}
