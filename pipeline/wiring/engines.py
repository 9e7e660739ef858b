"""ONNX → simplified → (quantized) → engine → latency, accuracy; a gate behind each that ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config import GateKind
from pipeline.products import (
    QUANTIZED,
    BuildTarget,
    Variant,
    formed,
    may_ship,
    onnx_stage,
    source_stage,
    variants_of,
)
from pipeline.stage import MOST_PROCESSOR_S, Ref, Stage
from pipeline.wiring.quantize import mix_stages, quantize_stages
from pipeline.wiring.request import ONNX_TOOLS, Request

ENGINE_GATES: dict[str, GateKind] = {
    "fp32": "engine-fp32",
    "fp16": "engine-half",
    "bf16": "engine-half",
    "int8": "engine-int8",
    "mixed": "engine-int8",
}


def take_onnx(request: Request, path: str) -> Stage:
    """Start from somebody's ONNX file."""
    from pipeline.onnxmodel.file import data_files  # takes a third of a second: onnx

    model = request.path(path)
    return Stage(
        "model",
        "pipeline.stages.onnx:take",
        inputs=request.data("facts", "preprocess"),
        files={"model": model},
        beside=data_files(model),
        settings={
            "layout": request.settings.data.layout,
            "capabilities": {
                target.name: target.capability.model_dump(mode="json") for target in request.targets
            },
        },
        tools=ONNX_TOOLS,
        processor_s=MOST_PROCESSOR_S,
    )


def simplify_stages(request: Request, network: str) -> Iterator[Stage]:
    """A network's simplified ONNX file, and the gate behind it."""
    raw = Ref("model" if network == "model" else f"export {network}", "model.onnx")
    name = f"simplify {network}"
    yield Stage(
        name,
        "pipeline.stages.onnx:simplify_onnx",
        inputs={"model": raw},
        tools=(*ONNX_TOOLS, "onnxsim"),
        processor_s=MOST_PROCESSOR_S,
    )
    yield request.gate("simplify", name, inputs={"reference": raw, "candidate": Ref(name, "model.onnx")})


def target_stages(request: Request, target: BuildTarget) -> Iterator[Stage]:
    """Every variant for one target: quantized where asked for, compiled, timed, evaluated."""
    variants = variants_of(request.settings, target)
    for variant in {each.network: each for each in variants if each.precision in QUANTIZED}.values():
        yield from quantize_stages(request, target, variant.network, variant.ships)
    for variant in variants:
        if variant.precision == "mixed":
            yield from mix_stages(request, target, variant)
        if target.needs_form(variant.precision):
            yield from _form(request, target, variant)
        if target.preflighted:
            yield _preflight(target, variant)
        if target.section.engine:
            yield _compile(request, target, variant)
        if target.obstacle is None:
            yield _engine_gate(request, target, variant)
        if may_ship(request.settings, variant):
            yield _golden(request, target, variant)
    if target.obstacle is None:
        yield _measure(request, target, variants)
    for variant in variants:
        runs = target.obstacle is None
        yield _evaluate(request, target, variant) if runs else _estimate(request, target, variant)


def _form(request: Request, target: BuildTarget, variant: Variant) -> Iterator[Stage]:
    source = Ref(source_stage(target, variant), "model.onnx")
    name = formed(target, variant)
    yield Stage(
        name,
        "pipeline.stages.onnx:form",
        inputs={"model": source},
        settings={
            "device": f"{target.device.name} with {target.toolchain}",
            "capability": target.capability.model_dump(mode="json"),
            "precision": variant.runs_as,
        },
        tools=ONNX_TOOLS,
    )
    half = target.capability.fp16 == "graph" and variant.precision != "fp32"
    kind: GateKind = ENGINE_GATES[variant.precision] if half else "simplify"
    sides = {"reference": source, "candidate": Ref(name, "model.onnx")}
    yield request.gate(kind, name, inputs=sides, function="check_form")


