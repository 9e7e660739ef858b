"""What a build makes: targets with their devices, variants, and where each is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config import Settings, TargetSection
from pipeline.stage import Ref
from targets.capability import Capability, Device, load_device
from targets.cpu import cpu_flags
from targets.errors import ConfigError
from targets.native import native_precision
from targets.nvidia.preflight import preflight_version
from targets.tensorrt import TensorRt
from targets.toolchain import EngineOptions, load_toolchain
from targets.typed import as_raw

# Precisions that ship beside each other; the others are the float twins they are compared with.
QUANTIZED = ("int8", "mixed")
UNITS = {"bytes": "b", "latency_ms": "ms"}
# Of somebody's ONNX file all that is known before it is read: what is newer is refused everywhere.
NEWEST_OPSET = 23


@dataclass(frozen=True)
class BuildTarget:
    """A target with its device file read.

    Args:
        name: unique in the build.
        section: what build.toml says.
        device: what the device can do.
        capability: what it can do with the toolchain chosen.
        toolchain: name of that toolchain.
        opset: newest one the networks may come in.
        open_batch: they may come with a batch of any size.
        native: precision the runtime would compute a float model in by default.
    """

    name: str
    section: TargetSection
    device: Device
    capability: Capability
    toolchain: str
    opset: int
    open_batch: bool
    native: str = "fp32"

    @property
    def precisions(self) -> list[str]:
        """What is built, each once."""
        return list(dict.fromkeys(self.section.precisions or self.capability.default_precisions()))

    @property
    def raw(self) -> dict[str, str]:
        """Options for the runtime: the device's, and the build's, which win."""
        section = self.section
        typed = {"hint": section.hint, "streams": section.streams, "provider": section.provider}
        return self.capability.options | as_raw(self.toolchain, typed) | section.raw

    @cached_property
    def obstacle(self) -> str | None:
        """Why its engines are not run; None when they are, here or on the device."""
        if not self.section.engine:
            return "the build file asks for the model alone"
        if self.place is not None:
            return None
        return load_toolchain(self.toolchain).obstacle(EngineOptions(raw=self.raw))

    @cached_property
    def preflighted(self) -> str | None:
        """Version of TensorRT-RTX whose parser and builder are asked; None where it is not installed."""
        return preflight_version() if self.wants_preflight else None

    @property
    def wants_preflight(self) -> bool:
        """Whether NVIDIA's parser on this machine can say something of the toolchain's."""
        return self.toolchain == TensorRt.name

    def needs_form(self, precision: str) -> bool:
        """Whether networks have to be written in a form of this device's own."""
        half = self.capability.fp16 == "graph" and precision != "fp32"
        fixed = self.capability.shapes == "static" and self.open_batch
        return half or fixed or self.opset > self.capability.opset_max or not self.section.engine

    @property
    def place(self) -> dict[str, str] | None:
        """The device's address, as `pipeline.places` takes it; None for this machine."""
        if self.section.host is None:
            return None
        return {"url": self.section.host, "python": self.section.python}


@dataclass(frozen=True)
class Variant:
    """One network at one precision.

    Args:
        network: as in `networks_of`.
        precision: of the engine.
        role: "product" ships; its "float twin" is what quantization is judged by; a "baseline" is neither.
    """

    network: str
    precision: str
    role: str

    @property
    def name(self) -> str:
        """As the report shows it."""
        return f"{self.network} {self.precision}"

    @property
    def runs_as(self) -> str:
        """The precision a runtime is asked for: channels of different bits are INT8 to it."""
        return "int8" if self.precision == "mixed" else self.precision

    @property
    def ships(self) -> bool:
        """Whether it belongs to a network that ships; baselines are measured, but stop no build."""
        return self.role != "baseline"


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
        opset = NEWEST_OPSET if settings.model.onnx else settings.export.opset
        open_batch = bool(settings.model.onnx) or settings.export.dynamic_batch
        here = section.host is None
        native = native_precision(toolchain, cpu_flags()) if here else "fp32"
        found.append(BuildTarget(name, section, device, capability, toolchain, opset, open_batch, native))
    _refuse_doubles([target.name for target in found])
    return found


def students_of(settings: Settings) -> dict[str, tuple[str, float]]:
    """Student → its budget: what is counted, and how much of it there may be.

    One budget makes "student"; several make a family named after them, as in "student-50".
    """
    if settings.student is None:
        return {}
    kind, limits = settings.student.budget
    if len(limits) == 1:
        return {"student": (kind, limits[0])}
    return {f"student-{_said(kind, limit)}": (kind, limit) for limit in limits}


def networks_of(settings: Settings) -> list[str]:
    """The build's networks, the one everything started from first."""
    if settings.model.onnx:
        return ["model"]
    return ["teacher", *students_of(settings)]


def labels_of(settings: Settings) -> str:
    """Who says what an image shows: the data set, or the network everything started from."""
    return "data set" if settings.data.labelled else networks_of(settings)[0]


