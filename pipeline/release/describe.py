"""From a build's record to what the manifest says of a device's products; nothing is computed anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.onnxmodel.file import describe, read_model
from pipeline.products import (
    BuildTarget,
    Variant,
    engine_path,
    golden_path,
    onnx_path,
    onnx_stage,
    packed_path,
    source_stage,
    timed_target,
)
from pipeline.record import Accuracy, Result
from pipeline.release.source import AGAIN, Build, bundle_paths
from targets.errors import ReleaseRefused
from targets.tensorrt import TIMING_CACHE_FILE
from targets.toolchain import Engine


def target_of(build: Build, target: BuildTarget) -> dict[str, Any]:
    """What the bundle runs on."""
    run = next((each for each in build.record.targets if each.name == target.name), None)
    version = run.toolchain_version if run else build.not_run(target.name)[0].toolchain_version
    return {
        "name": target.name,
        "device": target.device.name,
        "description": target.device.description,
        "architecture": target.device.architecture,
        "cpu_flags_required": target.device.cpu_flags_required,
        "toolchain": target.toolchain,
        "toolchain_version": version,
        "runtime": target.capability.runtime,
        "threads": target.section.threads,
        "fingerprint": run.fingerprint if run else {},
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
    """One product: its model, engine, recipe, tensors, and what is known of its accuracy and latency."""
    model = _model(build, target, variant)
    made = _made(build, target, variant) if target.section.engine else _to_be_made(build, target, variant)
    runtime = f"ONNX Runtime {build.record.packages.get('onnxruntime', '')}".strip()
    return {
        "variant": variant.name,
        "network": variant.network,
        "precision": variant.precision,
        "model": model,
        "golden": bundle_paths(target, variant)[golden_path(target, variant)],
        "golden_source": f"{runtime}, running the ONNX file as it is written",
        **made,
        **_found_out(build, target, variant),
    }


def _made(build: Build, target: BuildTarget, variant: Variant) -> dict[str, Any]:
    """An engine that the bundle has, and how to build it again."""
    engine = Engine.load(build.output / engine_path(target, variant))
    path = bundle_paths(target, variant)[engine_path(target, variant)]
    options = {
        "toolchain": engine.toolchain,
        "precision": engine.options.precision,
        "threads": engine.options.threads,
        "raw": dict(engine.options.raw),
    }
    header = {
        "path": path,
        "toolchain_version": engine.toolchain_version,
        "size_bytes": engine.size_bytes,
        "notes": list(engine.notes),
    }
    return {
        "engine": header | options,
        "recipe": {"device": engine.device} | options | _pinned(engine, path),
        "inputs": [_tensor(spec) for spec in engine.inputs],
        "outputs": [_tensor(spec) for spec in engine.outputs],
    }


def _to_be_made(build: Build, target: BuildTarget, variant: Variant) -> dict[str, Any]:
    """An engine that the device builds."""
    path = onnx_path(target, variant)
    facts = describe(read_model(build.files(path)[path]))
    return {
        "engine": None,
        "recipe": {
            "device": target.device.name,
            "toolchain": target.toolchain,
            "precision": variant.runs_as,
            "threads": target.section.threads,
            "raw": target.raw,
        },
        "inputs": [_tensor(spec) for spec in facts.inputs],
        "outputs": [_tensor(spec) for spec in facts.outputs],
    }


def _found_out(build: Build, target: BuildTarget, variant: Variant) -> dict[str, Any]:
    """Accuracy and latency of an engine that was run; what is known instead of one that was not."""
    for built in build.not_run(target.name):
        if built.variant == variant.name:
            known = {"obstacle": built.obstacle, "onnx_accuracy": _accuracy(build, built.estimate)}
            return {"accuracy": None, "latency": None, "not_run": known}
    result = next(
        each for each in build.record.results if each.target == target.name and each.variant == variant.name
    )
    return {"accuracy": _accuracy(build, result.accuracy), "latency": _latency(build, target, result)}


def _pinned(engine: Engine, folder: str) -> dict[str, Any]:
    """The timing cache as the bundle has it, in place of a path on the machine the engine was built on."""
    raw = {name: value for name, value in engine.options.raw.items() if not name.startswith("timing_cache")}
    there = TIMING_CACHE_FILE in engine.files
    return {"raw": raw, "timing_cache": f"{folder}/{TIMING_CACHE_FILE}" if there else None}


def gates_of(build: Build, target: BuildTarget) -> list[Any]:
    """The comparisons a device's products went through, in the record's order."""
    names = set()
    for variant in build.products(target):
        stages = (source_stage(target, variant), onnx_stage(target, variant))
        names |= {f"export {variant.network}", f"simplify {variant.network}", *stages}
        names.add(f"compile {target.name} {variant.name}")
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
        "packed": packed_path(target, variant) is not None,
        "sha256_onnx": build.digests[path],
        "opset": network.opset,
        "operators": dict(sorted(operators.items())),
        "parameters": network.parameters,
        "macs": network.macs,
    }


def _accuracy(build: Build, found: Accuracy) -> dict[str, Any]:
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
