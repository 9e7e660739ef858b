"""The child process of a stage: one stage, then gone.

A crash, a hang or a memory leak costs that stage alone, memory goes back when it ends, and the parent never
imports what the stage needs. The request comes as JSON on stdin; events go as JSON lines to the descriptor
named in it: progress, then "done" or "error". A stage of several processes becomes a launcher of as many
workers, each with its rank, which leave their last words in a file instead.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline.disk import explained
from pipeline.launcher import launch
from pipeline.limits import hold, is_memory_short
from pipeline.stage import Context
from targets.errors import EdgewrightError, StageError, described

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = StageError(
    "the stage ran out of memory", mend="close other programs, or lower its batch size"
)


def main() -> None:
    """Run the stage asked for on stdin."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    hold(request["processor_s"])
    with os.fdopen(request["events"], "w", encoding="utf-8", buffering=1) as events:
        if "rank" in request:
            _be_member(request, events)
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
        if is_memory_short(bug):
            return {"error": described(OUT_OF_MEMORY)}
        return {"crash": f"{type(bug).__name__}: {bug}"}


def _be_member(request: dict[str, Any], events: IO[str]) -> NoReturn:
    """One of several: leave the last word and go at once; threads may wait for the others for ever."""
    try:
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
