"""Run a model a few nodes at a time over all calibration inputs, so that layers can be changed on the way.

Repairing a network layer by layer on what the layers before it really compute would take one pass a layer.
Here each node runs once: the tensors that later nodes read are kept, all others are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.external import open_session

if TYPE_CHECKING:
    from calibration.ranges import Batch

Values = dict[str, NDArray[np.generic]]


class Stepper:
    """A model and how far it has been run.

    Memory: the tensors alive between two nodes, for all inputs.

    Args:
        model: its initializers may change for nodes that have not run yet.
        batches: what to feed, one mapping a batch.
    """

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Batch]) -> None:
        self._model = model
        self._lazy, self._nodes = _split_constant(model)
        self._position = 0
        self._last_reads = {name: i for i, node in enumerate(self._nodes) for name in node.input}
        self._last_reads.update({value.name: len(self._nodes) for value in model.graph.output})
        self._alive: list[Values] = [
            {name: np.asarray(value) for name, value in batch.items()} for batch in batches
        ]

    def before(self, node: str) -> list[Values]:
        """Run everything in front of a node and return the tensors alive there, one mapping a batch."""
        names = [item.name for item in self._nodes]
        self._advance(names.index(node))
        return self._alive

    def finish(self) -> list[Values]:
        """Run the rest and return the outputs."""
        self._advance(len(self._nodes))
        return self._alive

    def _advance(self, stop: int) -> None:
        segment = self._nodes[self._position : stop]
        self._position = stop
        if not segment:
            return
        computed = {name for node in segment for name in node.output if name}
        segment = self._with_constants(segment)
        wanted = sorted(name for name in computed if self._last_reads.get(name, -1) >= stop)
        session = self._session(segment, wanted)
        fed = [item.name for item in session.get_inputs()]
        for index, values in enumerate(self._alive):
            results = session.run(wanted, {name: values[name] for name in fed})
            kept = {name: value for name, value in values.items() if self._last_reads.get(name, -1) >= stop}
            self._alive[index] = {**kept, **dict(zip(wanted, results, strict=True))}

    def _with_constants(self, segment: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Put what is computed from constants alone in front: its constants may have changed since."""
        needed, extra = _reads(segment), []
        for node in reversed(self._lazy):
            if needed.intersection(node.output):
                extra.append(node)
                needed.update(node.input)
        return [*reversed(extra), *segment]

    def _session(self, segment: list[onnx.NodeProto], wanted: list[str]) -> ort.InferenceSession:
        read, computed = _reads(segment), {name for node in segment for name in node.output}
        constants = [item for item in self._model.graph.initializer if item.name in read]
        known = {item.name for item in constants} | computed
        inputs = [_value(name, self._alive[0][name]) for name in sorted(read - known)]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in wanted]
        graph = onnx.helper.make_graph(segment, "segment", inputs, outputs, constants)
        model = onnx.helper.make_model(graph, opset_imports=self._model.opset_import)
        model.ir_version = self._model.ir_version
        return open_session(model, session_options())


def _split_constant(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes that read nothing but constants, and the others."""
    constant = {item.name for item in model.graph.initializer} | {""}
    lazy, rest = [], []
    for node in model.graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
            lazy.append(node)
        else:
            rest.append(node)
    return lazy, rest


def _reads(nodes: list[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input if name}


def session_options() -> ort.SessionOptions:
    """Return options under which a QDQ model computes exactly what is written (see docs/quantization.md)."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _value(name: str, array: NDArray[np.generic]) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim)
