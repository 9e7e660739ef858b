"""Tiny ONNX models of one layer, several times over: what a cost table is measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.shapes import Kind, LayerShape

OPSET = 17
IR_VERSION = 8
OPERATORS: dict[Kind, str] = {
    "convolution": "Conv",
    "transposed convolution": "ConvTranspose",
    "linear": "Gemm",
}


@dataclass(frozen=True, order=True)
class LayerForm:
    """What a layer's cost depends on besides its widths.

    Args:
        kind: what it is.
        size: of its input, channels left out.
        kernel: sizes; empty for a linear layer, as are the next three.
        stride: of the kernel.
        dilation: of the kernel.
        padding: on either side of the input.
        groups: of a grouped convolution; 0 for a depthwise one.
        activation: ONNX operator behind it; "" for none or ReLU, which costs nothing.
    """

    kind: Kind
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    activation: str

    @property
    def name(self) -> str:
        """To be read: "convolution 3×3 stride 2 on 32×32, Relu"."""
        parts = [self.kind, "×".join(map(str, self.kernel))]
        parts += [f"stride {self.stride[0]}"] if any(step > 1 for step in self.stride) else []
        parts += [f"dilation {self.dilation[0]}"] if any(step > 1 for step in self.dilation) else []
        parts += {0: ["depthwise"], 1: []}.get(self.groups, [f"{self.groups} groups"])
        parts += [] if any(self.padding) or self.kernel in ((), (1,) * len(self.kernel)) else ["unpadded"]
        parts += ["on " + "×".join(map(str, self.size))] if self.size else []
        return " ".join(filter(None, parts)) + (f", {self.activation}" if self.activation else "")


def forms(layer: LayerShape) -> list[LayerForm]:
    """A layer's form, once for every time it runs."""
    return [
        LayerForm(
            layer.kind,
            one.size,
            layer.kernel,
            layer.stride,
            layer.dilation,
            layer.padding,
            layer.groups,
            one.activation,
        )
        for one in layer.passes
    ]


def layer_model(form: LayerForm, inputs: int, outputs: int, copies: int, name: str = "x") -> onnx.ModelProto:
    """A model that runs a layer `copies` times side by side on one input, each with weights of its own.

    A corner of every copy's output is joined and read by one more layer, of one output "y": each copy has to
    be computed, in INT8 where the model is quantized, and next to nothing else.

    Args:
        form: of the layer.
        inputs: its input channels.
        outputs: its output channels.
        copies: at least 1.
        name: of the input.
    """
    random = np.random.default_rng(0)
    nodes, ends = [], []
    constants: list[onnx.TensorProto] = []
    for copy in range(copies):
        made, weights = _copy(form, inputs, outputs, (name, str(copy)), random)
        nodes += made
        constants += weights
        ends.append(made[-1].output[0])
    nodes.append(helper.make_node("Concat", ends, ["joined"], "join", axis=1))
    nodes.append(
        helper.make_node("Gemm" if form.kind == "linear" else "Conv", ["joined", "read"], ["y"], "reader")
    )
    reads = random.normal(
        size=(copies * outputs, 1) if form.kind == "linear" else (1, copies * outputs, *[1] * len(form.size))
    )
    constants.append(numpy_helper.from_array(reads.astype(np.float32), "read"))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, input_shape(form, inputs))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(model)


def input_shape(form: LayerForm, inputs: int) -> tuple[int, ...]:
    """Shape of the model's input."""
    return (*(form.size or (1,)), inputs) if form.kind == "linear" else (1, inputs, *form.size)


def _copy(
    form: LayerForm, inputs: int, outputs: int, names: tuple[str, str], random: np.random.Generator
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and weights of a copy; `names` are the input's and the copy's."""
    x, name = names
    operator = OPERATORS[form.kind]
    groups = form.groups or outputs
    extent = [] if form.kind == "linear" else _extent(form)
    fan_in = inputs // groups * math.prod(form.kernel)
    first, second = (
        (inputs, outputs // groups) if operator == "ConvTranspose" else (outputs, inputs // groups)
    )
    weights = random.normal(0.0, (2.0 / fan_in) ** 0.5, (first, second, *form.kernel)).astype(np.float32)
    bias = random.normal(0.0, 0.1, outputs).astype(np.float32)
    constants = [numpy_helper.from_array(weights, f"w{name}"), numpy_helper.from_array(bias, f"b{name}")]
    nodes = [
        helper.make_node(
            operator, [x, f"w{name}", f"b{name}"], [f"h{name}"], f"layer{name}", **_attributes(form, groups)
        )
    ]
    nodes += _activation(form.activation, name)
    if form.kind != "linear":
        window: dict[str, Any] = {"kernel_shape": [min(2, side) for side in extent], "strides": extent}
        nodes.append(
            helper.make_node("MaxPool", [nodes[-1].output[0]], [f"p{name}"], f"pool{name}", **window)
        )
    return nodes, constants


def _extent(form: LayerForm) -> list[int]:
    """Size of a convolution's output."""
    sides = zip(form.size, form.kernel, form.stride, form.dilation, form.padding, strict=True)
    if form.kind == "transposed convolution":
        return [
            (size - 1) * step + dilation * (kernel - 1) + 1 - 2 * padding
            for size, kernel, step, dilation, padding in sides
        ]
    return [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // step + 1
        for size, kernel, step, dilation, padding in sides
    ]


def _attributes(form: LayerForm, groups: int) -> dict[str, Any]:
    if form.kind == "linear":
        return {"transB": 1}
    return {
        "kernel_shape": form.kernel,
        "strides": form.stride,
        "dilations": form.dilation,
        "pads": form.padding * 2,
        "group": groups,
    }


def _activation(operator: str, name: str) -> list[onnx.NodeProto]:
    """The nodes torch's exporter writes for an activation on "h…"."""
    before, after = f"h{name}", f"a{name}"
    if operator == "Silu":
        gate = helper.make_node("Sigmoid", [before], [f"g{name}"], f"gate{name}")
        return [gate, helper.make_node("Mul", [before, f"g{name}"], [after], f"act{name}")]
    return [helper.make_node(operator or "Relu", [before], [after], f"act{name}")]
