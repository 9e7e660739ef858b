"""An engine kept open for the build machine: arrays come in, arrays go out."""

from __future__ import annotations

import json
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from targets.device.children import receive, send
from targets.device.frames import pack_arrays, unpack_arrays

if TYPE_CHECKING:
    from pathlib import Path


def serve(folder: Path, questions: IO[bytes], answers: IO[bytes]) -> None:
    """Open an engine, say how that went, then answer until the questions end.

    Every answer is a line of JSON, {} or {"error": …}, and the arrays.
    """
    from targets.device.commands import in_batches, opened
    from targets.device.program import attempt

    runner: Any = None

    def open_engine() -> dict[str, Any]:
        nonlocal runner
        runner = opened(folder)
        return {}

    document, code = attempt(open_engine)
    send(answers, json.dumps(document).encode())

    def infer(question: bytes) -> dict[str, Any]:
        return {"arrays": in_batches(runner, unpack_arrays(question))}

    for question in iter(lambda: receive(questions), None):
        document, code = attempt(partial(infer, question))
        arrays = document.pop("arrays", {})
        send(answers, json.dumps(document).encode() + b"\n" + pack_arrays(arrays))
        if code:
            return
