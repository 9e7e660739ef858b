"""The child process of a stage: one stage, then gone.

A crash, a hang or a memory leak costs that stage alone, memory goes back when it ends, and the build never
imports what the stage needs. Requests come as lines of JSON on stdin, each for a fork of this process
(pipeline.child). Events go as JSON lines to a descriptor: a stage's progress, then "done" or "error"; from
here, how its process "ended". A stage of several processes becomes a launcher of as many workers, each with
its rank, which leave their last words in a file instead.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline.disk import explained
from pipeline.launcher import launch
from pipeline.limits import hold, is_memory_short
from pipeline.stage import Context
from targets.errors import EdgewrightError, described

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the stages asked for on stdin, or be one process of a stage of several."""
    if len(sys.argv) == 1:
        _be_member(json.load(sys.stdin))
    events, parent = map(int, sys.argv[1:])
    _die_with(parent)
    with os.fdopen(events, "w", encoding="utf-8", buffering=1) as stream:
        _serve(stream)


def _serve(events: IO[str]) -> None:
    """Import the module of each stage, then fork; the forked process returns when the stage is done."""
    server = os.getpid()
    for line in sys.stdin:
        request = json.loads(line)
        _import_ours(request["function"].partition(":")[0])
        child = os.fork()
        if child == 0:
            _be_stage(request, server, events)
            return
        _, status = os.waitpid(child, 0)
        # On a line of its own, whatever a killed stage left unfinished.
        events.write("\n")
        _send(events, ended=os.waitstatus_to_exitcode(status))


def _import_ours(module: str) -> None:
    """Import a stage's module, unless it is somebody else's: that may change, start threads, or fail."""
    if module.startswith("pipeline."):
        # What is missing is missing for the stage as well: it says so.
        with suppress(ImportError):
            importlib.import_module(module)
        # What is there now is never freed: the forks share its memory.
        gc.freeze()


def _be_stage(request: dict[str, Any], server: int, events: IO[str]) -> None:
    _die_with(server)
    hold(request["processor_s"])
    os.environ.clear()
    os.environ.update(request["environment"])
    with Path(request["log"]).open("wb") as log, Path(os.devnull).open("rb") as nothing:
        for stream, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(stream.fileno(), number)
    work = launch if request["processes"] > 1 else _run
    _send(events, **_attempt(work, request, events))


def _attempt(
    work: Callable[[dict[str, Any], IO[str]], dict[str, Any]], request: dict[str, Any], events: IO[str]
) -> dict[str, Any]:
    """Do the work; its last word, whatever happens."""
    try:
        return work(request, events)
    except EdgewrightError as error:
        return {"error": described(error)}
    except Exception as bug:  # the last line of defence: a bug becomes a message and a log, not a hang
        traceback.print_exc()
        return {"crash": f"{type(bug).__name__}: {bug}", "memory_short": is_memory_short(bug)}


def _be_member(request: dict[str, Any]) -> NoReturn:
    """One of several: leave the last word and go at once; threads may wait for the others for ever."""
    _die_with(request["parent"])
    hold(request["processor_s"])
    try:
        with os.fdopen(request["events"], "w", encoding="utf-8", buffering=1) as events:
            word = _attempt(_run, request, events)
    except SystemExit as leaving:
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)
    path = Path(request["folder"]) / f"word-{request['rank']}.json"
    path.write_text(json.dumps(word | {"at": time.monotonic()}), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if "done" in word else 1)


def _run(request: dict[str, Any], events: IO[str]) -> dict[str, Any]:
    if "rank" in request:
        from pipeline.parallel import join

        join(Path(request["folder"]) / "meeting", request["rank"], request["processes"])
    if request["code_path"]:
        sys.path.insert(0, request["code_path"])
    module, _, name = request["function"].partition(":")
    silent = request.get("rank", 0) > 0
    context = Context(
        inputs={key: Path(value) for key, value in request["inputs"].items()},
        files={key: Path(value) for key, value in request["files"].items()},
        settings=request["settings"],
        out=Path(request["out"]),
        debris=Path(request["debris"]),
        progress=lambda what, done, total: None if silent else _send(events, progress=[what, done, total]),
    )
    with explained(context.out):
        getattr(importlib.import_module(module), name)(context)
    return {"done": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _send(events: IO[str], **event: Any) -> None:
    events.write(json.dumps(event) + "\n")


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
