"""observe, quantize: ranges seen once for all conventions, or repairs tried for one."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from calibration.aware import Within, quantize_within
from calibration.best import quantize_best
from calibration.budgets import LargestDrop
from calibration.observations import Observations
from calibration.qdq import quantize
from calibration.ranges import collect, collect_part, join
from calibration.summary import QuantizationSummary
from pipeline.cluster import clustered, over_shards
from pipeline.datasets.prepared import PreparedBatches
from pipeline.onnxmodel.file import describe, read_model
from pipeline.stage import Context
from pipeline.stages.artefacts import write_json
from pipeline.stages.data import evenly_spread, read_preprocess, read_split
from targets.batches import CHUNK, batch_size
from targets.capability import QuantizationConvention

# Inputs at once where repairs are tried: every fourth batch judges, so there should be many.
TRIED_TOGETHER = 8
# Batches a worker of a cluster sees at a time.
SHARD = 32


def observe(context: Context) -> None:
    """Run calibration images through the float model. Artefact: observations.npz."""
    batches, model = calibration_batches(context, CHUNK), context.inputs["model"]
    if clustered():
        observed = join(model, over_shards(partial(collect_part, model), batches.cut(SHARD)), batches)
    else:
        told = partial(context.progress, "observing ranges")
        observed = collect(model, batches, lambda seen: told(seen, batches.inputs))
    observed.save(context.out / "observations.npz")


def write_qdq(context: Context) -> None:
    """Quantize for one convention. Artefacts: model.onnx, summary.json, facts.json."""
    settings = context.settings
    out = context.out / "model.onnx"
    summary = quantize(
        context.inputs["model"],
        Observations.load(context.inputs["observations"]),
        QuantizationConvention(**settings["convention"]),
        out,
        method=settings["method"],
        percentile=settings["percentile"],
        ignore=settings["ignore"],
    )
    _describe(context, out, summary)


def search(context: Context) -> None:
    """Try repairs for one convention, and put layers back to float until a stated drop is kept.

    Artefacts: model.onnx, float.onnx (the float model it was made from), summary.json, facts.json,
    search.json (what was tried).
    """
    settings = context.settings
    model, out, twin = context.inputs["model"], context.out / "model.onnx", context.out / "float.onnx"
    batches, convention = calibration_batches(context), QuantizationConvention(**settings["convention"])
    if settings["max_drop"] is None:
        found = quantize_best(model, batches, convention, out, twin, settings["ignore"], context.progress)
        summary, tried = found.summary, {"trials": [asdict(trial) for trial in found.trials]}
    else:
        within = quantize_within(
            model,
            batches,
            convention,
            out,
            twin,
            LargestDrop(settings["max_drop"]),
            thorough=settings["thorough"],
            half=settings["half"],
            ignore=settings["ignore"],
            progress=context.progress,
        )
        summary, tried = within.summary, searched(within)
    _describe(context, out, summary)
    write_json(context.out, "search", tried)


def searched(within: Within) -> dict[str, Any]:
    """What was tried to keep a drop, as JSON."""
    return {
        "trials": [asdict(trial) for trial in within.best.trials] if within.best else [],
        "lifted": list(within.lifted.layers),
        "loss": within.lifted.loss,
        "losses": {str(count): loss for count, loss in sorted(within.lifted.losses.items())},
        "sensitivities": [asdict(each) for each in within.sensitivities],
        "rank_agreement": within.agreement,
        "half": list(within.half),
    }


def calibration_batches(context: Context, most: int = TRIED_TOGETHER) -> PreparedBatches:
    """The calibrate split as a model's input, in whole batches of at most so many."""
    inputs = describe(read_model(context.inputs["model"])).inputs
    images = read_split(context.inputs["calibrate"])[0]
    rows = evenly_spread(len(images), context.settings["samples"])
    size = batch_size(inputs, min(most, len(rows)))
    preprocess = read_preprocess(context.inputs["preprocess"])
    return PreparedBatches({inputs[0].name: images}, size, rows, preprocess)


def _describe(context: Context, out: Path, summary: QuantizationSummary) -> None:
    write_json(context.out, "summary", summary.document())
    write_json(context.out, "facts", file_facts(out))


def file_facts(model: Path) -> dict[str, int]:
    """What the record says of a quantized ONNX file."""
    return {"weight_bytes": describe(read_model(model)).weight_bytes, "onnx_size_bytes": model.stat().st_size}
