"""What it costs to keep a layer, or half of its noise, in float: container, split and float, timed.

    python -m benchmarks.quantization.forms --images FOLDER [--networks A B] [--toolchains …]

For the most sensitive layers of each network all three forms are timed against each other in the whole model,
as a latency budget does it, and the one is named that saves most divergence a millisecond.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.quantization.images import HELP
from benchmarks.quantization.mixed import CACHE, CONVENTION, Subject, subject
from benchmarks.quantization.networks import NETWORKS
from calibration.bench import Base, Bench, Judge
from calibration.budgets import Latency
from calibration.forms import LayerForm
from pipeline.timer import engine_timer
from targets.capability import this_machine
from targets.measure import MeasureSettings
from targets.toolchain import EngineOptions, load_toolchain

LAYERS = 8
SETTINGS = MeasureSettings(warmup_min_s=0.1, warmup_max_s=0.5, min_samples=60, min_s=0.0, max_s=20.0)


def measure(prepared: Subject, toolchain: str, layers: int) -> list[LayerForm]:
    """Time the forms of a network's most sensitive layers; with all the time in the world, all are float."""
    timer = engine_timer(load_toolchain(toolchain), this_machine(), EngineOptions("int8", 1), SETTINGS)
    twin = prepared.int8.with_name(f"{prepared.name}.mixed-float.onnx")
    with TemporaryDirectory() as folder:
        bench = Bench(
            prepared.measured,
            Base(twin, prepared.int8, "minmax"),
            prepared.batches[:4],
            CONVENTION,
            (),
            Path(folder),
            lambda *_: None,
        )
        made = bench.make(Latency(float("inf"), timer, layers=layers), Judge([], {}))
    return list(made.forms)


def rows(network: str, toolchain: str, forms: list[LayerForm]) -> list[dict[str, Any]]:
    """Return a row a layer: what split and float add to the whole model, percent of plain INT8."""
    found = []
    for form in forms:
        plain = form.latency_ms["container"]
        more = {name: 100.0 * (ms / plain - 1.0) for name, ms in form.latency_ms.items()}
        saved = {name: form.divergence["container"] - left for name, left in form.divergence.items()}
        found.append(
            {
                "network": network,
                "toolchain": toolchain,
                "split_percent": more.get("split"),
                "float_percent": more["float"],
                "split_pays": "split" in more
                and saved["split"] / max(more["split"], 0.1) > saved["float"] / max(more["float"], 0.1),
                **asdict(form),
            }
        )
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """Return a line a network and toolchain."""
    lines = [
        "| network | runtime | layers | split adds % (median) | float adds % (median) | split pays |",
        "|---" * 6 + "|",
    ]
    for network, toolchain in dict.fromkeys((row["network"], row["toolchain"]) for row in found):
        mine = [row for row in found if (row["network"], row["toolchain"]) == (network, toolchain)]
        both = [row for row in mine if row["split_percent"] is not None]
        split = np.median([row["split_percent"] for row in both]) if both else float("nan")
        whole = np.median([row["float_percent"] for row in both]) if both else float("nan")
        pays = sum(row["split_pays"] for row in both)
        lines.append(
            f"| {network} | {toolchain} | {len(both)} | {split:+.1f} | {whole:+.1f} | {pays} of {len(both)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what OUT.json lacks, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help=HELP)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--toolchains", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "forms", help="without suffix")
    arguments = parser.parse_args()
    path = arguments.out.with_suffix(".json")
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in arguments.networks:
        missing = [
            toolchain
            for toolchain in arguments.toolchains
            if not any((row["network"], row["toolchain"]) == (name, toolchain) for row in found)
        ]
        prepared = subject(name, arguments.images, arguments.cache) if missing else None
        for toolchain in missing:
            assert prepared is not None
            found += rows(name, toolchain, measure(prepared, toolchain, arguments.layers))
            path.write_text(json.dumps({"rows": found}, indent=1) + "\n", encoding="utf-8")
            arguments.out.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
            print(markdown(found), flush=True)


if __name__ == "__main__":
    main()
