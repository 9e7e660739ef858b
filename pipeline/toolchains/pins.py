"""Which files each toolchain is made of: pins.toml, and what of it fits this Python."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from packaging.tags import sys_tags
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from pydantic import Field

from targets.datafile import Part, read_data_file
from targets.errors import ConfigError, ToolchainMissing

PINS = Path(__file__).with_name("pins.toml")


class PinnedFile(Part):
    """One file of the package index."""

    file: str = Field(pattern=r"^[\w.+-]+\.(whl|tar\.gz)$")
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def is_wheel(self) -> bool:
        """Whether installing it runs no code of its own."""
        return self.file.endswith(".whl")

    @property
    def requirement(self) -> str:
        """Name and version, as pip takes them."""
        parse = parse_wheel_filename if self.is_wheel else parse_sdist_filename
        name, version = parse(self.file)[:2]
        return f"{name}=={version}"

    @property
    def foreign(self) -> tuple[str, str]:
        """Python version and platform it is for, as pip's options name them."""
        tag = next(iter(parse_wheel_filename(self.file)[3]))
        digits = tag.interpreter[2:]
        return f"{digits[0]}.{digits[1:]}", tag.platform

    def fits(self) -> bool:
        """Whether this Python on this machine can use it."""
        return not self.is_wheel or not parse_wheel_filename(self.file)[3].isdisjoint(sys_tags())


class Program(Part):
    """A small program of edgewright's own that a toolchain needs, compiled here."""

    source: str = Field(description="in targets/")
    file: str
    beside: str = Field(description="name of the file it is put beside")
    compiler: str


class PinnedToolchain(Part):
    """What a toolchain is made of."""

    what: str
    licence: str
    way: Literal["packages", "unpacked"] = Field(
        description="packages of this Python, or wheels for another one that are unpacked"
    )
    system: list[str] = Field(default=[], description="Debian packages it needs at last")
    program: Program | None = None
    files: list[PinnedFile] = Field(min_length=1)

    def chosen(self) -> list[PinnedFile]:
        """The files to install here, one of each distribution.

        Raises:
            ToolchainMissing: there are none for this Python or this machine.
        """
        if self.way == "unpacked":
            return self.files
        fitting = {file.requirement: file for file in self.files if file.fits()}
        missing = sorted({file.requirement for file in self.files} - fitting.keys())
        if missing:
            raise ToolchainMissing(
                f"there is no {', '.join(missing)} for this Python and machine",
                mend="use Python 3.11 to 3.13 on x86-64 Linux, or install it by other means",
            )
        return list(fitting.values())


class Pins(Part):
    """All of pins.toml."""

    schema_: Literal["edgewright.toolchains/1"] = Field(alias="schema")
    toolchains: dict[str, PinnedToolchain]


def pinned(name: str, path: Path = PINS) -> PinnedToolchain:
    """Return what a toolchain is made of.

    Raises:
        ConfigError: none of that name is pinned.
    """
    known = read_data_file(path, Pins, "file of pins").toolchains
    if name not in known:
        raise ConfigError(
            f"there is nothing to install for {name!r}", mend=f"choose from: {', '.join(sorted(known))}"
        )
    return known[name]


def pinned_names(path: Path = PINS) -> list[str]:
    """Return the toolchains that can be installed."""
    return sorted(read_data_file(path, Pins, "file of pins").toolchains)