def variants_of(settings: Settings, target: BuildTarget) -> list[Variant]:
    """What is compiled for a target: what ships at every precision asked for, the teacher to compare with.

    The first float precision is the float twin everything is compared with. Where a quantized one ships,
    the one the runtime would choose by itself is a twin as well: users without this build get that one. The
    teacher is quantized as well where its students are: what plain quantization would have come to. Where
    engines are not run there is nothing to compare, and only what ships is made.
    """
    precisions = target.precisions
    floats = [precision for precision in precisions if precision not in QUANTIZED]
    floats = floats or [str(target.capability.default_precisions()[0])]
    quantized = [precision for precision in QUANTIZED if precision in precisions]
    if quantized and target.native != "fp32" and target.native not in floats:
        floats.append(target.native)
    ordered = floats + quantized
    first, *rest = networks_of(settings)
    shipped = ordered[len(floats) :] or ordered[-1:]
    roles = dict.fromkeys(ordered, "float twin") | dict.fromkeys(shipped, "product")
    if target.obstacle is not None:
        networks = rest or [first]
        return [
            Variant(network, precision, roles[precision]) for network in networks for precision in ordered
        ]
    if not rest:
        return [Variant(first, precision, roles[precision]) for precision in ordered]
    baselines = [floats[0]] + ["int8"] * (len(ordered) > len(floats))
    return [Variant(first, precision, "baseline") for precision in baselines] + [
        Variant(network, precision, roles[precision]) for network in rest for precision in ordered
    ]


def timed_target(settings: Settings, targets: Sequence[BuildTarget]) -> BuildTarget:
    """The target a latency budget is for.

    Raises:
        ConfigError: the build has no target of that name.
    """
    wanted = settings.student.target if settings.student else None
    for target in targets:
        if wanted in (None, target.name):
            return target
    raise ConfigError(
        f"the build has no target {wanted!r}",
        where="student.target",
        mend=f"choose from: {', '.join(target.name for target in targets)}",
    )


def may_ship(settings: Settings, variant: Variant) -> bool:
    """Whether a variant ships, or would in the place of a product that does not pay."""
    stands_by = settings.pays.otherwise == "float" and variant.role == "float twin"
    return variant.role == "product" or stands_by


def product_precision(settings: Settings, target: BuildTarget) -> str:
    """The precision that ships on a target; INT8 where it ships too, before a mixed one."""
    return next(each.precision for each in variants_of(settings, target) if each.role == "product")


def quantized(target: BuildTarget, network: str) -> str:
    """The stage that writes a network in a target's INT8 convention."""
    return f"quantize {network} {target.name}"


def mixed(target: BuildTarget, network: str) -> str:
    """The stage that gives the channels of a quantized network fewer bits."""
    return f"mix {network} {target.name}"


def formed(target: BuildTarget, variant: Variant) -> str:
    """The stage that writes a variant in the form its device needs."""
    return f"form {variant.name} {target.name}"


def onnx_stage(target: BuildTarget, variant: Variant) -> str:
    """The stage that makes the ONNX file a variant is compiled from."""
    return formed(target, variant) if target.needs_form(variant.precision) else source_stage(target, variant)


def source_stage(target: BuildTarget, variant: Variant) -> str:
    """The stage that makes a variant's ONNX file, before its device's own form."""
    if variant.precision == "mixed":
        return mixed(target, variant.network)
    if variant.precision == "int8":
        return quantized(target, variant.network)
    return f"simplify {variant.network}"


def onnx_path(target: BuildTarget, variant: Variant) -> str:
    """Where a variant's ONNX file is handed over, below the output folder."""
    own = variant.precision in QUANTIZED or target.needs_form(variant.precision)
    suffix = f"-{variant.precision}-{target.name}" if own else ""
    return f"models/{variant.network}{suffix}.onnx"


def packed_path(target: BuildTarget, variant: Variant) -> str | None:
    """Where a file is handed over that unpacks to that very ONNX file; None where there is none."""
    if variant.precision != "mixed" or target.needs_form(variant.precision):
        return None
    return onnx_path(target, variant).removesuffix(".onnx") + ".packed"


def engine_path(target: BuildTarget, variant: Variant) -> str:
    """Where a variant's engine is handed over, below the output folder."""
    return f"engines/{target.name}/{variant.network}-{variant.precision}"


def golden_path(target: BuildTarget, variant: Variant) -> str:
    """Where real inputs and expected outputs of a product are handed over, below the output folder."""
    return f"golden/{target.name}/{variant.network}-{variant.precision}"


def published(settings: Settings, targets: Sequence[BuildTarget]) -> dict[str, Ref]:
    """What a build hands over: path below the output folder → artefact."""
    found = {f"report.{kind}": Ref("report", f"report.{kind}") for kind in ("html", "json", "md")}
    for student in students_of(settings):
        found[f"models/{student}.plan.json"] = Ref(f"structure {student}", "plan.json")
    if settings.model.factory:
        for network in networks_of(settings):
            found[f"models/{network}.safetensors"] = Ref(network, "weights.safetensors")
    for target in targets:
        for variant in variants_of(settings, target):
            found[onnx_path(target, variant)] = Ref(onnx_stage(target, variant), "model.onnx")
            if may_ship(settings, variant):
                golden = Ref(f"golden {target.name} {variant.name}", "golden")
                found[golden_path(target, variant)] = golden
            if not target.section.engine:
                continue
            found[engine_path(target, variant)] = Ref(f"compile {target.name} {variant.name}", "engine")
            if variant.precision == "mixed":
                path, stage = onnx_path(target, variant).removesuffix(".onnx"), mixed(target, variant.network)
                found[f"{path}.packed"] = Ref(stage, "model.packed")
                found[f"{path}.bits.json"] = Ref(stage, "bits.json")
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


def _said(kind: str, limit: float) -> str:
    """A budget as a part of a name: per cent for shares, else the figure with its unit."""
    if kind in ("macs", "parameters"):
        return f"{100 * limit:g}"
    return f"{limit:g}{UNITS[kind]}"
