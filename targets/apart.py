"""Engines in processes of their own, timed in turns: what compares runtimes that cannot share a process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from targets.errors import ModelError
from targets.toolchain import Engine, load_toolchain

if TYPE_CHECKING:
    from targets.toolchain import Tensors

SAMPLE = struct.Struct("<d")
GO = b"\x01"


class Apart:
    """An engine opened in a child process, which times each inference itself: pipes are not in the samples.

    Args:
        folder: of the engine.
        inputs: real inputs, used in rotation.
        python: interpreter of the child; another one may have another version of the runtime.

    Raises:
        ModelError: the child does not come up; the reason is its last line.
    """

    def __init__(self, folder: Path, inputs: Sequence[Tensors], python: str = sys.executable) -> None:
        self._place = tempfile.TemporaryDirectory()
        arrays: dict[str, Any] = {
            f"{number} {name}": array for number, each in enumerate(inputs) for name, array in each.items()
        }
        path = Path(self._place.name, "inputs.npz")
        np.savez(path, **arrays)
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._errors = Path(self._place.name, "errors")
        with self._errors.open("wb") as errors:
            self._child = subprocess.Popen(
                [python, "-m", "targets.apart", str(folder), str(path)],
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._folder = folder
        self.turn()

    def turn(self) -> float:
        """Run the next input once; return the milliseconds it took.

        Raises:
            ModelError: the child is gone.
        """
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write(GO)
            self._child.stdin.flush()
            answer = self._child.stdout.read(SAMPLE.size)
        except OSError:
            answer = b""
        if len(answer) < SAMPLE.size:
            raise self._gone()
        milliseconds: float = SAMPLE.unpack(answer)[0]
        return milliseconds

    def close(self) -> None:
        """End the child."""
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()
        self._child.wait()
        self._place.cleanup()

    def _gone(self) -> ModelError:
        self._child.wait()
        said = [line for line in self._errors.read_text(errors="replace").splitlines() if line[:1].strip()]
        self.close()
        return ModelError(
            f"the engine cannot be run in a process of its own: {said[-1] if said else 'it ended'}",
            where=str(self._folder),
            mend="open it by hand: edgewright bench ENGINE",
        )


def _serve(folder: Path, inputs: Path, asked: IO[bytes], answers: IO[bytes]) -> None:
    engine = Engine.load(folder)
    runner = load_toolchain(engine.toolchain).open(engine)
    turn = _turns(runner.infer, inputs, time.perf_counter_ns)
    while asked.read(1) == GO:
        answers.write(SAMPLE.pack(turn()))
        answers.flush()
    runner.close()


def _turns(infer: Callable[[Tensors], object], path: Path, clock: Callable[[], int]) -> Callable[[], float]:
    from targets.measure import timed

    rows: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            number, _, name = key.partition(" ")
            rows.setdefault(number, {})[name] = archive[key]
    return timed(infer, list(rows.values()), clock)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
