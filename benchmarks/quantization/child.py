"""One method in a process of its own, so that its time and its peak memory are its own.

    python -m benchmarks.quantization.child CACHE NETWORK METHOD CONVENTION WEIGHT_BITS OUT

Prints one line of JSON: the file written, seconds, processor seconds, peak MiB, details.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_method(
    python: Path, cache: Path, network: str, method: str, convention: str, weight_bits: int, out: Path
) -> dict[str, Any]:
    """Run a method in a process of its own, on one thread, and return what it printed.

    Raises:
        RuntimeError: the process failed; the message ends with what it said.
    """
    arguments = [str(cache), network, method, convention, str(weight_bits), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), "-m", "benchmarks.quantization.child", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{method} on {network}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Do it and print the figures."""
    cache, network, method, convention, bits, out = sys.argv[1:]
    started = time.perf_counter()

    from benchmarks.quantization.methods import METHODS, Task
    from benchmarks.quantization.networks import NETWORKS

    task = Task(NETWORKS[network], Path(cache), convention, 7 if bits == "7" else 8, Path(out))
    made = METHODS[method].run(task)
    print(
        json.dumps(
            {
                "path": str(made.path),
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time(),
                "peak_mib": peak_mib(),
                **made.details,
            }
        )
    )


def peak_mib() -> float:
    """Return this process's peak resident memory; getrusage would count the parent's from before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
