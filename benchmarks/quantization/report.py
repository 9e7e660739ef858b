"""The benchmark's JSON, Markdown table and plot."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONVENTIONS = {"u8": "u8 asymmetric", "s8": "int8 symmetric"}


def write_report(cells: list[dict[str, Any]], out: Path) -> None:
    """Write OUT.json, OUT.md and OUT.svg from the finished cells."""
    packages = ("edgewright", "numpy", "onnx", "onnxruntime", "openvino")
    document = {
        "cells": cells,
        "machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform()},
        "versions": {name: version(name) for name in packages},
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(cells), encoding="utf-8")
    if cells:
        _plot(cells, out.with_suffix(".svg"))


def markdown(cells: list[dict[str, Any]]) -> str:
    """Return the table: a row a method and convention, a column a network, "top-1 % / KL"."""
    networks = list(dict.fromkeys(cell["network"] for cell in cells))
    found = {(cell["method"], cell["convention"], cell["network"]): cell for cell in cells}
    rows = list(dict.fromkeys((cell["convention"], cell["method"]) for cell in cells))
    lines = [f"| | {' | '.join(networks)} |", "|---" * (len(networks) + 1) + "|"]
    top1 = {cell["network"]: cell["float_top1"] for cell in cells}
    lines.append("| float | " + " | ".join(f"{top1[name]:.1f}" for name in networks) + " |")
    for convention, method in sorted(rows, key=lambda row: list(CONVENTIONS).index(row[0])):
        row = [found.get((method, convention, name)) for name in networks]
        texts = [f"{cell['top1']:.1f} / {cell['kl']:.4f}" if cell else "" for cell in row]
        lines.append(f"| {method}, {CONVENTIONS[convention]} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _plot(cells: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same input gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "edgewright"
    from matplotlib import pyplot

    networks = list(dict.fromkeys(cell["network"] for cell in cells))
    rows = list(dict.fromkeys((cell["convention"], cell["method"]) for cell in cells))
    figure, axes = pyplot.subplots(
        1, len(networks), figsize=(4 * len(networks), 0.35 * len(rows) + 1.2), squeeze=False
    )
    for axis, network in zip(axes[0], networks, strict=True):
        kl = {(c["convention"], c["method"]): c["kl"] for c in cells if c["network"] == network}
        axis.barh(
            [f"{method} {convention}" for convention, method in rows], [kl.get(row, 0.0) for row in rows]
        )
        axis.set_xscale("log")
        axis.set_title(network)
        axis.set_xlabel("KL(float ‖ quantized), nats")
        axis.label_outer()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
