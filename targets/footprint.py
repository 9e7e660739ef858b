"""What opening one engine takes in a process of its own: time until the first result, and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

import numpy as np

from targets.cpu import ROOT, read
from targets.errors import ModelError
from targets.toolchain import Engine, load_toolchain

if TYPE_CHECKING:
    from targets.toolchain import Tensors

    Launch = Callable[[Sequence[str]], str]

RUNS = 3
LIMIT_S = 600


class Footprint(NamedTuple):
    """Milliseconds of opening and of the first inference; bytes resident, None where /proc says none.

    `own_bytes` is what opening and running added to a process that had already imported the runtime.
    """

    load_ms: float
    first_inference_ms: float
    peak_bytes: int | None
    own_bytes: int | None


def footprint(folder: Path, inputs: Tensors, launch: Launch | None = None) -> Footprint:
    """Open an engine in a fresh process and run it a few times.

    Other engines in one process share pages, allocators and thread pools, so neither memory nor the time to
    load can be told apart there.

    Args:
        folder: of the engine.
        inputs: one input.
        launch: runs a Python module with arguments in a process of its own and returns what it printed.

    Raises:
        ModelError: the process failed.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "inputs.npz")
        arrays: dict[str, Any] = dict(inputs)
        np.savez(path, **arrays)
        printed = (launch or _launch)(("targets.footprint", str(folder), str(path)))
    return Footprint(**json.loads(printed))


def _launch(arguments: Sequence[str]) -> str:
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if run.returncode:
        # The last line that is not indented names the error; those below it say where and how to mend it.
        said = [line for line in run.stderr.splitlines() if line[:1].strip()]
        raise ModelError(
            f"the engine cannot be run in a process of its own: {(said or [f'exit {run.returncode}'])[-1]}",
            where=arguments[1],
            mend="open it by hand: edgewright bench ENGINE",
        )
    return run.stdout


def _resident(name: str, root: Path = ROOT) -> int | None:
    """VmRSS (now) or VmHWM (most so far) of this process in bytes."""
    for line in (read(root / "proc/self/status") or "").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _measure(folder: Path, inputs: Path) -> Footprint:
    engine = Engine.load(folder)
    toolchain = load_toolchain(engine.toolchain)
    toolchain.probe()
    with np.load(inputs, allow_pickle=False) as archive:
        tensors = {name: archive[name] for name in archive.files}
    before = _resident("VmRSS")
    start = time.perf_counter_ns()
    runner = toolchain.open(engine)
    opened = time.perf_counter_ns()
    runner.infer(tensors)
    first = time.perf_counter_ns()
    for _ in range(RUNS - 1):
        runner.infer(tensors)
    peak = _resident("VmHWM")
    runner.close()
    own = None if peak is None or before is None else max(peak - before, 0)
    return Footprint((opened - start) / 1e6, (first - opened) / 1e6, peak, own)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(Path(sys.argv[1]), Path(sys.argv[2]))._asdict()))
