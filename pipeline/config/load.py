"""Reading build.toml: what is wrong in it is said all at once, with the key and what is allowed."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.settings import Settings
from targets.datafile import read_text
from targets.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN_CODE = ("pipeline.zoo:", "pipeline.zoo.")


def load_settings(path: Path, allow_code: bool = False) -> Settings:
    """Read and validate a build file.

    Args:
        path: the .toml file.
        allow_code: the build file may name a Python factory that is not edgewright's own.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key, a wrong value, or code that was not allowed.
    """
    try:
        document = tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such build file", where=str(path), mend="write one with: edgewright init"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the build file: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path), mend="correct that line") from error
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise _explain(error, path) from error
    _check_code(settings, path, allow_code)
    return settings


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


def _explain(error: ValidationError, path: Path) -> ConfigError:
    """One message for all that is wrong: the key's path, what was found, what is allowed."""
    problems = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            problems.append(f"{key}: unknown key{_suggest(item['loc'])}")
        elif item["type"] == "missing":
            problems.append(f"{key}: missing")
        elif item["type"] == "value_error":
            problems.append(f"{key}: {item['ctx']['error']}")
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            problems.append(f"{key}: found {item['input']!r:.80}; {message}")
    return ConfigError(
        "the build file is not valid:\n" + "\n".join(f"    {problem}" for problem in problems),
        where=str(path),
        mend="correct these keys; docs/build-file.md lists every key",
    )


def _suggest(location: tuple[int | str, ...]) -> str:
    """What the user may have meant by an unknown key, from the schema."""
    model: Any = Settings
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
