"""Float ONNX → INT8, and from that mixed bits: for every target and network, a gate behind what ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.products import QUANTIZED, BuildTarget, Variant, mixed, quantized, variants_of
from pipeline.stage import Ref, Stage
from pipeline.wiring.request import ONNX_TOOLS, Request


def observe_stages(request: Request) -> Iterator[Stage]:
    """Ranges of every network that some target wants in INT8, seen once for all conventions."""
    if request.settings.quantize.searches:
        return
    wanted = {
        variant.network
        for target in request.targets
        for variant in variants_of(request.settings, target)
        if variant.precision in QUANTIZED
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


def quantize_stages(request: Request, target: BuildTarget, network: str, ships: bool) -> Iterator[Stage]:
    """A network in INT8 as a target wants it, and, where it ships, the gate behind it."""
    simple = Ref(f"simplify {network}", "model.onnx")
    stage = _quantize_stage(request, target, network, simple)
    yield stage
    if ships:
        yield _quantize_gate(request, stage.name, stage.name, simple)


def mix_stages(request: Request, target: BuildTarget, variant: Variant) -> Iterator[Stage]:
    """Bits channel by channel inside a network's INT8 model, and the gate behind them."""
    section = request.settings.quantize
    assert section.mixed is not None and target.capability.quantization is not None
    simple = Ref(f"simplify {variant.network}", "model.onnx")
    base = quantized(target, variant.network)
    kind, limit = section.mixed.budget
    tools: dict[str, Any] = {"tools": ONNX_TOOLS}
    where: dict[str, Any] = {"toolchain": target.toolchain}
    # Only a budget of time depends on the device.
    if kind == "latency_ms":
        where = request.toolchain(target)
        runtime = request.runtime(target)
        tools = runtime | {"tools": (*ONNX_TOOLS, *runtime["tools"])}
    yield Stage(
        mixed(target, variant.network),
        "pipeline.stages.mix:mix",
        inputs={
            "model": Ref(base, "float.onnx") if section.searches else simple,
            "int8": Ref(base, "model.onnx"),
            "summary": Ref(base, "summary.json"),
        }
        | request.data("calibrate", "preprocess"),
        settings={
            "convention": target.capability.quantization.model_dump(),
            "budget": {"kind": kind, "limit": limit},
            "samples": section.samples,
            **where,
            "device": target.device.name,
            "threads": target.section.threads,
            "raw": target.raw,
        },
        alone=kind == "latency_ms",
        **tools,
    )
    yield _quantize_gate(request, mixed(target, variant.network), base, simple)


def _quantize_stage(request: Request, target: BuildTarget, network: str, simple: Ref) -> Stage:
    section = request.settings.quantize
    assert target.capability.quantization is not None
    settings = {"convention": target.capability.quantization.model_dump(), "ignore": section.ignore}
    name = quantized(target, network)
    if section.searches:
        # Where the float twin is fp16, layers that stay float are as well.
        limits = {"max_drop": section.max_drop, "half": "fp16" in target.precisions}
        return Stage(
            name,
            "pipeline.stages.quantize:search",
            inputs={"model": simple} | request.data("calibrate", "preprocess"),
            settings=settings
            | {"samples": section.samples, "thorough": section.effort == "thorough"}
            | (limits if section.max_drop is not None else {"max_drop": None}),
            tools=ONNX_TOOLS,
        )
    return Stage(
        name,
        "pipeline.stages.quantize:write_qdq",
        inputs={"model": simple, "observations": Ref(f"observe {network}", "observations.npz")},
        settings=settings | {"method": section.method, "percentile": section.percentile},
        tools=ONNX_TOOLS,
    )


def _quantize_gate(request: Request, name: str, quantized: str, simple: Ref) -> Stage:
    """Compare the stage `name`'s model with the float one.

    Args:
        request: the build.
        name: stage whose model is compared.
        quantized: the stage that wrote the INT8 model it is or was made from.
        simple: the float model.
    """
    sides = {"reference": simple, "candidate": Ref(name, "model.onnx")}
    if request.settings.quantize.searches:
        # What its tensors are to be compared with; its outputs still are with the original's.
        sides["twin"] = Ref(quantized, "float.onnx")
    return request.gate("quantize", name, inputs=sides)
