"""Run stages, each in a process of its own; resume; explain why a stage runs or is reused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pipeline.child import run_child
from pipeline.disk import write_whole
from pipeline.listing import entries_below
from pipeline.quiet import machine_alone
from pipeline.stage import Progress, Stage, code_digest, tool_versions
from pipeline.store import Entry, Store, key_of
from targets.errors import ConfigError
from targets.toolchain import file_sha256

STATE_FILE = "state.json"

Outcome = Literal["ran", "reused"]


class Listener:
    """What a run tells the user about; the default tells nothing."""

    def started(self, stage: Stage) -> None:
        """A stage starts."""

    def progress(self, what: str, done: int, total: int) -> None:
        """The running stage got on."""

    def waiting(self, stage: Stage) -> None:
        """Another build is making the same output."""

    def queued(self, stage: Stage, holder: str) -> None:
        """Somebody else measures on this machine; told again and again until the stage's turn comes."""

    def finished(self, stage: Stage, entry: Entry, outcome: Outcome) -> None:
        """A stage is done."""


@dataclass(frozen=True)
class Decision:
    """Why a stage would run or be reused.

    Args:
        stage: its name.
        action: what a build would do.
        reasons: one line each, naming the part of the key that differs.
    """

    stage: str
    action: Literal["run", "reuse", "wait"]
    reasons: tuple[str, ...]


