"""The last stage: it is given every small artefact of the others, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from pipeline.products import engine_path, labels_of, onnx_path, onnx_stage, variants_of
from pipeline.stage import Ref, Stage
from pipeline.store import Entry
from pipeline.wiring.request import Request

# What the report is given of every stage that made it.
REPORTED = (
    "facts.json",
    "scores.json",
    "plan.json",
    "paths.json",
    "triage.json",
    "task.json",
    "gate.json",
    "timings.json",
    "accuracy.json",
    "bits.json",
    "mixed.json",
    "preflight.json",
    "engine",
)


def report_stage(request: Request, entries: Mapping[str, Entry]) -> Stage:
    """Put the record together and render it.

    Args:
        request: what was built.
        entries: stage name → its finished output.
    """
    inputs = {
        f"{name}/{artefact}": Ref(name, artefact)
        for name, entry in entries.items()
        for artefact in REPORTED
        if artefact in {path.partition("/")[0] for path in entry.files}
    }
    costs = [
        {
            "name": name,
            "key": entry.key,
            "digest": entry.digest(),
            "seconds": entry.seconds,
            "peak_memory_bytes": entry.peak_memory_bytes,
            "finished_at": entry.finished_at,
        }
        for name, entry in entries.items()
    ]
    described = [
        {
            "name": target.name,
            "device": target.device.name,
            "toolchain": target.toolchain,
            "obstacle": target.obstacle,
            "compiled": target.section.engine,
            "threads": target.section.threads,
            "raw": target.raw,
            "fingerprint": request.fingerprints[target.name],
            "wants_preflight": target.wants_preflight,
            "variants": [
                asdict(variant)
                | {
                    "name": variant.name,
                    "runs_as": variant.runs_as,
                    "onnx_stage": onnx_stage(target, variant),
                    "onnx_path": onnx_path(target, variant),
                    "engine_path": engine_path(target, variant),
                }
                for variant in variants_of(request.settings, target)
            ],
        }
        for target in request.targets
    ]
    return Stage(
        "report",
        "pipeline.stages.report:write",
        inputs=inputs,
        settings={
            "settings": request.settings.model_dump(mode="json"),
            "labels": labels_of(request.settings),
            "targets": [target for target in described if target["obstacle"] is None],
            "built": [target for target in described if target["obstacle"] is not None],
            "stages": costs,
        },
        tools=("edgewright", "matplotlib", "jinja2"),
    )
