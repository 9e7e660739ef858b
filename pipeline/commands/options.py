"""Options that several verbs have, and the kinds of values they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

BUILD_FILE = click.option(
    "--build",
    "build_file",
    type=click.Path(path_type=Path),
    default="build.toml",
    show_default=True,
    help="The build file.",
)
ALLOW_CODE = click.option(
    "--allow-code", is_flag=True, help="The build file may name Python code of its own (you trust it)."
)
HOST = click.option("--host", metavar="URL", help="ssh://user@name:port of the device: do it there.")
PYTHON = click.option("--python", default="python3", show_default=True, help="The Python on the host.")
OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="In place of what the build file says, as in student.macs=0.5; may be given several times.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class Numbers(click.ParamType[Any]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return them as a tuple of floats."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, or numbers with commas between them", param, ctx)


class Measure(click.ParamType[Any]):
    """A number, with or without a unit.

    Args:
        default: the unit without one.
        units: unit → how much of what the verb is given it stands for.
    """

    name = "number"

    def __init__(self, default: str, units: dict[str, float]) -> None:
        self.default, self.units = default, units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number in the verb's own unit."""
        number = value.rstrip("".join(self.units)).strip()
        unit = value[len(number) :].strip() or self.default
        try:
            return float(number) * self.units[unit]
        except (KeyError, ValueError):
            self.fail(f"{value!r} is not a number with one of the units {', '.join(self.units)}", param, ctx)


NUMBERS = Numbers()
SIZE = Measure("MB", {"B": 1, "kB": 1e3, "MB": 1e6})
TIME = Measure("ms", {"us": 1e-3, "ms": 1, "s": 1e3})


class Assignment(click.ParamType[Any]):
    """KEY=VALUE."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return key and value."""
        key, separator, rest = value.partition("=")
        if not separator or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, rest
