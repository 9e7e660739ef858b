"""ONNX → simplified → quantized → engine → latency, accuracy; a gate behind each that ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import GateKind
from pipeline.products import BuildTarget, Variant, onnx_stage, quantized, variants_of
from pipeline.stage import Ref, Stage
from pipeline.wiring.request import ONNX_TOOLS, Request

ENGINE_GATES: dict[str, GateKind] = {
    "fp32": "engine-fp32",
    "fp16": "engine-half",
    "bf16": "engine-half",
    "int8": "engine-int8",
}


def take_onnx(request: Request, path: str) -> Stage:
    """Start from somebody's ONNX file."""
    model = request.path(path)
    return Stage(
        "model",
        "pipeline.stages.onnx:take",
        inputs=request.data("facts", "preprocess"),
        files={"model": model},
        beside=_external_data(model),
        settings={
            "layout": request.settings.data.layout,
            "capabilities": {
                target.name: target.capability.model_dump(mode="json") for target in request.targets
            },
        },
        tools=ONNX_TOOLS,
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
    )
    yield request.gate("simplify", name, inputs={"reference": raw, "candidate": Ref(name, "model.onnx")})


def observe_stages(request: Request) -> Iterator[Stage]:
    """Ranges of every network that some target wants in INT8, seen once for all conventions."""
    wanted = {
        variant.network
        for target in request.targets
        for variant in variants_of(request.settings, target)
        if variant.precision == "int8"
    }
    for network in sorted(wanted):
        yield Stage(
            f"observe {network}",
            "pipeline.stages.quantize:observe",
            inputs={"model": Ref(f"simplify {network}", "model.onnx")}
            | request.data("calibrate", "preprocess"),
            settings={"samples": request.settings.quantize.samples},
            tools=ONNX_TOOLS,
        )


def target_stages(request: Request, target: BuildTarget) -> Iterator[Stage]:
    """Every variant for one target: quantized where asked for, compiled, timed, evaluated."""
    variants = variants_of(request.settings, target)
    for variant in variants:
        if variant.precision == "int8":
            yield from _quantize(request, target, variant)
        yield from _engine(request, target, variant)
    yield _measure(request, target, variants)
    for variant in variants:
        yield _evaluate(request, target, variant)


def _quantize(request: Request, target: BuildTarget, variant: Variant) -> Iterator[Stage]:
    section = request.settings.quantize
    simple = Ref(f"simplify {variant.network}", "model.onnx")
    name = quantized(target, variant.network)
    assert target.capability.quantization is not None
    yield Stage(
        name,
        "pipeline.stages.quantize:write_qdq",
        inputs={"model": simple, "observations": Ref(f"observe {variant.network}", "observations.npz")},
        settings=section.model_dump(exclude={"samples"})
        | {"convention": target.capability.quantization.model_dump()},
        tools=ONNX_TOOLS,
    )
    if variant.ships:
        yield request.gate(
            "quantize", name, inputs={"reference": simple, "candidate": Ref(name, "model.onnx")}
        )


def _engine(request: Request, target: BuildTarget, variant: Variant) -> Iterator[Stage]:
    name = f"compile {target.name} {variant.name}"
    onnx = Ref(onnx_stage(target, variant), "model.onnx")
    runtime = request.runtime(target)
    yield Stage(
        name,
        "pipeline.stages.engines:compile_engine",
        inputs={"model": onnx},
        settings={
            "toolchain": target.toolchain,
            "device": target.device.name,
            "capability": target.capability.model_dump(mode="json"),
            "precision": variant.precision,
            "threads": target.section.threads,
            "raw": target.section.raw,
        },
        **runtime,
    )
    yield request.gate(
        ENGINE_GATES[variant.precision],
        name,
        inputs={"reference": onnx, "candidate": Ref(name, "engine")},
        **runtime | {"tools": (*ONNX_TOOLS, target.toolchain)},
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
        settings={
            "toolchain": target.toolchain,
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
        settings={
            "toolchain": target.toolchain,
            "examples": request.settings.report.examples if variant.ships else 0,
        },
        **request.runtime(target),
    )


def _external_data(model: Path) -> tuple[Path, ...]:
    """Files that may hold a model's weights: whatever lies beside it and is no text of ours."""
    if not model.parent.is_dir():
        return ()
    return tuple(
        sorted(
            path
            for path in model.parent.iterdir()
            if path.is_file() and path != model and path.suffix not in (".toml", ".md")
        )
    )
