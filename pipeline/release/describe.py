"""From a build's record to what the manifest says of a device's products; nothing is computed anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.onnxmodel.file import read_model
from pipeline.products import (
    BuildTarget,
    Variant,
    engine_path,
    golden_path,
    onnx_path,
    onnx_stage,
    timed_target,
)
from pipeline.record import Result
from pipeline.release.source import AGAIN, Build, bundle_paths
from targets.errors import ReleaseRefused
from targets.tensorrt import TIMING_CACHE_FILE
from targets.toolchain import Engine


def target_of(build: Build, target: BuildTarget) -> dict[str, Any]:
    """What the bundle runs on."""
    recorded = next(each for each in build.record.targets if each.name == target.name)
    return {
        "name": target.name,
        "device": target.device.name,
        "description": target.device.description,
        "architecture": target.device.architecture,
        "cpu_flags_required": target.device.cpu_flags_required,
        "toolchain": target.toolchain,
        "toolchain_version": recorded.toolchain_version,
        "runtime": target.capability.runtime,
        "threads": target.section.threads,
        "fingerprint": recorded.fingerprint,
    }


def pixels_of(build: Build, target: BuildTarget) -> dict[str, Any]:
    """How images become inputs: the same for all products, as their golden inputs were made."""
    golden = _golden(build, target, build.products(target)[0])
    prepare = golden["preprocess"]
    height, width, channels = build.record.data.image_shape
    # Image readers give RGB; other numbers of channels have no names here.
    known = {1: "grey", 3: "BGR" if prepare["reverse_channels"] else "RGB"}
    return {
        "layout": prepare["layout"],
        "colour_order": known.get(channels, "as stored"),
        "image_shape": (height, width, channels),
        "scale": prepare["scale"],
        "mean": prepare["mean"],
        "std": prepare["std"],
    }


def product_of(build: Build, target: BuildTarget, variant: Variant) -> dict[str, Any]:
    """One product: its model, engine, recipe, tensors, accuracy and latency."""
    result = next(
        each for each in build.record.results if each.target == target.name and each.variant == variant.name
    )
    engine = Engine.load(build.output / engine_path(target, variant))
    paths = bundle_paths(target, variant)
    options = {
        "toolchain": engine.toolchain,
        "precision": engine.options.precision,
        "threads": engine.options.threads,
        "raw": dict(engine.options.raw),
    }
    return {
        "variant": variant.name,
        "network": variant.network,
        "precision": variant.precision,
        "model": _model(build, target, variant),
        "engine": {
            "path": paths[engine_path(target, variant)],
            "toolchain_version": engine.toolchain_version,
            "size_bytes": engine.size_bytes,
            "notes": list(engine.notes),
        }
        | options,
        "recipe": {"device": engine.device} | options | _pinned(engine, paths[engine_path(target, variant)]),
        "inputs": [_tensor(spec) for spec in engine.inputs],
        "outputs": [_tensor(spec) for spec in engine.outputs],
        "golden": paths[golden_path(target, variant)],
        "accuracy": _accuracy(build, result),
        "latency": _latency(build, target, result),
    }


def _pinned(engine: Engine, folder: str) -> dict[str, Any]:
    """The timing cache as the bundle has it, in place of a path on the machine the engine was built on."""
    raw = {name: value for name, value in engine.options.raw.items() if not name.startswith("timing_cache")}
    there = TIMING_CACHE_FILE in engine.files
    return {"raw": raw, "timing_cache": f"{folder}/{TIMING_CACHE_FILE}" if there else None}


def gates_of(build: Build, target: BuildTarget) -> list[Any]:
    """The comparisons a device's products went through, in the record's order."""
    names = set()
    for variant in build.products(target):
        stages = (onnx_stage(target, variant), f"compile {target.name} {variant.name}")
        names |= {f"export {variant.network}", f"simplify {variant.network}", *stages}
        names.add(f"quantize {variant.network} {target.name}")
    return [gate for gate in build.record.gates if gate.name in names]


def _tensor(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _model(build: Build, target: BuildTarget, variant: Variant) -> dict[str, Any]:
    path = onnx_path(target, variant)
    file = build.files(path)[path]
    network = next(each for each in build.record.networks if each.name == variant.network)
    operators = Counter(node.op_type for node in read_model(file).graph.node)
    shipped = next(
        inside for inside in bundle_paths(target, variant).values() if inside.startswith("models/")
    )
    return {
        "path": shipped,
        "packed": variant.precision == "mixed",
        "sha256_onnx": build.digests[path],
        "opset": network.opset,
        "operators": dict(sorted(operators.items())),
        "parameters": network.parameters,
        "macs": network.macs,
    }


def _accuracy(build: Build, result: Result) -> dict[str, Any]:
    found = result.accuracy
    return {
        "top1": found.top1,
        "top1_interval": found.top1_interval,
        "images": found.images,
        "labels": build.record.data.labels,
        "recall": {score.label: score.recall for score in found.classes},
    }


def _latency(build: Build, target: BuildTarget, result: Result) -> dict[str, Any]:
    found = result.latency
    budget = _budget_ms(build, target, result.network)
    margin = build.settings.release.latency_margin
    return {
        "median_ms": found.median_ms,
        "median_interval_ms": found.median_interval_ms,
        "p90_ms": found.p90_ms,
        "p99_ms": found.p99_ms,
        "samples": found.samples,
        "promised_ms": budget or margin * found.median_interval_ms[1],
        "budget": budget is not None,
    }


def _budget_ms(build: Build, target: BuildTarget, network: str) -> float | None:
    """The milliseconds a network was made for, where they were meant for this target."""
    students = build.record.structure.students if build.record.structure else []
    for student in students:
        if student.network == network and student.budget and student.budget.kind == "latency_ms":
            on_time = timed_target(build.settings, build.targets).name == target.name
            return student.budget.limit if on_time else None
    return None


def _golden(build: Build, target: BuildTarget, variant: Variant) -> dict[str, Any]:
    path = f"{golden_path(target, variant)}/golden.json"
    file: Path = build.files(path)[path]
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseRefused(f"not JSON: {error}", where=str(file), mend=AGAIN) from error
    return found
