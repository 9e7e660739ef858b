"""Values that take the place of a build file's own: one file, many builds."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from targets.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EVERY = "*"


def overridden(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put values into a parsed TOML document, one after the other.

    Args:
        document: stays as it is.
        overrides: dotted key → value. A number is a place in an array of tables, from 0, and `*` all of them,
            as in "targets.*.precisions". Tables that are missing are made.

    Raises:
        ConfigError: a key leads through something that is no table, or to a place an array does not have.
    """
    changed = copy.deepcopy(dict(document))
    for key, value in overrides.items():
        _put(changed, key.split("."), value, key)
    return changed


def parse_overrides(given: Sequence[str]) -> dict[str, Any]:
    """Read "key=value" from a command line: a TOML value, or text where it is none.

    Raises:
        ConfigError: there is no "=".
    """
    found = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not (key and equals):
            raise ConfigError(
                f"{item!r} is not of the form key=value", where="--set", mend="as in: --set student.macs=0.5"
            )
        found[key.strip()] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text


def _put(table: Any, path: Sequence[str], value: Any, key: str) -> None:
    first, *rest = path
    if isinstance(table, list):
        for place in _places(table, first, key):
            if rest:
                _put(table[place], rest, value, key)
            else:
                table[place] = copy.deepcopy(value)
    elif not isinstance(table, dict):
        raise ConfigError(
            f"the key {key!r} leads through {table!r}, which is no table", where=key, mend="correct the key"
        )
    elif rest:
        _put(table.setdefault(first, {}), rest, value, key)
    else:
        table[first] = copy.deepcopy(value)


def _places(array: Sequence[Any], part: str, key: str) -> list[int]:
    if part == EVERY:
        return list(range(len(array)))
    if part.isdecimal() and int(part) < len(array):
        return [int(part)]
    raise ConfigError(
        f"{part!r} is no place in an array of {len(array)}",
        where=key,
        mend=f"give a number from 0 to {len(array) - 1}, or {EVERY} for all",
    )
