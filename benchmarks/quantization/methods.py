"""The ways to quantize that are compared: ours, ONNX Runtime's own and NNCF's.

Every method imports what it needs itself: peers may live in an interpreter of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.images import Batches, calibration_batches
from benchmarks.quantization.networks import Network, float_model

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

Array = NDArray[np.float32]
BATCH = 4


@dataclass(frozen=True)
class Task:
    """What a method is to quantize.

    Args:
        network: of `NETWORKS`; its model and images lie in the cache.
        cache: folder.
        convention: "u8", asymmetric activations, or "s8", int8 symmetric (NNCF: its symmetric preset).
        weight_bits: 8, or 7 for CPUs without VNNI.
        name: of the files to write, without suffix.
    """

    network: Network
    cache: Path
    convention: str
    weight_bits: Literal[7, 8]
    name: Path

    @property
    def model(self) -> Path:
        """The float model."""
        return float_model(self.network, self.cache)

    def file(self, suffix: str) -> Path:
        """A file to write."""
        return self.name.with_name(self.name.name + suffix)

    def batches(self, size: int = BATCH) -> Batches:
        """The calibration images."""
        return calibration_batches(self.network, self.cache, size)


@dataclass(frozen=True)
class Made:
    """The file a method wrote, and details for the record."""

    path: Path
    details: dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A way to quantize.

    Args:
        name: as the table has it.
        run: does it.
        peer: whether it runs in the peers' interpreter.
    """

    name: str
    run: Callable[[Task], Made]
    peer: bool = False


def convention(task: Task) -> QuantizationConvention:
    """Return the convention as our library wants it."""
    from targets.capability import QuantizationConvention

    symmetric = task.convention == "s8"
    return QuantizationConvention(
        activations="int8-symmetric" if symmetric else "uint8-asymmetric",
        weight_bits=task.weight_bits,
        quantize_residual_inputs=symmetric,
    )


def _plain(task: Task) -> Made:
    from calibration.qdq import quantize
    from calibration.ranges import collect

    out = task.file(".onnx")
    quantize(task.model, collect(task.model, task.batches()), convention(task), out)
    return Made(out, {})


def _best(task: Task) -> Made:
    from calibration.best import quantize_best

    out = task.file(".onnx")
    found = quantize_best(task.model, task.batches(), convention(task), out, task.file(".float.onnx"))
    trials = [
        {"recipe": str(trial.recipe), "distance": trial.distance, "kept": trial.kept}
        for trial in found.trials
    ]
    return Made(out, {"recipe": str(found.best.recipe), "trials": trials})


def _onnxruntime(method: str) -> Callable[[Task], Made]:
    def run(task: Task) -> Made:
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
                self.rest: Iterator[dict[str, Array]] = iter(task.batches())

            def get_next(self) -> dict[str, Array] | None:
                return next(self.rest, None)

        out, prepared = task.file(".onnx"), task.file(".prepared.onnx")
        quant_pre_process(str(task.model), str(prepared))
        symmetric = task.convention == "s8"
        quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=task.weight_bits == 7,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )
        prepared.unlink()
        return Made(out, {})

    return run


def _nncf(fast: bool) -> Callable[[Task], Made]:
    def run(task: Task) -> Made:
        import nncf
        import openvino

        # Through core.read_model its bias correction would silently do nothing.
        model = openvino.convert_model(str(task.model))
        images = task.batches(1)
        presets = nncf.QuantizationPreset
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images, lambda batch: batch["input"]),
            preset=presets.PERFORMANCE if task.convention == "s8" else presets.MIXED,
            subset_size=len(images),
            fast_bias_correction=fast,
        )
        out = task.file(".xml")
        openvino.save_model(quantized, str(out), compress_to_fp16=False)
        return Made(out, {"version": nncf.__version__})

    return run


METHODS = {
    method.name: method
    for method in (
        Method("onnxruntime min-max", _onnxruntime("MinMax")),
        Method("onnxruntime percentile", _onnxruntime("Percentile")),
        Method("nncf fast", _nncf(True), peer=True),
        Method("nncf accurate", _nncf(False), peer=True),
        Method("edgewright plain", _plain),
        Method("edgewright best", _best),
    )
}
