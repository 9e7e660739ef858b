"""Devices as data: what each can do with each toolchain.

A device is a file in targets/devices/ (docs/targets.md explains every key). This module needs pydantic and
packaging; it is for the build machine and does not travel to devices.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from targets.checks import Violation, check_model, check_request
from targets.cpu import ROOT, cpu_flags
from targets.errors import ConfigError
from targets.toolchain import TOOLCHAINS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Capability",
    "Device",
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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)


class QuantizationConvention(_Part):
    """How int8 has to be written for a toolchain on a device. Weights: int8, symmetric per output channel."""

    activations: Literal["int8-symmetric", "uint8-asymmetric"] = Field(
        description="per tensor; symmetric means zero-point 0"
    )
    weight_bits: Literal[7, 8] = Field(
        description="7: values within ±63, so that pairs of u8·s8 products cannot saturate in 16 bits"
    )
    quantize_residual_inputs: bool = Field(description="QDQ on both inputs of a residual Add")


class Capability(_Part):
    """What one toolchain can do on one device."""

    runtime: str = Field(description="versions of the runtime, as in '>=1.23,<2' (PEP 440)")
    precisions: list[Precision] = Field(min_length=1)
    quantization: QuantizationConvention | None = Field(
        default=None, description="needed where precisions has int8"
    )
    channel_alignment: int = Field(ge=1, description="channels are kept at multiples of this")
    shapes: Literal["static", "dynamic"]
    opset_min: int = Field(ge=7)
    opset_max: int = Field(ge=7)
    unsupported_operators: dict[str, str] = Field(
        default_factory=dict, description="ONNX operator → why it does not run, and how to mend"
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

    @model_validator(mode="after")
    def _is_consistent(self) -> Capability:
        if self.opset_min > self.opset_max:
            raise ValueError(f"opset_min {self.opset_min} is above opset_max {self.opset_max}")
        if "int8" in self.precisions and self.quantization is None:
            raise ValueError("precisions has int8, so a table quantization is needed")
        unknown = sorted(set(self.source) - set(type(self).model_fields))
        if unknown:
            raise ValueError(f"source names {', '.join(unknown)}, which are no keys of this table")
        return self


class Device(_Part):
    """A device: its CPU, and the toolchains that build for it."""

    schema_: Literal["edgewright.device/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    architecture: Literal["x86_64", "aarch64", "any"]
    cpu_flags_required: list[str] = Field(
        default_factory=list, description="as Linux names them; 'a|b' means either"
    )
    toolchains: dict[str, Capability] = Field(min_length=1, description="the first is the default")

    @field_validator("toolchains")
    @classmethod
    def _have_adapters(cls, value: dict[str, Capability]) -> dict[str, Capability]:
        unknown = sorted(set(value) - set(TOOLCHAINS))
        if unknown:
            raise ValueError(f"no toolchain {', '.join(unknown)}; there are {', '.join(sorted(TOOLCHAINS))}")
        return value

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
        return _read_device(Path(name_or_path))
    if name_or_path == THIS_MACHINE:
        return load_device(this_machine())
    if name_or_path not in device_names():
        known = ", ".join([*device_names(), THIS_MACHINE])
        raise ConfigError(
            f"there is no device {name_or_path!r}", mend=f"use one of: {known}; or a path that ends in .toml"
        )
    return _read_device(DEVICES / f"{name_or_path}.toml")


def device_json_schema() -> dict[str, Any]:
    """Return the JSON schema of device files, published as docs/schema/device.schema.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Device.model_json_schema(by_alias=True),
    }


def _read_device(path: Path) -> Device:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the device file cannot be read: {error}", where=str(path), mend="give a readable TOML file"
        ) from error
    try:
        return Device.model_validate(table)
    except ValidationError as error:
        faults = [_fault(fault) for fault in error.errors()]
        raise ConfigError(
            "\n".join(["this is no device file:", *(f"    {fault}" for fault in faults)]),
            where=str(path),
            mend="docs/targets.md explains every key",
        ) from error


def _fault(fault: ErrorDetails) -> str:
    """One line: the key's path, what was found, what is allowed."""
    path = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    kind, found = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"{path}: unknown key; allowed here: {', '.join(_keys(fault['loc']))}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "literal_error":
        return f"{path}: found {found!r}; allowed: {fault['ctx']['expected']}"
    if kind == "value_error":
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{path}: found {found!r}; it should{fault['msg'].partition('should')[2]}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the table that holds this location."""
    tables: dict[int, type[_Part]] = {1: Device, 3: Capability, 4: QuantizationConvention}
    fields = tables[len(location)].model_fields
    return [field.alias or name for name, field in fields.items()]
