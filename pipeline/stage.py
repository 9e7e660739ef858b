"""What a stage is, and what its key is made of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.sources import Facts, sources

PACKAGES = ("pipeline", "calibration", "targets")
ROOT = Path(__file__).parents[1]
# Modules every stage imports but whose text cannot change what a stage computes.
NOT_COMPUTING = frozenset({"targets.errors", "pipeline.stage"})

# Native code over somebody's model: an hour of four cores is more than any of it needs.
MOST_PROCESSOR_S = 4 * 3600

Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
    del what, done, total


@dataclass(frozen=True)
class Ref:
    """An artefact another stage makes: its stage's name and the artefact's."""

    stage: str
    artefact: str


@dataclass(frozen=True)
class Stage:
    """A function from named artefacts and settings to artefacts, run in a process of its own.

    Args:
        name: shown to the user; unique in a build.
        function: "module:function", called with a `Context`.
        inputs: name inside the stage → artefact of an earlier stage.
        files: name inside the stage → file or folder outside the store; part of the key.
        beside: further files the function reads, such as a model's external data, by what they are called
            there; their sizes and dates are part of the key.
        settings: JSON values; all of them are part of the key.
        tools: distributions whose versions are part of the key.
        fingerprint: of the device an engine is built or measured on.
        modules: modules the function reaches by a name in its settings; their code is part of the key too.
        environment: variables set before the child process starts; they change speed, never results.
        processes: how many run the function side by side, for functions that share their work (pipeline.fit);
            part of the key, as batch norm sees each one's part of a batch.
        processor_s: most seconds of processor time; for native code that works on somebody's model.
        alone: it measures time on this machine, so that no other such stage may run beside it.
    """

    name: str
    function: str
    inputs: Mapping[str, Ref] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    beside: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    processor_s: int | None = None
    alone: bool = False


@dataclass(frozen=True)
class Context:
    """What a stage's function is given.

    Args:
        inputs: name → file or folder of an artefact, read-only.
        files: name → file outside the store, read-only.
        settings: the stage's settings.
        out: empty folder; every top-level file or folder left in it is an artefact.
        debris: folder outside the store where a failing stage may leave what helps to mend it.
        progress: called with what is being done, how much is done, and how much there is.
    """

    inputs: Mapping[str, Path]
    files: Mapping[str, Path]
    settings: Mapping[str, Any]
    out: Path
    debris: Path
    progress: Progress


def code_digest(stage: Stage) -> str:
    """Digest of the code a stage can reach: its function's module, `modules`, and what they import of ours.

    Comments, docstrings and formatting do not count: a stage runs again when what it does may have
    changed, not when its description did.
    """
    roots = (stage.function.partition(":")[0], *stage.modules)
    lines = [f"{name} {_facts(name).digest}" for name in sorted(_reachable(roots))]
    sources().save()
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tool_versions(tools: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed distributions and of the Python that runs them."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    return versions | {tool: _version(tool) for tool in tools}


@cache
def _version(tool: str) -> str:
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _reachable(roots: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in NOT_COMPUTING:
            found.add(name)
            waiting.extend(_imports(name))
    return found


@cache
def _source(module: str) -> Path | None:
    """File of a module, found without importing it; `find_spec` would import its parents."""
    package, *rest = module.split(".")
    if package not in PACKAGES:
        spec = find_spec(module)
        return Path(spec.origin) if spec and spec.origin else None
    path = ROOT.joinpath(package, *rest)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@cache
def _facts(module: str) -> Facts:
    path = _source(module)
    return sources().facts(path.read_bytes() if path else b"")


@cache
def _imports(module: str) -> tuple[str, ...]:
    ours = (name for name in _facts(module).names if name.partition(".")[0] in PACKAGES)
    return tuple(name for name in ours if _source(name) is not None)
