"""What quantization did to a model, for the record and for gates; every value is JSON-able."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from calibration.placement import KeptFloat

SUMMARY_SCHEMA = "edgewright.quantization/1"


@dataclass(frozen=True)
class QuantizedTensor:
    """An activation tensor with a Q/DQ pair.

    Args:
        scale: real units a step.
        zero_point: stored value of real 0.
        dequantized: name of the tensor after the pair, in the quantized model.
    """

    scale: float
    zero_point: int
    dequantized: str


@dataclass(frozen=True)
class QuantizedLayer:
    """A node with INT8 weights.

    Args:
        node: its name.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        weight: name of the float weights.
        channels: number of output channels, each with its own scale.
        weight_sqnr_db: signal to quantization noise of the weights; None when they are exact.
        bias: "int32", "float32" or "none".
    """

    node: str
    op_type: str
    weight: str
    channels: int
    weight_sqnr_db: float | None
    bias: str


@dataclass(frozen=True)
class QuantizationSummary:
    """What was quantized, how, and what was not.

    Args:
        activations: "int8-symmetric" or "uint8-asymmetric".
        weight_bits: 8 or 7.
        quantize_residual_inputs: whether both inputs of an Add are quantized.
        method: how ranges were chosen.
        samples: calibration inputs.
        inputs_sha256: digest of the calibration inputs.
        opset: of the quantized model.
        tensors: float tensor name → its quantizer and dequantized twin.
        layers: in graph order.
        kept_float: nodes that stay in float, and why.
    """

    activations: str
    weight_bits: int
    quantize_residual_inputs: bool
    method: str
    samples: int
    inputs_sha256: str
    opset: int
    tensors: dict[str, QuantizedTensor]
    layers: tuple[QuantizedLayer, ...]
    kept_float: tuple[KeptFloat, ...]

    @property
    def dequantized(self) -> dict[str, str]:
        """Float tensor name → name of its dequantized twin, to compare the two models layer by layer."""
        return {name: tensor.dequantized for name, tensor in self.tensors.items()}

    def document(self) -> dict[str, Any]:
        """Return the summary as a JSON document of schema `SUMMARY_SCHEMA`, with counts."""
        counts = {
            "quantized_layers": len(self.layers),
            "quantized_tensors": len(self.tensors),
            "float_nodes": len(self.kept_float),
        }
        return {"schema": SUMMARY_SCHEMA, **asdict(self), "counts": counts}
