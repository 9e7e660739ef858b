"""targets: the devices there are, and all that is known of one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from targets.capability import Capability, Device, device_names, load_device

WIDTH = 100


def devices_document() -> list[dict[str, Any]]:
    """All devices and their toolchains."""
    return [load_device(name).model_dump(mode="json", by_alias=True) for name in device_names()]


def devices_text() -> str:
    """One line a device and toolchain."""
    lines = [f"{'device':<18} {'toolchain':<13} {'precisions':<22} {'activations':<17} align  shapes   opset"]
    for device in devices_document():
        for name, capability in device["toolchains"].items():
            convention = capability["quantization"] or {}
            lines.append(
                f"{device['name']:<18} {name:<13} {' '.join(capability['precisions']):<22} "
                f"{convention.get('activations', '-'):<17} {capability['channel_alignment']:<6} "
                f"{capability['shapes']:<8} {capability['opset_min']}-{capability['opset_max']}"
            )
    return "\n".join(lines)


def device_text(device: Device) -> str:
    """All that is known of a device, for people."""
    lines = [f"{device.name}: {device.description}", f"  architecture  {device.architecture}"]
    if device.cpu_flags_required:
        lines.append(f"  CPU flags     {', '.join(device.cpu_flags_required)}")
    if device.memory_mib:
        lines.append(f"  memory        {', '.join(f'{size} MiB' for size in device.memory_mib)}")
    lines += _sources(device.source, "  ")
    for name, capability in device.toolchains.items():
        lines += ["", f"with {name} {capability.runtime}", *_capability_lines(capability)]
    return "\n".join(lines)


def _capability_lines(capability: Capability) -> Iterator[str]:
    convention, dla = capability.quantization, capability.dla
    yield f"  precisions    {', '.join(capability.precisions)}"
    if convention:
        residual = "with" if convention.quantize_residual_inputs else "without"
        weights = f"weights of {convention.weight_bits} bits"
        yield f"  INT8          activations {convention.activations}, {weights},"
        yield f"                {residual} QDQ on both inputs of a residual Add"
    if "fp16" in capability.precisions:
        yield f"  fp16          written by the {capability.fp16}"
    yield f"  shapes        {capability.shapes}"
    yield f"  opset         {capability.opset_min} to {capability.opset_max}"
    yield f"  channels      in steps of {capability.channel_alignment}"
    if capability.operators:
        yield f"  operators     those of targets/operators/{capability.operators}.toml"
    for operator, why in capability.unsupported_operators.items():
        yield f"  not           {operator}: {why}"
    if dla:
        layers = f"layers of targets/operators/{dla.operators}.toml"
        yield f"  DLA           {dla.cores}, {', '.join(dla.precisions)}; {layers}"
    for key, value in capability.options.items():
        yield f"  option        {key} = {value}"
    yield from _sources(capability.source, "  ")


def _sources(source: Mapping[str, str], indent: str) -> Iterator[str]:
    for key, text in source.items():
        first = f"{indent}source of {key}: "
        yield from textwrap.wrap(f"{first}{text}", WIDTH, subsequent_indent=indent + "    ")
