"""targets and check: what devices can do, and what of a model they cannot."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from targets.capability import Capability, Device, device_names, load_device
from targets.checks import check_model, falls_back
from targets.conventions import written_precision
from targets.errors import ConfigError
from targets.nvidia.preflight import Preflight, preflight
from targets.violation import Violation

WIDTH = 100


@dataclass(frozen=True)
class Check:
    """A model against a device.

    Args:
        model: the ONNX file.
        device: name of the device.
        toolchain: that would build for it.
        violations: what the device cannot do; a build would stop.
        on_gpu: what its DLA leaves to the GPU; no violation.
        preflight: what NVIDIA's parser and builder say; None when they were not asked.
    """

    model: Path
    device: str
    toolchain: str
    violations: list[Violation]
    on_gpu: list[Violation]
    preflight: Preflight | None = None

    @property
    def passed(self) -> bool:
        """Nothing stands against the model."""
        return not self.violations and (self.preflight is None or self.preflight.builds)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": str(self.model),
            "device": self.device,
            "toolchain": self.toolchain,
            "violations": [violation._asdict() for violation in self.violations],
            "on_gpu": [violation._asdict() for violation in self.on_gpu],
            "preflight": self.preflight and asdict(self.preflight),
        }

    def text(self) -> str:
        """One paragraph a violation."""
        name = f"{self.device} with {self.toolchain}"
        count = len(self.violations)
        said = f"{count} violation{'s' if count > 1 else ''}:" if count else "nothing stands against it."
        lines = [f"{self.model} on {name}: {said}"]
        lines += [line for violation in self.violations for line in _paragraph(violation)]
        if self.on_gpu:
            lines += ["", "Left to the GPU where the DLA is used:"]
            lines += [f"  {each.rule}; found {each.found}" for each in self.on_gpu]
        if self.preflight:
            lines += ["", *_preflight_lines(self.preflight)]
        return "\n".join(lines)


def check(model: Path, device_name: str, toolchain: str | None, ask_nvidia: bool = False) -> Check:
    """Check an ONNX file against a device.

    Args:
        model: the file.
        device_name: a device file's name or path, or "this-machine".
        toolchain: None for the device's first.
        ask_nvidia: give it to NVIDIA's parser and builder as well; nothing is built otherwise.

    Raises:
        ModelError, ConfigError: an unreadable model, an unknown device or toolchain.
        ToolchainMissing: the preflight needs TensorRT-RTX.
    """
    device = load_device(device_name)
    name = toolchain or next(iter(device.toolchains))
    capability = device.capability(name)
    violations = check_model(model, capability, device.memory_mib)
    on_gpu = falls_back(model, capability)
    if not ask_nvidia:
        return Check(model, device.name, name, violations, on_gpu)
    if not name.startswith("tensorrt"):
        raise ConfigError(
            f"the preflight is for TensorRT, not for {name}", where="--preflight", mend="leave it out"
        )
    said = preflight(model, written_precision(onnx.load(str(model), load_external_data=False)))
    return Check(model, device.name, name, violations, on_gpu, said)


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


def _preflight_lines(said: Preflight) -> Iterator[str]:
    refused = [node for node in said.nodes if not node.supported]
    taken = f"{len(said.nodes) - len(refused)} of {len(said.nodes)} nodes"
    verdict = "builds" if said.builds else "does NOT build"
    yield f"NVIDIA's parser and builder (TensorRT-RTX {said.version}): takes {taken}, {verdict}"
    yield from (f"  ✗ {node.operator} at {node.name}" for node in refused)
    yield from (f"  ✗ {reason}" for reason in said.reasons)
    kinds = Counter(f"{layer['kind'].lower()} {layer['type'].lower()}" for layer in said.layers)
    yield from (f"  {count:4} {kind}" for kind, count in kinds.most_common())


def _paragraph(violation: Violation) -> list[str]:
    what = f"{violation.operator}: {violation.rule}" if violation.operator else violation.rule
    return [f"  ✗ {what}", f"      found  {violation.found}", f"      mend   {violation.mend}"]
