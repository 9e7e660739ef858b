"""Layers left in float, written in float16: TensorRT computes in the precision that the file names.

Weakly typed networks, where the builder chose, are gone from TensorRT 11; an explicit QDQ model has to carry
the precision of what is not INT8. Other runtimes read the same file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.graph import drop_unused_constants
from calibration.placement import ACTIVATIONS
from targets.errors import ModelError

LARGEST = float(np.finfo(np.float16).max)


def to_half(model: onnx.ModelProto, nodes: Iterable[str]) -> tuple[str, ...]:
    """Let nodes, and the Relu or Clip each of them alone feeds, compute in float16, in place.

    Casts stand where float16 meets the rest of the model; the model's inputs and outputs keep their types.

    Args:
        model: quantized or float.
        nodes: names of nodes whose operands are all float32.

    Returns:
        names of all nodes that compute in float16 now.

    Raises:
        ModelError: a weight is beyond float16's largest value.
    """
    writer = _Writer.open(model, set(nodes))
    for node in list(model.graph.node):
        writer.take(node)
    del model.graph.node[:]
    model.graph.node.extend(writer.nodes)
    drop_unused_constants(model)
    return tuple(writer.converted)


@dataclass
class _Writer:
    """Copies the nodes of a model, some of them in float16."""

    model: onnx.ModelProto
    wanted: set[str]
    constants: dict[str, onnx.TensorProto]
    readers: dict[str, list[onnx.NodeProto]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    halves: dict[str, str] = field(default_factory=dict)
    converted: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, model: onnx.ModelProto, wanted: set[str]) -> _Writer:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        writer = cls(model, wanted, {item.name: item for item in model.graph.initializer}, readers)
        outputs = {value.name for value in model.graph.output}
        for node in model.graph.node:
            follows = readers.get(node.output[0], [])
            if node.name in wanted and len(follows) == 1 and node.output[0] not in outputs:
                writer.wanted |= {item.name for item in follows if item.op_type in ACTIVATIONS}
        return writer

    def take(self, node: onnx.NodeProto) -> None:
        """Copy a node, between casts if it is one of those wanted."""
        if node.name not in self.wanted:
            self.nodes.append(node)
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            copy.input[index] = self.half(name) if name else ""
        result = node.output[0]
        self.halves[result] = copy.output[0] = f"{result}/float16"
        self.nodes.append(copy)
        self.converted.append(node.name)
        outside = [reader for reader in self.readers.get(result, []) if reader.name not in self.wanted]
        if outside or result in {value.name for value in self.model.graph.output}:
            self.cast(copy.output[0], result, TensorProto.FLOAT)

    def half(self, name: str) -> str:
        """Return the float16 twin of a tensor, made on the first call."""
        if name not in self.halves:
            self.halves[name] = f"{name}/float16"
            if name in self.constants:
                self.convert(name)
            else:
                self.cast(name, self.halves[name], TensorProto.FLOAT16)
        return self.halves[name]

    def convert(self, name: str) -> None:
        value = numpy_helper.to_array(self.constants[name])
        finite = value[np.isfinite(value)]
        if finite.size and float(np.abs(finite).max()) > LARGEST:
            raise ModelError(
                f"constant {name!r} holds values beyond float16's {LARGEST:g}",
                where=name,
                mend="leave this layer in float32: write the model without float16",
            )
        self.model.graph.initializer.append(
            numpy_helper.from_array(value.astype(np.float16), self.halves[name])
        )

    def cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], f"{target}/cast", to=kind))
