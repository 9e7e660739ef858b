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

from calibration.aware import quantize_within
from calibration.best import quantize_best
from calibration.budgets import Budget, LargestDrop
from calibration.load import load
from calibration.mix import Base, Mixed, check_budget, quantize_mixed
from calibration.qdq import quantize
from calibration.ranges import Batch, collect
from calibration.simulate import Outputs, output_distance, simulate
from calibration.summary import QuantizationSummary
from pipeline.datasets.model_inputs import Divided, ImageOptions, load_inputs
from pipeline.onnxmodel.file import describe, read_model
from pipeline.publish import fresh_folder
from pipeline.stages.mix import budget_for, kept_layers
from pipeline.stages.quantize import searched
from targets.capability import QuantizationConvention, load_device
from targets.errors import CapabilityError
from targets.toolchain import EngineOptions, load_toolchain

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
        budget: for weights of 2 to 8 bits: a key of [quantize.mixed] and its value; None for INT8 throughout.
        threads: of one inference, for a budget of milliseconds.
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
    budget: tuple[str, float] | None = None
    threads: int = 1
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
        search: which layers went back to float to keep a stated drop, and what was tried.
        quality: of the INT8 model.
        mixed: the model with fewer bits, where a budget was given, and its quality.
        float_bytes: of the float file.
        int8_bytes: of the INT8 file.
    """

    out: Path
    device: str
    toolchain: str
    summary: QuantizationSummary
    recipe: dict[str, Any] | None
    search: dict[str, Any] | None
    quality: Quality
    mixed: tuple[Mixed, Quality] | None
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
            "search": self.search,
            "quality": asdict(self.quality),
            "mixed": _mixed_document(*self.mixed) if self.mixed else None,
            "float_bytes": self.float_bytes,
            "int8_bytes": self.int8_bytes,
            "counts": summary["counts"],
            "kept_float": summary["kept_float"],
        }


def quantize_model(order: Order, progress: Progress) -> Quantized:
    """Quantize a model for a device's convention and measure what it costs.

    Artefacts in `order.out`: model.onnx (QDQ), float.onnx (the float model it was made from), summary.json.
    With a budget also int8.onnx (8 bits throughout), bits.json (the plan) and model.packed.

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
    budget = None
    if order.budget:
        budget = budget_for(
            *order.budget,
            lambda: load_toolchain(toolchain),
            device.name,
            EngineOptions("int8", order.threads),
        )
        check_budget(budget)
    specs = describe(read_model(order.model)).inputs
    with fresh_folder(order.out) as folder, tempfile.TemporaryDirectory() as scratch:
        inputs = load_inputs(order.data, specs, order.images, order.samples, Path(scratch), progress)
        int8 = folder / ("int8.onnx" if order.budget else "model.onnx")
        summary, recipe, search = _write(order, inputs, convention, int8, folder / "float.onnx", progress)
        models = [int8]
        made = None
        if budget:
            made = _mix(order, inputs, convention, budget, summary, folder, progress)
            models.append(made.model)
        progress("comparing with float", 0, 1)
        qualities = _qualities(order.model, models, inputs.kept)
        found = Quantized(
            order.out,
            device.name,
            toolchain,
            summary,
            recipe,
            search,
            qualities[0],
            (made, qualities[-1]) if made else None,
            float_bytes=order.model.stat().st_size,
            int8_bytes=int8.stat().st_size,
        )
        text = json.dumps(summary.document() | found.document(), indent=1) + "\n"
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
    if found.mixed:
        lines += _mixed_lines(*found.mixed)
    if found.recipe:
        lines.append("  chosen: " + ", ".join(f"{key} {_said(value)}" for key, value in found.recipe.items()))
    if found.search and found.search["lifted"]:
        lines.append("  back to float, to keep the drop: " + ", ".join(found.search["lifted"]))
    lines += [f"  stays in float: {kept.op_type} {kept.node}: {kept.reason}" for kept in summary.kept_float]
    lines.append(f"wrote {found.out / 'model.onnx'}")
    return "\n".join(lines)


def _mixed_lines(made: Mixed, quality: Quality) -> list[str]:
    return [
        f"{made.plan.average_bits:.2f} bits a weight on average ({made.budget}, by {made.plan.sensitivity})",
        f"  packed {made.sizes.packed_bytes / 1e6:.2f} MB",
        f"  {_closeness(quality)}, on the same inputs",
    ] + [f"  {form.node}: {form.form}, {form.reason}" for form in made.forms if form.form != "container"]


def _mixed_document(made: Mixed, quality: Quality) -> dict[str, Any]:
    return made.document() | {"quality": asdict(quality)}


def _closeness(quality: Quality) -> str:
    if quality.agreement is None:
        return f"relative error power of the outputs {quality.distance:.2e}"
    return f"same answer as in float {100 * quality.agreement:.1f} %, KL divergence {quality.distance:.4f}"


def _said(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _write(
    order: Order,
    inputs: Divided,
    convention: QuantizationConvention,
    out: Path,
    twin: Path,
    progress: Progress,
) -> tuple[QuantizationSummary, dict[str, Any] | None, dict[str, Any] | None]:
    """Write the INT8 model and its float twin; return summary, repairs chosen, and the search for a drop."""
    if order.budget and order.budget[0] == "max_drop":
        within = quantize_within(
            order.model,
            inputs.calibration,
            convention,
            out,
            twin,
            LargestDrop(order.budget[1]),
            thorough=order.thorough,
            ignore=order.ignore,
            progress=progress,
        )
        recipe = asdict(within.best.best.recipe) if within.best else None
        return within.summary, recipe, searched(within)
    if order.thorough:
        found = quantize_best(order.model, inputs.calibration, convention, out, twin, order.ignore, progress)
        return found.summary, asdict(found.best.recipe), None
    total = inputs.calibration.inputs
    observed = collect(
        order.model, inputs.calibration, lambda seen: progress("observing ranges", seen, total)
    )
    return quantize(order.model, observed, convention, out, ignore=order.ignore), None, None


def _mix(
    order: Order,
    inputs: Divided,
    convention: QuantizationConvention,
    budget: Budget,
    summary: QuantizationSummary,
    folder: Path,
    progress: Progress,
) -> Mixed:
    written = folder / "float.onnx"
    twin = written if written.exists() else order.model
    return quantize_mixed(
        order.model,
        inputs.calibration,
        convention,
        budget,
        folder,
        base=Base(twin, folder / "int8.onnx"),
        ignore=kept_layers(summary.document()),
        progress=progress,
    )


def _qualities(model: Path, quantized: Sequence[Path], kept: Sequence[Batch]) -> list[Quality]:
    reference = simulate(load(model).model, kept)
    inputs = sum(len(next(iter(batch.values()))) for batch in kept)
    found = []
    for path in quantized:
        got = simulate(onnx.load(path), kept)
        found.append(Quality(inputs, output_distance(reference, got), _agreement(reference, got)))
    return found


def _agreement(reference: Outputs, got: Outputs) -> float | None:
    """Share of rows whose largest score is the same one; None unless there is one output [N, K]."""
    if len(reference) != 1:
        return None
    name, scores = next(iter(reference.items()))
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        return None
    return float(np.mean(scores.argmax(1) == got[name].argmax(1)))