def _preflight(target: BuildTarget, variant: Variant) -> Stage:
    name = f"preflight {target.name} {variant.name}"
    return Stage(
        name,
        "pipeline.stages.preflight:ask",
        inputs={"model": Ref(onnx_stage(target, variant), "model.onnx")},
        settings={"name": name},
        tools=("onnx",),
        fingerprint={"tensorrt_rtx": target.preflighted or ""},
    )


def _compile(request: Request, target: BuildTarget, variant: Variant) -> Stage:
    return Stage(
        f"compile {target.name} {variant.name}",
        "pipeline.stages.engines:compile_engine",
        inputs={"model": Ref(onnx_stage(target, variant), "model.onnx")},
        settings=request.toolchain(target)
        | {
            "device": target.device.name,
            "capability": target.capability.model_dump(mode="json"),
            "precision": variant.runs_as,
            "threads": target.section.threads,
            "raw": target.raw,
        },
        processor_s=MOST_PROCESSOR_S,
        **request.runtime(target),
    )


def _engine_gate(request: Request, target: BuildTarget, variant: Variant) -> Stage:
    name = f"compile {target.name} {variant.name}"
    runtime = request.runtime(target)
    return request.gate(
        ENGINE_GATES[variant.precision],
        name,
        inputs={
            "reference": Ref(onnx_stage(target, variant), "model.onnx"),
            "candidate": Ref(name, "engine"),
        },
        settings=request.toolchain(target),
        **runtime | {"tools": (*ONNX_TOOLS, *runtime["tools"])},
    )


def _golden(request: Request, target: BuildTarget, variant: Variant) -> Stage:
    """Inputs and outputs that a release carries to the device, and how close its engine has to come."""
    return Stage(
        f"golden {target.name} {variant.name}",
        "pipeline.stages.golden:choose",
        inputs={"model": Ref(onnx_stage(target, variant), "model.onnx")}
        | request.data("calibrate", "preprocess"),
        settings={"limits": request.limits(ENGINE_GATES[variant.precision])},
        tools=ONNX_TOOLS,
    )


def _measure(request: Request, target: BuildTarget, variants: Sequence[Variant]) -> Stage:
    section = request.settings.measure
    return Stage(
        f"measure {target.name}",
        "pipeline.stages.measure:measure",
        inputs={
            f"engine {variant.name}": Ref(f"compile {target.name} {variant.name}", "engine")
            for variant in variants
        }
        | {f"model {variant.name}": Ref(onnx_stage(target, variant), "model.onnx") for variant in variants}
        | request.data("calibrate", "preprocess"),
        settings=request.toolchain(target)
        | {
            "measure": {
                "warmup_min_s": section.warmup_s,
                "min_samples": section.samples,
                "min_s": section.seconds,
                "max_s": section.most_seconds,
            },
            "extras": {
                "memory": section.memory,
                "throughput_s": section.throughput_seconds,
                "requests": section.requests,
                "energy_s": section.energy_seconds,
                "layers": section.layers,
            },
            "stable": section.stable,
        },
        # A device elsewhere has a lock of its own.
        alone=target.place is None,
        **request.runtime(target) | {"tools": ("onnx", target.toolchain, "numpy")},
    )


def _evaluate(request: Request, target: BuildTarget, variant: Variant) -> Stage:
    return Stage(
        f"evaluate {target.name} {variant.name}",
        "pipeline.stages.engines:evaluate",
        inputs={
            "engine": Ref(f"compile {target.name} {variant.name}", "engine"),
            "task": Ref("task", "task.json"),
        }
        | request.data("test", "preprocess"),
        settings=request.toolchain(target)
        | {"examples": request.settings.report.examples if variant.ships else 0},
        **request.runtime(target),
    )


def _estimate(request: Request, target: BuildTarget, variant: Variant) -> Stage:
    """What the ONNX file behind an engine that is not run scores on this machine."""
    return Stage(
        f"estimate {target.name} {variant.name}",
        "pipeline.stages.engines:estimate",
        inputs={
            "model": Ref(onnx_stage(target, variant), "model.onnx"),
            "task": Ref("task", "task.json"),
        }
        | request.data("test", "preprocess"),
        tools=ONNX_TOOLS,
    )
