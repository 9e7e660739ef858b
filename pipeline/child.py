"""A stage's own process, seen from the build.

Most of what a short stage would take is starting Python and importing what it works with. So a process that
only imports is forked for every stage: each is alone in its process, a crash costs that stage only, and its
memory goes back when it ends. A forked process differs from a fresh one by what was imported before the fork
alone, and importing edgewright's stages starts no threads. There is one such process for stages with torch,
which is large, and one for the others.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.stage import Progress, Stage
from targets.errors import EdgewrightError, StageError, revived

# What a death most often means.
HINTS: dict[int, str] = {
    signal.SIGKILL: " (often: out of memory)",
    signal.SIGABRT: " (often: out of memory, or a fault in native code)",
    signal.SIGXCPU: " (it took more processor time than such a stage may)",
}

# Threads of one operator that wait for each other soon go to sleep, as libgomp lets them where it knows of
# more threads than processors. By default they spin for long: beside other work scoring then hardly gets on.
WAITING = {"GOMP_SPINCOUNT": "1000"}

Key = tuple[bool, frozenset[tuple[str, str]]]


class Server:
    """A process that imports the modules of stages and runs each stage in a fork of itself.

    Args:
        environment: variables set before it starts.
        log: file for what it prints while it starts.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        reading, writing = os.pipe()
        self.events: IO[str] = os.fdopen(reading, encoding="utf-8")
        with os.fdopen(writing, "wb"), log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.worker", str(writing), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                env={**WAITING, **os.environ, **environment},
            )

    def run(self, request: Mapping[str, Any], progress: Progress) -> tuple[dict[str, Any] | None, int]:
        """Run a stage; return its last word, None when it said nothing, and its process's exit code."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None, self.process.wait()
        last = None
        for event in map(_event, self.events):
            if "progress" in event:
                progress(*event["progress"])
            elif "ended" in event:
                return last, event["ended"]
            else:
                last = event or last
        return last, self.process.wait()

    def end(self) -> None:
        """Leave no process behind: with this one the kernel ends the stage that runs."""
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.events.close()


def _event(line: str) -> dict[str, Any]:
    """What a line says; nothing where a killed process left it unfinished."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return event


_idle: dict[Key, Server] = {}


def run_child(stage: Stage, request: Mapping[str, Any], log: Path, progress: Progress) -> int:
    """Run a stage in a process of its own and return its peak resident bytes.

    Args:
        stage: whose name, function and environment are used.
        request: what pipeline.worker reads.
        log: file for all the child prints.
        progress: told what the child tells.

    Raises:
        EdgewrightError: what the stage raised, or a StageError when the child died.
    """
    environment = {**WAITING, **os.environ, **stage.environment}
    with _borrowed(stage, log) as server:
        last, code = server.run({**request, "log": str(log), "environment": environment}, progress)
    if last is not None and "done" in last:
        memory: int = last["done"]
        return memory
    raise _failure(stage, last, code, log)


@contextmanager
def _borrowed(stage: Stage, log: Path) -> Iterator[Server]:
    """A server for nobody else's use meanwhile; kept for later stages unless something goes wrong."""
    key = ("torch" in stage.tools, frozenset(stage.environment.items()))
    server = _idle.pop(key, None)
    if server is None or server.process.poll() is not None:
        server = Server(stage.environment, log)
    try:
        yield server
        if server.process.poll() is None:
            _idle.setdefault(key, server)
    finally:
        if _idle.get(key) is not server:
            server.end()


@atexit.register
def end_all() -> None:
    """End the processes that wait for stages."""
    while _idle:
        _idle.popitem()[1].end()


def _failure(stage: Stage, last: Mapping[str, Any] | None, code: int, log: Path) -> EdgewrightError:
    if last is not None and "error" in last:
        return revived(last["error"])
    if last is not None and last["memory_short"]:
        return StageError(
            f"the stage {stage.name!r} ran out of memory",
            where=str(log),
            mend="close other programs, or lower its batch size; everything before it is kept",
        )
    if last is not None:
        what = f"the stage {stage.name!r} failed: {last['crash']}"
    elif code < 0:
        name = signal.Signals(-code).name
        what = f"the stage {stage.name!r} died of {name}{HINTS.get(-code, '')}"
    else:
        what = f"the stage {stage.name!r} ended with code {code} and said nothing"
    return StageError(
        what, where=str(log), mend="everything before it is kept; the log holds what it printed"
    )
