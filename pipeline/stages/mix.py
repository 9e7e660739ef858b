"""mix: fewer bits for the channels that need fewer, inside a target's INT8 form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from calibration.budgets import AverageBits, Budget, LargestDrop, Latency, PackedSize
from calibration.mix import Base, quantize_mixed
from calibration.placement import LAYERS
from pipeline.places import toolchain_of
from pipeline.stage import Context
from pipeline.stages.artefacts import write_json
from pipeline.stages.quantize import calibration_batches, file_facts
from pipeline.timer import engine_timer
from targets.capability import QuantizationConvention
from targets.toolchain import EngineOptions


def mix(context: Context) -> None:
    """Plan the bits of every channel for a budget, and lower the plan.

    Artefacts: model.onnx, model.packed, bits.json, mixed.json (what was tried and came out), facts.json.
    """
    settings = context.settings
    options = EngineOptions("int8", settings["threads"], settings["raw"])
    found = quantize_mixed(
        context.inputs["model"],
        calibration_batches(context),
        QuantizationConvention(**settings["convention"]),
        budget_for(
            **settings["budget"],
            toolchain=lambda: toolchain_of(settings, context.progress),
            device=settings["device"],
            options=options,
        ),
        context.out,
        base=Base(context.inputs["model"], context.inputs["int8"]),
        ignore=kept_layers(json.loads(context.inputs["summary"].read_text(encoding="utf-8"))),
        progress=context.progress,
    )
    write_json(context.out, "mixed", found.document())
    write_json(context.out, "facts", file_facts(found.model))


def kept_layers(summary: Mapping[str, Any]) -> list[str]:
    """Return rules that keep the layers in float that an INT8 model's summary.json says are."""
    return [re.escape(item["node"]) for item in summary["kept_float"] if item["op_type"] in LAYERS]


def budget_for(
    kind: str, limit: float, toolchain: Callable[[], Any], device: str, options: EngineOptions
) -> Budget:
    """Return a budget as `quantize_mixed` takes it.

    Args:
        kind: a key of [quantize.mixed].
        limit: its value.
        toolchain: gives what times layers where the budget is one of milliseconds; not called otherwise.
        device: name of the device file, for the same.
        options: for the same.
    """
    if kind == "latency_ms":
        return Latency(limit, engine_timer(toolchain(), device, options))
    if kind == "size_bytes":
        return PackedSize(int(limit))
    return AverageBits(limit) if kind == "bits" else LargestDrop(limit)
