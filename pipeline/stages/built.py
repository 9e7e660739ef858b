"""The record's part on devices that engines were made for but not run on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.report.wording import Wording
from targets.toolchain import Engine

NOT_ASKED = (
    "NVIDIA's parser was not asked: TensorRT-RTX is not installed (edgewright toolchain install tensorrt_rtx)"
)


def built_variants(
    targets: list[Mapping[str, Any]],
    artefact: Callable[[str, str], Any],
    engine: Callable[[str], Engine],
    words: Wording,
) -> Iterator[dict[str, Any]]:
    """Describe every variant of these targets.

    Args:
        targets: as the report stage's settings have them.
        artefact: stage and name → a JSON artefact, or None.
        engine: stage → the engine it compiled.
        words: what a share of right answers is called.
    """
    for target in targets:
        for variant in target["variants"]:
            yield _described(target, variant, artefact, engine, words)


def _described(
    target: Mapping[str, Any],
    variant: Mapping[str, Any],
    artefact: Callable[[str, str], Any],
    engine: Callable[[str], Engine],
    words: Wording,
) -> dict[str, Any]:
    name = variant["name"]
    facts = artefact(variant["onnx_stage"], "facts.json")
    estimate = artefact(f"estimate {target['name']} {name}", "accuracy.json")
    made = engine(f"compile {target['name']} {name}") if target["compiled"] else None
    low, high = estimate["top1_interval"]
    what = f"compiled to {made.size_bytes / 1024:,.0f} KiB" if made else "handed over as ONNX"
    score = f"{words.score} {estimate['top1']:.1%} ± {(high - low) / 2 * 100:.1f}"
    return {
        "target": target["name"],
        "device": target["device"],
        "toolchain": target["toolchain"],
        "toolchain_version": made and made.toolchain_version,
        "obstacle": target["obstacle"],
        "variant": name,
        "network": variant["network"],
        "precision": variant["precision"],
        "role": variant["role"],
        "engine": made
        and {
            "path": variant["engine_path"],
            "sha256": dict(made.files),
            "size_bytes": made.size_bytes,
            "onnx_path": variant["onnx_path"],
            "onnx_size_bytes": facts["onnx_size_bytes"],
            "notes": list(made.notes),
        },
        "onnx_path": variant["onnx_path"],
        "changes": facts.get("changes", []),
        "preflight": _preflight(target, artefact(f"preflight {target['name']} {name}", "preflight.json")),
        "command": None if made else _command(target, variant),
        "estimate": estimate,
        "headline": f"{target['name']}: {name} {what}, not run; its ONNX here: {score}.",
    }


def _preflight(target: Mapping[str, Any], said: Mapping[str, Any] | None) -> str | None:
    if not target["wants_preflight"]:
        return None
    return said["said"] if said else NOT_ASKED


def _command(target: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
    """What makes the engine on the device (docs/remote.md: edgewright-device.pyz)."""
    words = ["python3", "edgewright-device.pyz", "build", variant["onnx_path"]]
    words += ["--toolchain", target["toolchain"], "--device", target["device"]]
    words += ["--precision", variant["runs_as"], "--threads", str(target["threads"])]
    words += ["--raw", json.dumps(target["raw"])] if target["raw"] else []
    return shlex.join([*words, "--out", variant["engine_path"]])
