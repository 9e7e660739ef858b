"""Devices as data: what each can do with each toolchain.

A device is a file in targets/devices/ (docs/targets.md explains every key). This module needs pydantic and
packaging; it is for the build machine and does not travel to devices.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import Field, field_validator, model_validator

from targets.checks import check_model, check_request
from targets.cpu import ROOT, cpu_flags
from targets.datafile import Part, read_data_file, schema_of
from targets.errors import ConfigError
from targets.operators import table_names
from targets.toolchain import TOOLCHAINS
from targets.violation import Violation

__all__ = [
    "Capability",
    "Device",
    "Dla",
    "QuantizationConvention",
    "Violation",
    "check_model",
    "check_request",
    "device_json_schema",
    "device_names",
    "load_device",
    "this_machine",
]

DEVICE_SCHEMA = "edgewright.device/1"
DEVICES = Path(__file__).parent / "devices"
THIS_MACHINE = "this-machine"

# What "this-machine" may stand for; the first that fits does.
GENERAL_DEVICES = ("x86-vnni", "x86-avx2", "arm-neon", "any-onnxruntime")

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class QuantizationConvention(Part):
    """How int8 has to be written for a toolchain on a device. Weights: int8, symmetric per output channel."""

    activations: Literal["int8-symmetric", "uint8-asymmetric"] = Field(
        description="per tensor; symmetric means zero-point 0"
    )
    weight_bits: Literal[7, 8] = Field(
        description="7: values within ±63, so that pairs of u8·s8 products cannot saturate in 16 bits"
    )
    quantize_residual_inputs: bool = Field(description="QDQ on both inputs of a residual Add")


class Dla(Part):
    """A deep learning accelerator beside the GPU; layers it does not take fall back to the GPU."""

    cores: int = Field(ge=1)
    precisions: list[Precision] = Field(min_length=1)
    operators: str = Field(description="table in targets/operators/: what it takes")

    @field_validator("operators")
    @classmethod
    def _has_table(cls, value: str) -> str:
        return _known_table(value)


class Capability(Part):
    """What one toolchain can do on one device."""

    runtime: str = Field(description="versions of the runtime, as in '>=1.23,<2' (PEP 440)")
    precisions: list[Precision] = Field(
        min_length=1, description="the first float one, and int8, are what a build makes by default"
    )
    fp16: Literal["runtime", "graph"] = Field(
        default="runtime", description="who makes floats 16 bits wide: the runtime, or the ONNX graph has to"
    )
    quantization: QuantizationConvention | None = Field(
        default=None, description="needed where precisions has int8"
    )
    channel_alignment: int = Field(ge=1, description="channels are kept at multiples of this")
    shapes: Literal["static", "dynamic"]
    opset_min: int = Field(ge=7)
    opset_max: int = Field(ge=7)
    operators: str | None = Field(
        default=None, description="table in targets/operators/; without one all operators run but those below"
    )
    unsupported_operators: dict[str, str] = Field(
        default_factory=dict, description="ONNX operator → why it does not run, and how to mend"
    )
    dla: Dla | None = None
    options: dict[str, str] = Field(
        default_factory=dict, description="raw options of every engine; a build's own win"
    )
    source: dict[str, str] = Field(
        default_factory=dict, description="key of this table → where the fact is from"
    )

    @field_validator("runtime")
    @classmethod
    def _is_specifier(cls, value: str) -> str:
        try:
            SpecifierSet(value)
        except InvalidSpecifier as error:
            raise ValueError("not a version range; write it as '>=1.23,<2'") from error
        return value

    @field_validator("operators")
    @classmethod
    def _has_table(cls, value: str | None) -> str | None:
        return value and _known_table(value)

    @model_validator(mode="after")
    def _is_consistent(self) -> Capability:
        if self.opset_min > self.opset_max:
            raise ValueError(f"opset_min {self.opset_min} is above opset_max {self.opset_max}")
        if "int8" in self.precisions and self.quantization is None:
            raise ValueError("precisions has int8, so a table quantization is needed")
        _check_source(self, self.source)
        return self

    def default_precisions(self) -> list[Precision]:
        """Return the first float precision, and int8 where the device has it."""
        floats: list[Precision] = [precision for precision in self.precisions if precision != "int8"]
        return floats[:1] + [precision for precision in self.precisions if precision == "int8"]


class Device(Part):
    """A device: its CPU, its memory, and the toolchains that build for it."""

    schema_: Literal["edgewright.device/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    architecture: Literal["x86_64", "aarch64", "any"]
    cpu_flags_required: list[str] = Field(
        default_factory=list, description="as Linux names them; 'a|b' means either"
    )
    memory_mib: list[int] = Field(
        default_factory=list, description="of each module that goes by this name, smallest first"
    )
    toolchains: dict[str, Capability] = Field(min_length=1, description="the first is the default")
    source: dict[str, str] = Field(
        default_factory=dict, description="key of this table → where the fact is from"
    )

    @field_validator("toolchains")
    @classmethod
    def _have_adapters(cls, value: dict[str, Capability]) -> dict[str, Capability]:
        unknown = sorted(set(value) - set(TOOLCHAINS))
        if unknown:
            raise ValueError(f"no toolchain {', '.join(unknown)}; there are {', '.join(sorted(TOOLCHAINS))}")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Device:
        _check_source(self, self.source)
        return self

    def capability(self, toolchain: str | None = None) -> Capability:
        """Return what a toolchain can do here; without a name, the first one's.

        Raises:
            ConfigError: the device has no such toolchain.
        """
        if toolchain is None:
            toolchain = next(iter(self.toolchains))
        if toolchain not in self.toolchains:
            raise ConfigError(
                f"device {self.name} has no toolchain {toolchain!r}",
                mend=f"use one of: {', '.join(self.toolchains)}",
            )
        return self.toolchains[toolchain]

    def runs_on(self, architecture: str, flags: frozenset[str]) -> bool:
        """Say whether a machine is such a device.

        Args:
            architecture: as platform.machine() has it.
            flags: CPU flags as Linux names them.
        """
        has_flags = all(flags.intersection(flag.split("|")) for flag in self.cpu_flags_required)
        return self.architecture in (architecture, "any") and has_flags


def device_names() -> list[str]:
    """Return the names of the devices that come with edgewright."""
    return sorted(path.stem for path in DEVICES.glob("*.toml"))


def this_machine(architecture: str | None = None, root: Path = ROOT) -> str:
    """Return the name of the general device that this machine is.

    Args:
        architecture: as platform.machine() has it, the default.
        root: folder that holds proc/.
    """
    flags = cpu_flags(root)
    fitting = (
        name
        for name in GENERAL_DEVICES
        if load_device(name).runs_on(architecture or platform.machine(), flags)
    )
    return next(fitting)


def load_device(name_or_path: str) -> Device:
    """Read a device by name, "this-machine", or the path of a .toml file of your own.

    Raises:
        ConfigError: there is no such device, or its file has an unknown key or an impossible value.
    """
    if name_or_path.endswith(".toml"):
        return read_data_file(Path(name_or_path), Device, "device file")
    if name_or_path == THIS_MACHINE:
        return load_device(this_machine())
    if name_or_path not in device_names():
        known = ", ".join([*device_names(), THIS_MACHINE])
        raise ConfigError(
            f"there is no device {name_or_path!r}", mend=f"use one of: {known}; or a path that ends in .toml"
        )
    return read_data_file(DEVICES / f"{name_or_path}.toml", Device, "device file")


def device_json_schema() -> dict[str, Any]:
    """Return the JSON schema of device files, published as docs/schema/device.schema.json."""
    return schema_of(Device)


def _known_table(name: str) -> str:
    if name not in table_names():
        raise ValueError(f"there is no table {name!r}; there are {', '.join(table_names()) or 'none'}")
    return name


def _check_source(part: Part, source: dict[str, str]) -> None:
    unknown = sorted(set(source) - set(type(part).model_fields))
    if unknown:
        raise ValueError(f"source names {', '.join(unknown)}, which are no keys of this table")
