"""check: everything that keeps a model from running on a device, before anything is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from targets.capability import load_device
from targets.checks import check_model, falls_back
from targets.conventions import written_precision
from targets.errors import ConfigError
from targets.nvidia.preflight import Preflight, preflight
from targets.violation import Violation


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
