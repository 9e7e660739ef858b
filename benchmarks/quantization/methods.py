"""The ways to quantize that are compared: ours and ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.best import quantize_best
from calibration.qdq import quantize
from calibration.ranges import collect
from targets.capability import QuantizationConvention

Array = NDArray[np.float32]
BATCH = 4
CONVENTIONS = {
    "u8": QuantizationConvention(
        activations="uint8-asymmetric", weight_bits=8, quantize_residual_inputs=False
    ),
    "s8": QuantizationConvention(activations="int8-symmetric", weight_bits=8, quantize_residual_inputs=True),
}


@dataclass(frozen=True)
class Method:
    """A way to quantize.

    Args:
        name: as the table has it.
        run: float model, calibration images, "u8" or "s8", file to write → details for the record.
    """

    name: str
    run: Callable[[Path, Array, str, Path], dict[str, Any]]


def batches(images: Array) -> list[dict[str, Array]]:
    """Cut images into batches as calibration wants them."""
    starts = range(0, len(images), BATCH)
    return [{"input": np.ascontiguousarray(images[start : start + BATCH])} for start in starts]


def _plain(model: Path, images: Array, convention: str, out: Path) -> dict[str, Any]:
    quantize(model, collect(model, batches(images)), CONVENTIONS[convention], out)
    return {}


def _best(model: Path, images: Array, convention: str, out: Path) -> dict[str, Any]:
    found = quantize_best(
        model, batches(images), CONVENTIONS[convention], out, out.with_suffix(".float.onnx")
    )
    trials = [{"recipe": str(trial.recipe), "distance": trial.distance} for trial in found.trials]
    return {"recipe": str(found.best.recipe), "trials": trials}


def _onnxruntime(method: str) -> Callable[[Path, Array, str, Path], dict[str, Any]]:
    def run(model: Path, images: Array, convention: str, out: Path) -> dict[str, Any]:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
            def __init__(self) -> None:
                self.rest: Iterator[dict[str, Array]] = iter(batches(images))

            def get_next(self) -> dict[str, Array] | None:
                return next(self.rest, None)

        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(model), str(prepared))
        symmetric = convention == "s8"
        quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )
        prepared.unlink()
        return {}

    return run


METHODS = {
    method.name: method
    for method in (
        Method("onnxruntime min-max", _onnxruntime("MinMax")),
        Method("onnxruntime percentile", _onnxruntime("Percentile")),
        Method("edgewright plain", _plain),
        Method("edgewright best", _best),
    )
}
