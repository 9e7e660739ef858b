"""Data files of targets/: TOML read strictly; a fault is told as key, what was found, what is allowed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from targets.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Part", "read_data_file", "read_text", "schema_of"]

LARGEST_TOML = 1 << 20


class Part(BaseModel):
    """A table of a data file: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)


Table = TypeVar("Table", bound=Part)


def read_data_file(path: Path, model: type[Table], kind: str) -> Table:
    """Read a TOML file into a model.

    Args:
        path: the file.
        model: what it must hold.
        kind: what such a file is called, as in "device file".

    Raises:
        ConfigError: it cannot be read, or has an unknown key or an impossible value.
    """
    try:
        table = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the {kind} cannot be read: {error}", where=str(path), mend="give a readable TOML file"
        ) from error
    try:
        return model.model_validate(table)
    except ValidationError as error:
        faults = [_fault(model, fault) for fault in error.errors()]
        raise ConfigError(
            "\n".join([f"this is no {kind}:", *(f"    {fault}" for fault in faults)]),
            where=str(path),
            mend="docs/targets.md explains every key",
        ) from error


def read_text(path: Path, largest: int = LARGEST_TOML) -> str:
    """Return the text of a file that people write, unless it is larger than any of them.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8 text, or larger.
    """
    with path.open("rb") as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content.decode("utf-8")


def schema_of(model: type[Part]) -> dict[str, Any]:
    """Return the JSON schema of a kind of data file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(by_alias=True),
    }


def _fault(model: type[Part], fault: ErrorDetails) -> str:
    """One line: the key's path, what was found, what is allowed."""
    path = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    kind, found = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"{path}: unknown key; allowed here: {', '.join(_keys(model, fault['loc']))}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "literal_error":
        return f"{path}: found {found!r}; allowed: {fault['ctx']['expected']}"
    if kind == "value_error":
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{path}: found {found!r}; it should{fault['msg'].partition('should')[2]}"


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the table that holds this location; names of subtables and indices are passed over."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        model = (field and _model_in(field.annotation)) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: itself, or inside Optional, list or dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inner if model), None)
