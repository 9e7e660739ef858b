"""A stage in several processes, side by side on this machine: start them, wait, say what became of them.

The processes know themselves by a rank from 0, as torchrun's do, and are started here instead of by torchrun
because its rendezvous listens on all network interfaces. Rank 0 writes the artefacts and tells the progress;
what the others write is thrown away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

POLL_S = 0.05

Word = dict[str, Any]


def launch(request: Word, events: IO[str]) -> Word:
    """Run a request in as many processes as it asks for; return the last word of all together.

    Args:
        request: what pipeline.worker reads.
        events: given to rank 0 for its progress.

    Returns:
        "done" with the sum of their peak memories; or the first failure's "error" or "crash". When a process
        died without a word, so does this one, in the same way.
    """
    with TemporaryDirectory(dir=Path(request["out"]).parent) as name:
        folder = Path(name)
        members: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(request["processes"]):
                members.append(_start(request, rank, folder, events))
            codes = _wait(members)
        finally:
            for member in members:
                member.kill()
                member.wait()
        words = [_word(folder, rank) for rank in range(len(members))]
    return _verdict(codes, words)


def _start(request: Word, rank: int, folder: Path, events: IO[str]) -> subprocess.Popen[bytes]:
    size = request["processes"]
    own: Word = {"parent": os.getpid(), "events": events.fileno(), "rank": rank, "folder": str(folder)}
    if rank:
        own["out"] = str(folder / f"out-{rank}")
        Path(own["out"]).mkdir()
    # Else every process would start a thread for each core.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // size))}
    member = subprocess.Popen(
        [sys.executable, "-m", "pipeline.worker"],
        stdin=subprocess.PIPE,
        pass_fds=(events.fileno(),),
        env=threads | os.environ,
    )
    assert member.stdin is not None
    with member.stdin as stdin:
        stdin.write(json.dumps(request | own).encode())
    return member


def _wait(members: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Until all have ended well, or the first has not; exit codes, None for those that still run."""
    while True:
        codes = [member.poll() for member in members]
        if any(codes) or None not in codes:
            return codes
        time.sleep(POLL_S)


def _word(folder: Path, rank: int) -> Word | None:
    try:
        word: Word = json.loads((folder / f"word-{rank}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return word


def _verdict(codes: Sequence[int | None], words: Sequence[Word | None]) -> Word:
    """What to tell of all: of several failures the one that is a cause, not a lost connection to another."""
    said = sorted((word for word in words if word is not None), key=lambda word: word["at"])
    refused = [word for word in said if "error" in word]
    silent = [code for code, word in zip(codes, words, strict=True) if code is not None and word is None]
    crashed = [word for word in said if "crash" in word]
    if not refused and silent:
        _end_like(silent[0])
    for word in (*refused, *crashed):
        return word
    return {"done": sum(word["done"] for word in said)}


def _end_like(code: int) -> None:
    """End as another process did, so that the parent tells it in the same words."""
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)
