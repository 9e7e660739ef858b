"""The child process of a stage: one stage, then gone.

A crash, a hang or a memory leak costs that stage alone, memory goes back when it ends, and the parent never
imports what the stage needs. The request comes as JSON on stdin; events go as JSON lines to the descriptor
named in it: progress, then "done" or "error".
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from pipeline.stage import Context
from pipeline.store import explained
from targets.errors import EdgewrightError, StageError

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = StageError(
    "the stage ran out of memory", mend="close other programs, or lower its batch size"
)


def main() -> None:
    """Run the stage asked for on stdin."""
    request = json.load(sys.stdin)
    _die_with(request["parent"])
    with os.fdopen(request["events"], "w", encoding="utf-8", buffering=1) as events:
        try:
            _run(request, events)
        except EdgewrightError as error:
            _send(events, error=_describe(error))
        except MemoryError:
            _send(events, error=_describe(OUT_OF_MEMORY))
        except Exception as bug:  # the last line of defence: a bug becomes a message and a log, not a hang
            traceback.print_exc()
            _send(events, crash=f"{type(bug).__name__}: {bug}")


def _run(request: dict[str, Any], events: IO[str]) -> None:
    if request["code_path"]:
        sys.path.insert(0, request["code_path"])
    module, _, name = request["function"].partition(":")
    context = Context(
        inputs={key: Path(value) for key, value in request["inputs"].items()},
        files={key: Path(value) for key, value in request["files"].items()},
        settings=request["settings"],
        out=Path(request["out"]),
        debris=Path(request["debris"]),
        progress=lambda what, done, total: _send(events, progress=[what, done, total]),
    )
    with explained(context.out):
        getattr(importlib.import_module(module), name)(context)
    _send(events, done=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _describe(error: EdgewrightError) -> dict[str, Any]:
    # A stage may raise a subclass of its own; the parent knows those of the project's error tree.
    known = next(kind for kind in type(error).__mro__ if kind.__module__ == EdgewrightError.__module__)
    return {
        "type": known.__name__,
        "what": error.what,
        "where": error.where,
        "mend": error.mend,
        "exit_code": error.exit_code,
    }


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
