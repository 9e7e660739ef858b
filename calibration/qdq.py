"""Write a quantized model: explicit Q/DQ in plain ONNX, the form every runtime reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.external import check, write
from calibration.graph import FloatGraph, attribute, drop_unused_constants, output_axis
from calibration.load import load
from calibration.observations import Observations
from calibration.placement import Layer, Placement, place
from calibration.ranges import Affine, Method, choose_one
from calibration.summary import QuantizationSummary, QuantizedLayer, QuantizedTensor
from calibration.weights import least_weight_scale, quantize_bias, quantize_weight
from targets.errors import DataError, ModelError

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention


def quantize(
    model: Path,
    observations: Observations,
    convention: QuantizationConvention,
    out: Path,
    method: Method = "mse",
    ignore: Iterable[str] = (),
    percentile: float = 99.99,
) -> QuantizationSummary:
    """Write an explicit QDQ model. The same arguments give the same bytes; nothing is written on an error.

    Tensors of the float model keep their names; the summary maps each quantized one to its dequantized twin.

    Args:
        model: float ONNX file that was calibrated.
        observations: from `ranges.collect` on this file.
        convention: of the target's capability.
        out: where the quantized ONNX file goes.
        method: how ranges are chosen, see `ranges.choose`.
        ignore: node names, operator types or regular expressions over whole node names; they stay float.
        percentile: of method "percentile".

    Raises:
        ModelError: the model cannot be read, is quantized already, or nothing in it can be quantized.
        DataError: the observations were made with another model.
        ConfigError: an ignore rule fits nothing; no such method.
    """
    graph = _load_calibrated(model, observations)
    placement = place(graph, convention.quantize_residual_inputs, ignore)
    _refuse_nothing(placement, model)
    scales = _scales(placement, observations, convention, method, percentile)
    writer = _Writer(graph, placement, convention, scales)
    writer.rewrite()
    check(graph.model)
    write(graph.model, out)
    return QuantizationSummary(
        activations=convention.activations,
        weight_bits=convention.weight_bits,
        quantize_residual_inputs=convention.quantize_residual_inputs,
        method=method if method != "percentile" else f"percentile {percentile:g}",
        samples=observations.samples,
        inputs_sha256=observations.inputs_sha256,
        opset=next(item.version for item in graph.model.opset_import if item.domain in ("", "ai.onnx")),
        tensors=writer.tensors,
        layers=tuple(writer.layers),
        kept_float=placement.kept_float,
    )


def _load_calibrated(model: Path, observations: Observations) -> FloatGraph:
    graph = load(model)
    if observations.model_sha256 != graph.sha256:
        raise DataError(
            "the observations were made with another model", where=str(model), mend="calibrate this model"
        )
    return graph


def _refuse_nothing(placement: Placement, model: Path) -> None:
    if not placement.layers:
        reasons = "; ".join(f"{item.node}: {item.reason}" for item in placement.kept_float[:5])
        raise ModelError(
            f"no layer of this model can be quantized ({reasons})",
            where=str(model),
            mend="give a model with Conv, Gemm or MatMul, or ignore less",
        )


def _scales(
    placement: Placement,
    observations: Observations,
    convention: QuantizationConvention,
    method: Method,
    percentile: float,
) -> dict[str, Affine]:
    """Choose one quantizer a group, from the values that enter it, for all its tensors."""
    scales = {}
    for group, sources in placement.groups.items():
        importance = observations.importance_of(sources)
        chosen = choose_one(observations.of(sources), method, convention, percentile, importance)
        scales.update(dict.fromkeys(group, chosen))
    return scales


@dataclass
class _Writer:
    """Rewrites the nodes of a graph in place, in order."""

    graph: FloatGraph
    placement: Placement
    convention: QuantizationConvention
    scales: dict[str, Affine]
    tensors: dict[str, QuantizedTensor] = field(default_factory=dict)
    layers: list[QuantizedLayer] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    written: dict[tuple[str, int, bytes], str] = field(default_factory=dict)

    @property
    def symmetric(self) -> bool:
        return self.convention.activations == "int8-symmetric"

    def rewrite(self) -> None:
        layers = {layer.node.output[0]: layer for layer in self.placement.layers}
        for value in self.graph.inputs:
            self.pair(value.name)
        for node in self.graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, name in enumerate(node.input):
                if (node.output[0], index) in self.placement.reads:
                    copy.input[index] = self.tensors[name].dequantized
            if node.output[0] in layers:
                self.layer(layers[node.output[0]], copy)
            self.nodes.append(copy)
            for name in node.output:
                self.pair(name)
        body = self.graph.model.graph
        del body.node[:]
        body.node.extend(self.nodes)
        drop_unused_constants(self.graph.model)

    def pair(self, name: str) -> None:
        """Add QuantizeLinear and DequantizeLinear of a tensor, if it gets them."""
        if name not in self.scales:
            return
        scale, zero_point = self.scales[name]
        kind = np.int8 if self.symmetric else np.uint8
        parameters = [
            self.constant(f"{name}_scale", np.array(scale, np.float32)),
            self.constant(f"{name}_zero_point", np.array(zero_point, kind)),
        ]
        quantized = self.graph.fresh(f"{name}_quantized")
        self.node("QuantizeLinear", [name, *parameters], quantized)
        dequantized = self.graph.fresh(f"{name}_dequantized")
        self.node("DequantizeLinear", [quantized, *parameters], dequantized)
        self.tensors[name] = QuantizedTensor(scale, zero_point, dequantized)

    def layer(self, layer: Layer, copy: onnx.NodeProto) -> None:
        """Quantize the weights of a layer, and its bias where the convention wants that."""
        name, axis = layer.node.input[1], output_axis(layer.node)
        weight = numpy_helper.to_array(self.graph.constants[name])
        source_scale = self.scales[layer.source].scale
        bias = self.integer_bias(layer.node, weight.shape[axis])
        least = 0.0 if bias is None else least_weight_scale(bias, source_scale)
        quantized = quantize_weight(weight, axis, self.convention.weight_bits, least)
        copy.input[1] = self.dequantize(name, quantized.values, quantized.scale, axis)
        kind = "float32" if self.graph.bias(layer.node) else "none"
        if bias is not None:
            copy.input[2] = self.dequantize(
                copy.input[2], *quantize_bias(bias, source_scale, quantized.scale), 0
            )
            kind = "int32"
        self.layers.append(
            QuantizedLayer(copy.name, copy.op_type, name, len(quantized.scale), quantized.sqnr_db, kind)
        )

    def integer_bias(self, layer: onnx.NodeProto, channels: int) -> NDArray[np.float32] | None:
        """Return the bias to be written as INT32, or None: TensorRT takes float biases alone."""
        bias = self.graph.constant(self.graph.bias(layer))
        plain = attribute(layer, "alpha", 1.0) == 1.0 == attribute(layer, "beta", 1.0)
        if self.symmetric or bias is None or bias.shape != (channels,) or not plain:
            return None
        return np.asarray(bias, np.float32)

    def dequantize(
        self, name: str, values: NDArray[np.generic], scale: NDArray[np.float32], axis: int
    ) -> str:
        """Add the DequantizeLinear of a constant once, however many layers share it; return its output."""
        key = (name, axis, scale.tobytes())
        if key not in self.written:
            parameters = [
                self.constant(f"{name}_quantized", values),
                self.constant(f"{name}_scale", scale),
                self.constant(f"{name}_zero_point", np.zeros(len(scale), values.dtype)),
            ]
            self.written[key] = self.graph.fresh(f"{name}_dequantized")
            self.node("DequantizeLinear", parameters, self.written[key], axis=axis)
        return self.written[key]

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        name = self.graph.fresh(name)
        tensor = numpy_helper.from_array(value, name)
        self.graph.model.graph.initializer.append(tensor)
        self.graph.constants[name] = tensor
        return name

    def node(self, kind: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        # make_node leaves out an attribute that is None: per-tensor scales have no axis.
        node = onnx.helper.make_node(kind, inputs, [output], f"{output}/{kind}", axis=axis)
        self.graph.producers[output] = node
        self.nodes.append(node)
