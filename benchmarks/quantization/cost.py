"""Time and peak memory of our plain setting against NNCF's fast one, each a process of its own, in turns.

python -m benchmarks.quantization.cost [--cache FOLDER] [--peer-python PYTHON] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quantization.__main__ import CACHE
from benchmarks.quantization.child import run_method
from benchmarks.quantization.networks import NETWORKS

FIGURES = ("seconds", "cpu_seconds", "peak_mib")
METHODS = ("edgewright plain", "nncf fast")


def main() -> None:
    """Run in turns and write OUT.json and OUT.md."""
    arguments = _arguments()
    pythons = {"edgewright plain": Path(sys.executable), "nncf fast": arguments.peer_python}
    cells = []
    for number in range(arguments.rounds):
        for network in arguments.networks:
            # A B, then B A: neither always finds the images in the page cache.
            for method in METHODS if number % 2 == 0 else METHODS[::-1]:
                out = arguments.cache / f"{network}.cost"
                made = run_method(pythons[method], arguments.cache, network, method, "u8", 8, out)
                cells.append({"network": network, "method": method, **{key: made[key] for key in FIGURES}})
                print(cells[-1], flush=True)
    document = {"cells": cells, "machine": platform.processor() or platform.machine()}
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(markdown(cells), encoding="utf-8")


def markdown(cells: list[dict[str, Any]]) -> str:
    """Return the table: medians, ours / NNCF's."""
    networks = list(dict.fromkeys(cell["network"] for cell in cells))
    lines = ["| ours / NNCF fast | seconds | processor seconds | peak MiB |", "|---|---|---|---|"]
    for network in networks:
        texts = []
        for key in FIGURES:
            ours, theirs = (
                median(c[key] for c in cells if (c["network"], c["method"]) == (network, method))
                for method in METHODS
            )
            texts.append(f"{ours:.1f} / {theirs:.1f}" if key != "peak_mib" else f"{ours:.0f} / {theirs:.0f}")
        lines.append(f"| {network} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where models and images lie")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="has NNCF")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "cost", help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