class Run:
    """The stages of one build, against one store.

    Args:
        store: where outputs are found and kept.
        folder: the build's own folder: logs, and what each stage was made of the last time.
        debris: where a failing stage leaves what helps to mend it.
        code_path: folder of the user's own Python modules, or None when they may not run.
        listener: told what happens.
    """

    def __init__(
        self, store: Store, folder: Path, debris: Path, code_path: Path | None, listener: Listener
    ) -> None:
        self.store = store
        self.folder = folder
        self.debris = debris
        self.code_path = code_path
        self.listener = listener
        self.entries: dict[str, Entry] = {}
        self.ran: list[str] = []

    def run(self, stages: Sequence[Stage]) -> None:
        """Bring every stage's output into the store, running only what is not there.

        Raises:
            EdgewrightError: what a stage raised; everything finished before stays finished.
        """
        remembered = self._remembered()
        for stage in stages:
            parts = self.parts(stage)
            key = key_of(parts)
            entry = self.store.find(key)
            outcome: Outcome = "reused"
            if entry is None:
                with self.store.making(key, lambda stage=stage: self.listener.waiting(stage)) as work:
                    entry = self.store.find(key)
                    if entry is None:
                        entry, outcome = self._make(stage, key, parts, work), "ran"
                        self.ran.append(stage.name)
            self.entries[stage.name] = entry
            if remembered.get(stage.name) != parts:
                remembered[stage.name] = parts
                write_whole(self.folder / STATE_FILE, json.dumps(remembered, indent=1))
            self.listener.finished(stage, entry, outcome)

    def explain(self, stages: Sequence[Stage]) -> list[Decision]:
        """Say for every stage what a run would do now, and why. Runs and writes nothing."""
        remembered = self._remembered()
        decisions = []
        unknown: set[str] = set()
        for stage in stages:
            waits = [ref.stage for ref in stage.inputs.values() if ref.stage in unknown]
            if waits:
                unknown.add(stage.name)
                reason = f"takes from {', '.join(dict.fromkeys(waits))}, which runs first"
                decisions.append(Decision(stage.name, "wait", (reason,)))
                continue
            parts = self.parts(stage)
            entry = self.store.find(key_of(parts))
            if entry is None:
                unknown.add(stage.name)
                decisions.append(Decision(stage.name, "run", _why(remembered.get(stage.name), parts)))
            else:
                self.entries[stage.name] = entry
                reason = f"all of its key is as when it was made, {entry.finished_at}"
                decisions.append(Decision(stage.name, "reuse", (reason,)))
        return decisions

    def parts(self, stage: Stage) -> dict[str, Any]:
        """Everything a stage's output depends on, as JSON values."""
        return {
            "stage": stage.function,
            "code": code_digest(stage),
            "settings": json.loads(json.dumps(stage.settings)),
            "inputs": {
                name: self.entries[ref.stage].digest(ref.artefact) for name, ref in stage.inputs.items()
            },
            "files": {name: outside_digest(path) for name, path in stage.files.items()},
            "beside": {name: _stat_line(path) for name, path in stage.beside.items()},
            "tools": tool_versions(stage.tools),
            "device": dict(stage.fingerprint),
        } | ({"processes": stage.processes} if stage.processes > 1 else {})

    def _make(self, stage: Stage, key: str, parts: Mapping[str, Any], work: Path) -> Entry:
        self.listener.started(stage)
        log = self.folder / "logs" / f"{_slug(stage.name)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        debris = self.debris / _slug(stage.name)
        inputs = {name: self.entries[ref.stage].out / ref.artefact for name, ref in stage.inputs.items()}
        request = _request(stage, inputs, work / "out", debris, self.code_path)
        with self._turn(stage):
            begun = time.monotonic()
            memory = run_child(stage, request, log, self.listener.progress)
            seconds = round(time.monotonic() - begun, 3)
        # What an earlier failure left would now speak of something that is no longer so.
        shutil.rmtree(debris, ignore_errors=True)
        return self.store.commit(
            work,
            stage=stage.name,
            key=key,
            parts=parts,
            seconds=seconds,
            memory=memory,
            now=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def _turn(self, stage: Stage) -> AbstractContextManager[None]:
        if not stage.alone:
            return nullcontext()
        who = f"{stage.name!r} of {self.folder.name} (process {os.getpid()})"
        return machine_alone(who, lambda holder: self.listener.queued(stage, holder))

    def _remembered(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state


def run_alone(stage: Stage, inputs: Mapping[str, Path], out: Path, log: Path, progress: Progress) -> None:
    """Run a stage's function outside of any build, in a process of its own and within the same limits.

    Args:
        stage: function, settings and limits.
        inputs: name inside the stage → file or folder.
        out: empty folder it writes to.
        log: file for all the child prints; removed when it did not fail.
        progress: told what the child tells.

    Raises:
        EdgewrightError: as of `run_child`.
    """
    run_child(stage, _request(stage, inputs, out, out, None), log, progress)
    log.unlink()


def outside_digest(path: Path) -> str:
    """Digest of a file's contents, or of a folder's listing (names, sizes, dates of change).

    A folder that was only touched makes its stage run again; when that gives the same output, everything
    after it is still reused.

    Raises:
        ConfigError: there is nothing at that path.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for line in _listing(path):
            digest.update(os.fsencode(line))
        return digest.hexdigest()
    digest_of_file = file_sha256(path)
    if not digest_of_file:
        raise ConfigError(
            "there is no such file, or it cannot be read", where=str(path), mend="correct the build file"
        )
    return digest_of_file


def _request(
    stage: Stage, inputs: Mapping[str, Path], out: Path, debris: Path, code_path: Path | None
) -> dict[str, Any]:
    """What pipeline.worker is asked for."""
    return {
        "function": stage.function,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "files": {name: str(path) for name, path in stage.files.items()},
        "settings": stage.settings,
        "processes": stage.processes,
        "processor_s": stage.processor_s,
        "out": str(out),
        "debris": str(debris),
        "code_path": str(code_path) if code_path else None,
    }


def _listing(folder: Path) -> Iterator[str]:
    for name, entry in entries_below(folder):
        yield f"{name} {_facts(entry.stat())}\n"


def _stat_line(path: Path) -> str:
    return _facts(path.stat())


def _facts(facts: os.stat_result) -> str:
    return f"{facts.st_size} bytes of {facts.st_mtime_ns}"


def _why(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[str, ...]:
    if before is None:
        return ("it has not run in this build yet",)
    changed = tuple(_differences("", before, now))
    return changed or ("its output is no longer in the store, or was damaged",)


def _differences(path: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(f"{path}.{key}".lstrip("."), before.get(key), now.get(key))
    elif before != now:
        yield f"{path}: {_short(before)} → {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    looks_like_digest = isinstance(value, str) and len(value) == 64
    return value[:12] if looks_like_digest else (text if len(text) <= 60 else text[:57] + "…")


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
