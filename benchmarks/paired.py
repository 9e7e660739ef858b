"""Contenders compared seed by seed: tables as JSON and curves as SVG, for several benchmarks."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Cell:
    """One accuracy.

    Args:
        panel: what it is compared within.
        at: budget or amount of training.
        contender: what reached it.
        seed: of the run.
        accuracy: share of right answers.
    """

    panel: str
    at: float
    contender: str
    seed: int
    accuracy: float


def read(lines: Path) -> list[dict[str, Any]]:
    """Finished cells of a benchmark; none before its first run."""
    if not lines.is_file():
        return []
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def summary(cells: Sequence[Cell], contenders: Sequence[str], out: Path, *, reference: str) -> None:
    """Write mean accuracies, and differences to a reference seed by seed with their 95 % intervals."""
    rows = []
    for panel, at in dict.fromkeys((cell.panel, cell.at) for cell in cells):
        here = {(c.contender, c.seed): c.accuracy for c in cells if (c.panel, c.at) == (panel, at)}
        for contender in contenders:
            values = {seed: value for (name, seed), value in here.items() if name == contender}
            apart = [v - here[reference, seed] for seed, v in values.items() if (reference, seed) in here]
            if values:
                rows.append(
                    {"panel": panel, "at": at, "contender": contender, "seeds": len(values)}
                    | {
                        "accuracy": float(np.mean([*values.values()])),
                        f"minus {reference}": difference(apart),
                    }
                )
    machine = {"machine": platform.machine(), "torch": torch.__version__, "numpy": np.__version__}
    out.write_text(json.dumps({"versions": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


# Student's t at 97.5 % for 1, 2, … degrees of freedom.
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def difference(values: Sequence[float]) -> dict[str, float | None]:
    """Mean of paired differences and half of its 95 % interval by Student's t; none from one seed."""
    count = len(values)
    if not count:
        return {"mean": None, "half_interval": None}
    spread = float(np.std(values, ddof=1)) if count > 1 else None
    half = None if spread is None else STUDENT_T[min(count - 2, 8)] * spread / count**0.5
    return {"mean": float(np.mean(values)), "half_interval": half}


def plot(cells: Sequence[Cell], contenders: Sequence[str], out: Path, *, across: str) -> None:
    """Draw a panel for each comparison: mean accuracy with every seed as a dot."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "edgewright"
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys(cell.panel for cell in cells))
    columns = min(3, len(panels))
    figure, axes = plt.subplots(
        -(-len(panels) // columns),
        columns,
        figsize=(4 * columns, 3 * -(-len(panels) // columns)),
        squeeze=False,
    )
    for panel, axis in zip(panels, axes.flat, strict=False):
        for number, contender in enumerate(contenders):
            mine = [cell for cell in cells if cell.panel == panel and cell.contender == contender]
            places = sorted({cell.at for cell in mine})
            means = [np.mean([cell.accuracy for cell in mine if cell.at == at]) for at in places]
            axis.plot(places, means, color=f"C{number}", label=contender)
            axis.plot([c.at for c in mine], [c.accuracy for c in mine], ".", color=f"C{number}", alpha=0.4)
        axis.set(title=panel, xlabel=across, ylabel="accuracy")
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
