"""The backward nodes of a network as they are written, and the gradient of each tensor so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Tape:
    """A backward pass under way.

    Args:
        model: the forward pass, all shapes fixed.
        gradients: tensor → the tensor with its gradient so far.
        nodes: written so far.
        constants: they read.
        shapes: of all tensors.
        fixed: tensors that are constant and have no gradient.
    """

    model: onnx.ModelProto
    gradients: dict[str, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(init=False)
    fixed: set[str] = field(init=False)

    def __post_init__(self) -> None:
        body = self.model.graph
        self.fixed = {item.name for item in body.initializer}
        self.shapes = {item.name: tuple(item.dims) for item in body.initializer}
        for value in (*body.input, *body.value_info, *body.output):
            self.shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)

    def add(self, tensor: str, gradient: str) -> None:
        """Add to a tensor's gradient; constants have none."""
        if tensor in self.fixed:
            return
        before = self.gradients.get(tensor)
        self.gradients[tensor] = gradient if before is None else self.op("Add", before, gradient)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Write a node and return its first output; the others end in _1, _2, …"""
        names = [f"gradient_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"gradient_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def mask(self, *conditions: str) -> str:
        """Return 1 where one or two conditions hold and 0 elsewhere, as float."""
        joined = conditions[0] if len(conditions) == 1 else self.op("And", *conditions)
        return self.op("Cast", joined, to=TensorProto.FLOAT)

    def reduced(self, gradient: str, have: tuple[int, ...], want: tuple[int, ...]) -> str:
        """Sum a gradient over the axes along which a tensor was broadcast."""
        lead = len(have) - len(want)
        axes = [i for i, size in enumerate(have) if i < lead or want[i - lead] != size]
        if not axes:
            return gradient
        summed = self.op("ReduceSum", gradient, self.constant(axes, np.int64), keepdims=1)
        return self.op("Reshape", summed, self.constant(want, np.int64))
