"""Reading build.toml: what is wrong in it is said all at once, with the key and what is allowed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.overrides import overridden
from pipeline.config.settings import Settings
from targets.datafile import read_text
from targets.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN_CODE = ("pipeline.zoo:", "pipeline.zoo.")


def load_settings(
    path: Path, allow_code: bool = False, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read and validate a build file.

    Args:
        path: the .toml file.
        allow_code: the build file may name a Python factory that is not edgewright's own.
        overrides: dotted key → value that takes the place of the file's, as in {"student.macs": 0.5}.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key, a wrong value, or code that was not allowed.
    """
    document = read_toml(path, "build file", "write one with: edgewright init")
    if overrides:
        document = overridden(document, overrides)
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise explain(
            error, path, Settings, "build file", "correct these keys; docs/build-file.md lists every key"
        ) from error
    _check_code(settings, path, allow_code)
    return settings


def read_toml(path: Path, what: str, absent: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: of the file.
        what: it is called in messages.
        absent: how to mend that there is none.

    Raises:
        ConfigError: missing, unreadable or not TOML.
    """
    try:
        document: dict[str, Any] = tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no such {what}", where=str(path), mend=absent) from error
    except OSError as error:
        raise ConfigError(f"cannot read the {what}: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path), mend="correct that line") from error
    return document


def _check_code(settings: Settings, path: Path, allow_code: bool) -> None:
    named = {"model.factory": settings.model.factory, "data.factory": settings.data.factory}
    for key, factory in named.items():
        if factory is None:
            continue
        if ":" not in factory:
            raise ConfigError(
                f"{key} is {factory!r}, not of the form module:function", where=f"{path}: {key}"
            )
        if not factory.startswith(OWN_CODE) and not allow_code:
            raise ConfigError(
                f"{key} = {factory!r} would run code that is not edgewright's own",
                where=f"{path}: {key}",
                mend="if you trust this build file, run the command again with --allow-code",
            )


def explain(error: ValidationError, path: Path, model: type[BaseModel], what: str, mend: str) -> ConfigError:
    """One message for all that is wrong in a file: the key's path, what was found, what is allowed.

    Args:
        error: of the validation.
        path: of the file.
        model: what it is validated as.
        what: it is called.
        mend: what to do.
    """
    problems = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            problems.append(f"{key}: unknown key{_suggest(model, item['loc'])}")
        elif item["type"] == "missing":
            problems.append(f"{key}: missing")
        elif item["type"] == "value_error":
            problems.append(f"{key}: {item['ctx']['error']}")
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            problems.append(f"{key}: found {item['input']!r:.80}; {message}")
    listed = "\n".join(f"    {problem}" for problem in problems)
    return ConfigError(f"the {what} is not valid:\n{listed}", where=str(path), mend=mend)


def _suggest(model: Any, location: tuple[int | str, ...]) -> str:
    """What the user may have meant by an unknown key, from the schema."""
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        model = next(
            (kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)),
            None,
        )
        if model is None:
            return ""
    near = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {near[0]!r}?)" if near else f"; known: {', '.join(model.model_fields)}"


def _kinds(annotation: Any) -> list[Any]:
    """The classes inside a type such as `list[TargetSection]` or `StudentSection | None`."""
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(kind for argument in arguments for kind in _kinds(argument))]
