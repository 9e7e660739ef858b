"""The JSON, Markdown table and plot of the mixed-precision benchmark."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def write_report(cells: list[Cell], out: Path) -> None:
    """Write OUT.json, OUT.md and OUT.svg from the finished cells."""
    document = {
        "cells": cells,
        "machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("edgewright", "numpy", "onnx", "onnxruntime")},
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(cells), encoding="utf-8")
    if cells:
        _plot(cells, out.with_suffix(".svg"))


def markdown(cells: list[Cell]) -> str:
    """Return the table: a row an average and allocation, a column a network, "top-1 % / KL"."""
    networks = _ordered(cells, "network")
    found = {(cell["average"], cell["kind"], cell["network"]): cell for cell in cells}
    top1 = {cell["network"]: cell["float_top1"] for cell in cells}
    lines = [f"| bits | allocation | {' | '.join(networks)} |", "|---" * (len(networks) + 2) + "|"]
    lines.append("| 32 | float | " + " | ".join(f"{top1[name]:.1f}" for name in networks) + " |")
    for average in sorted({cell["average"] for cell in cells}, reverse=True):
        for kind in _ordered(cells, "kind"):
            row = [found.get((average, kind, name)) for name in networks]
            if any(row):
                texts = [f"{cell['top1']:.1f} / {cell['kl']:.3f}" if cell else "" for cell in row]
                lines.append(f"| {average:g} | {kind} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _ordered(cells: list[Cell], key: str) -> list[Any]:
    return list(dict.fromkeys(cell[key] for cell in cells))


def _plot(cells: list[Cell], path: Path) -> None:
    """Draw size against KL and top-1, a column a network."""
    import matplotlib

    matplotlib.use("svg")
    # The same input gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "edgewright"
    from matplotlib import pyplot

    networks = _ordered(cells, "network")
    figure, axes = pyplot.subplots(2, len(networks), figsize=(4 * len(networks), 6), squeeze=False)
    for column, network in enumerate(networks):
        for kind in _ordered(cells, "kind"):
            mine = [cell for cell in cells if (cell["network"], cell["kind"]) == (network, kind)]
            mine.sort(key=lambda cell: float(cell["packed_bytes"]))
            size = [cell["packed_bytes"] / 1e6 for cell in mine]
            for row, key in enumerate(("kl", "top1")):
                axes[row, column].plot(size, [cell[key] for cell in mine], marker="o", label=kind)
        top1 = next(cell["float_top1"] for cell in cells if cell["network"] == network)
        axes[1, column].axhline(top1, color="black", linewidth=0.8, linestyle=":", label="float")
        axes[0, column].set_yscale("log")
        axes[0, column].set_title(network)
        axes[1, column].set_xlabel("packed file, MB")
    axes[0, 0].set_ylabel("KL(float ‖ quantized), nats")
    axes[1, 0].set_ylabel("top-1, %")
    axes[1, -1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
