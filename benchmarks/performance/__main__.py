"""What edgewright itself takes, against the committed baseline.

    python -m benchmarks.performance [--quick] [--only WORDS] [--out FILE] [--limit 2] [--baseline FILE]

Every cell is a process of its own on one thread. Ratios are of processor time, which what else the machine
does disturbs little; wall time and memory stand beside it. Exit code 1 where a cell takes more than `--limit`
times the baseline's processor time. `--quick` leaves out what is ten times as large.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.performance.cases import CASES

BASELINE = Path(__file__).with_name("baseline.json")
SIZES = ("1", "10")
# What takes less than this is noise to a ratio.
LEAST_S = 0.05


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the small size alone")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--limit", type=float, default=2.0, help="of the ratio to the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--case", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(run_case(*asked.case)))
        return 0
    found: dict[str, dict[str, Any]] = {}
    for name, (_, large) in CASES.items():
        if asked.only in name:
            sizes = SIZES[:1] if asked.quick or large is None else SIZES
            found[name] = {size: in_child(name, size) for size in sizes}
            print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
    document = {"schema": "edgewright.performance/1", "machine": machine(), "cases": found}
    if asked.out:
        known = json.loads(asked.out.read_text()) if asked.out.exists() and asked.only else document
        document = known | document | {"cases": {**known["cases"], **found}}
        asked.out.write_text(json.dumps(document, indent=1) + "\n")
    slow = compared(found, asked.baseline, asked.limit)
    return int(slow)


def run_case(name: str, size: str) -> dict[str, Any]:
    """Run one case in this process."""
    case = CASES[name][SIZES.index(size)]
    assert case is not None
    with TemporaryDirectory(prefix="performance-") as folder:
        return case(Path(folder))


def in_child(name: str, size: str) -> dict[str, Any]:
    """Run one case in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.performance", "--case", name, size],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def machine() -> dict[str, str]:
    """What it was measured on."""
    from targets.environment import facts

    return {"cpu": str(facts().get("cpu_model", "")), "python": platform.python_version()}


def compared(found: dict[str, dict[str, Any]], baseline: Path, limit: float) -> bool:
    """Print every cell beside the baseline's; whether one is past the limit."""
    known = json.loads(baseline.read_text())["cases"] if baseline.exists() else {}
    slow = False
    for name, sizes in found.items():
        for size, figures in sizes.items():
            before = known.get(name, {}).get(size)
            ratio = ""
            if before:
                times = max(figures["cpu_s"], LEAST_S) / max(before["cpu_s"], LEAST_S)
                slow |= times > limit
                ratio = f"{times:5.2f} × baseline" + (" ✗" if times > limit else "")
            print(
                f"{name:<40} ×{size:<3} {figures['cpu_s']:8.2f} s cpu {figures['wall_s']:8.2f} s "
                f"{figures['peak_mb']:8.1f} MB  {ratio}"
            )
    return slow


if __name__ == "__main__":
    sys.exit(main())
