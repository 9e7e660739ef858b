"""What a build makes: targets with their devices, variants, and where each is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Settings, TargetSection
from pipeline.stage import Ref
from targets.capability import Capability, Device, load_device
from targets.errors import ConfigError


@dataclass(frozen=True)
class BuildTarget:
    """A target with its device file read.

    Args:
        name: unique in the build.
        section: what build.toml says.
        device: what the device can do.
        capability: what it can do with the toolchain chosen.
        toolchain: name of that toolchain.
    """

    name: str
    section: TargetSection
    device: Device
    capability: Capability
    toolchain: str


@dataclass(frozen=True)
class Variant:
    """One network at one precision."""

    network: str
    precision: str

    @property
    def name(self) -> str:
        """As the report shows it."""
        return f"{self.network} {self.precision}"


def resolve_targets(settings: Settings, folder: Path) -> list[BuildTarget]:
    """Read the device file of every target.

    Raises:
        ConfigError: an unknown device or toolchain, or two targets of one name.
    """
    found: list[BuildTarget] = []
    for section in settings.targets:
        device = load_device(_device_name(section.device, folder))
        toolchain = section.toolchain or next(iter(device.toolchains))
        capability = device.capability(toolchain)
        own = device.name if device.name.endswith(toolchain) else f"{device.name}-{toolchain}"
        name = section.name or own
        found.append(BuildTarget(name, section, device, capability, toolchain))
    _refuse_doubles([target.name for target in found])
    return found


def networks_of(settings: Settings) -> list[str]:
    """The build's networks; the last is the one that is shipped."""
    if settings.model.onnx:
        return ["model"]
    return ["teacher", "student"] if settings.student else ["teacher"]


def variants_of(settings: Settings, target: BuildTarget) -> list[Variant]:
    """What is compiled for a target: every network in float, the shipped one at every precision asked for.

    The first precision that is not INT8 is the float twin everything is compared with; the last variant is
    the product.
    """
    *others, product = networks_of(settings)
    precisions = list(dict.fromkeys(target.section.precisions))
    floats = [precision for precision in precisions if precision != "int8"] or ["fp32"]
    chosen = [Variant(product, precision) for precision in floats]
    chosen += [Variant(product, "int8")] if "int8" in precisions else []
    return [Variant(network, floats[0]) for network in others] + chosen


def onnx_stage(target: BuildTarget, variant: Variant) -> str:
    """The stage that makes the ONNX file a variant is compiled from."""
    return f"quantize {target.name}" if variant.precision == "int8" else f"simplify {variant.network}"


def onnx_path(target: BuildTarget, variant: Variant) -> str:
    """Where a variant's ONNX file is handed over, below the output folder."""
    suffix = f"-int8-{target.name}" if variant.precision == "int8" else ""
    return f"models/{variant.network}{suffix}.onnx"


def engine_path(target: BuildTarget, variant: Variant) -> str:
    """Where a variant's engine is handed over, below the output folder."""
    return f"engines/{target.name}/{variant.network}-{variant.precision}"


def published(settings: Settings, targets: Sequence[BuildTarget]) -> dict[str, Ref]:
    """What a build hands over: path below the output folder → artefact."""
    found = {f"report.{kind}": Ref("report", f"report.{kind}") for kind in ("html", "json", "md")}
    if settings.student:
        found["models/student.plan.json"] = Ref("structure", "plan.json")
    if settings.model.factory:
        for network in networks_of(settings):
            found[f"models/{network}.safetensors"] = Ref(network, "weights.safetensors")
    for target in targets:
        for variant in variants_of(settings, target):
            found[onnx_path(target, variant)] = Ref(onnx_stage(target, variant), "model.onnx")
            found[engine_path(target, variant)] = Ref(f"compile {target.name} {variant.name}", "engine")
    return found


def _device_name(device: str, folder: Path) -> str:
    """A path to a device file starts where build.toml lies."""
    return str(folder / device) if device.endswith(".toml") else device


def _refuse_doubles(names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise ConfigError(
                f"two targets are named {name!r}",
                where="targets",
                mend='give each a name of its own: name = "…"',
            )
