"""quantize: from anybody's float ONNX file and a few hundred inputs to an INT8 file for a device."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.best import quantize_best
from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import Batch, collect
from calibration.simulate import Outputs, output_distance, simulate
from calibration.summary import QuantizationSummary
from pipeline.datasets.model_inputs import Divided, ImageOptions, load_inputs
from pipeline.onnxmodel.file import describe, read_model
from pipeline.publish import fresh_folder
from targets.capability import QuantizationConvention, load_device
from targets.errors import CapabilityError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Order:
    """What is to be quantized, and for whom.

    Args:
        model: float ONNX file.
        data: folder of images, or .npz.
        device: a device file's name or path, or "this-machine".
        toolchain: None for the device's first.
        out: folder for the results; must not exist yet, or be empty.
        samples: most inputs to use.
        thorough: try repairs and keep what helps; without, ranges alone.
        ignore: nodes, operator types or regular expressions that stay in float.
        images: how image files become inputs.
    """

    model: Path
    data: Path
    device: str
    toolchain: str | None
    out: Path
    samples: int = 512
    thorough: bool = True
    ignore: tuple[str, ...] = ()
    images: ImageOptions = field(default_factory=ImageOptions)


@dataclass(frozen=True)
class Quality:
    """How close a quantized model is to its float model, on inputs used for nothing else.

    Args:
        inputs: how many.
        distance: as of `output_distance`: KL divergence in nats for classifiers.
        agreement: share of inputs with the same largest output; None where outputs are no scores [N, K].
    """

    inputs: int
    distance: float
    agreement: float | None


@dataclass(frozen=True)
class Quantized:
    """What was written.

    Args:
        out: the folder.
        device: name.
        toolchain: name.
        summary: what is INT8, and what is not and why.
        recipe: what was chosen of the repairs; None for ranges alone.
        quality: of the written model.
        float_bytes: of the float file.
        int8_bytes: of the written file.
    """

    out: Path
    device: str
    toolchain: str
    summary: QuantizationSummary
    recipe: dict[str, Any] | None
    quality: Quality
    float_bytes: int
    int8_bytes: int

    def document(self) -> dict[str, Any]:
        """As JSON, without the list of every tensor."""
        summary = self.summary.document()
        return {
            "out": str(self.out),
            "device": self.device,
            "toolchain": self.toolchain,
            "activations": self.summary.activations,
            "weight_bits": self.summary.weight_bits,
            "recipe": self.recipe,
            "quality": asdict(self.quality),
            "float_bytes": self.float_bytes,
            "int8_bytes": self.int8_bytes,
            "counts": summary["counts"],
            "kept_float": summary["kept_float"],
        }


def quantize_model(order: Order, progress: Progress) -> Quantized:
    """Quantize a model for a device's convention and measure what it costs.

    Artefacts in `order.out`: model.onnx (QDQ), float.onnx (the float model it was made from), summary.json.

    Raises:
        ConfigError, DataError, ModelError, CapabilityError: as they say; nothing is left behind.
    """
    device = load_device(order.device)
    toolchain = order.toolchain or next(iter(device.toolchains))
    convention = device.capability(toolchain).quantization
    if convention is None:
        raise CapabilityError(
            f"{toolchain} on {device.name} does not run INT8",
            where=f"--device {order.device}",
            mend="keep the float model there, or choose another device or toolchain",
        )
    specs = describe(read_model(order.model)).inputs
    with fresh_folder(order.out) as folder, tempfile.TemporaryDirectory() as scratch:
        inputs = load_inputs(order.data, specs, order.images, order.samples, Path(scratch), progress)
        summary, recipe = _write(order, inputs, convention, folder, progress)
        quality = _quality(order.model, folder / "model.onnx", inputs.kept, progress)
        found = Quantized(
            order.out,
            device.name,
            toolchain,
            summary,
            recipe,
            quality,
            float_bytes=order.model.stat().st_size,
            int8_bytes=(folder / "model.onnx").stat().st_size,
        )
        document = summary.document() | {"quality": asdict(quality), "recipe": recipe}
        text = json.dumps(document, indent=1) + "\n"
        (folder / "summary.json").write_text(text, encoding="utf-8")
    return found


def quantized_text(found: Quantized) -> str:
    """The result for people."""
    summary, quality = found.summary, found.quality
    lines = [
        f"INT8 for {found.device} with {found.toolchain}: {summary.activations} activations, "
        f"{summary.weight_bits}-bit weights",
        f"  {len(summary.layers)} layers in INT8, {found.float_bytes / 1e6:.2f} → "
        f"{found.int8_bytes / 1e6:.2f} MB",
        f"  {_closeness(quality)}, on {quality.inputs} inputs used for nothing else",
    ]
    if found.recipe:
        lines.append("  chosen: " + ", ".join(f"{key} {_said(value)}" for key, value in found.recipe.items()))
    lines += [f"  stays in float: {kept.op_type} {kept.node}: {kept.reason}" for kept in summary.kept_float]
    lines.append(f"wrote {found.out / 'model.onnx'}")
    return "\n".join(lines)


def _closeness(quality: Quality) -> str:
    if quality.agreement is None:
        return f"relative error power of the outputs {quality.distance:.2e}"
    return f"same answer as in float {100 * quality.agreement:.1f} %, KL divergence {quality.distance:.4f}"


def _said(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _write(
    order: Order, inputs: Divided, convention: QuantizationConvention, folder: Path, progress: Progress
) -> tuple[QuantizationSummary, dict[str, Any] | None]:
    out = folder / "model.onnx"
    if order.thorough:
        found = quantize_best(
            order.model,
            inputs.calibration,
            convention,
            out,
            folder / "float.onnx",
            order.ignore,
            progress,
        )
        return found.summary, asdict(found.best.recipe)
    total = inputs.calibration.inputs
    observed = collect(
        order.model, inputs.calibration, lambda seen: progress("observing ranges", seen, total)
    )
    return quantize(order.model, observed, convention, out, ignore=order.ignore), None


def _quality(model: Path, quantized: Path, kept: Sequence[Batch], progress: Progress) -> Quality:
    progress("comparing with float", 0, 2)
    reference = simulate(load(model).model, kept)
    progress("comparing with float", 1, 2)
    got = simulate(onnx.load(quantized), kept)
    inputs = sum(len(next(iter(batch.values()))) for batch in kept)
    return Quality(inputs, output_distance(reference, got), _agreement(reference, got))


def _agreement(reference: Outputs, got: Outputs) -> float | None:
    """Share of rows whose largest score is the same one; None unless there is one output [N, K]."""
    if len(reference) != 1:
        return None
    name, scores = next(iter(reference.items()))
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        return None
    return float(np.mean(scores.argmax(1) == got[name].argmax(1)))
