"""Width alone against width and depth, at equal measured latency: Fashion-MNIST, whole builds.

    python benchmarks/depth.py [--seeds 0 1 2] [--out benchmarks/depth]

For every seed two builds of `edgewright` share a teacher, a residual network of two blocks a stage, cut to
two budgets of milliseconds on this machine's ONNX Runtime, once by width alone, once with `student.depth`.
Accuracy is that of the engines on the test split, latency what the builds measured. Every finished build is a
line of OUT.jsonl; a second call goes on where the first one stopped, also within a build.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from paired import Cell, plot, read, summary

from pipeline.session import Session

CONTENDERS = ("width", "width and depth")
BUDGETS = (0.25, 0.16)
BUILD = """
[project]
name = "{name}-{seed}"
seed = {seed}
output = "{name}-{seed}"
store = "store"

[data]
kind = "fashion-mnist"
download = true
limit = 10000
mean = [0.286]
std = [0.353]

[model]
factory = "pipeline.zoo:resnet"
arguments = {{ classes = 10, channels = 1, blocks = [2, 2, 2], widths = [16, 32, 64] }}

[model.training]
epochs = 4
flip = true
shift = 1

[student]
latency_ms = {budgets}
depth = {depth}
minimum_width = 4

[student.training]
epochs = 2
learning_rate = 0.02
flip = true
shift = 1

[triage]
epochs = 0
tolerance = 0.02

[[targets]]
device = "any-onnxruntime"
precisions = ["fp32"]
"""


def run(seed: int, contender: str, folder: Path) -> dict[str, Any]:
    """Build, and read what its report says."""
    depth = contender != "width"
    name = "deep" if depth else "wide"
    path = folder / f"{name}-{seed}.toml"
    path.write_text(
        BUILD.format(name=name, seed=seed, budgets=list(BUDGETS), depth=str(depth).lower()), encoding="utf-8"
    )
    output = Session(path).build().output
    record = json.loads((output / "report.json").read_text(encoding="utf-8"))
    plans = {
        file.name: json.loads(file.read_text(encoding="utf-8")) for file in output.glob("models/*.plan.json")
    }
    return {
        "seed": seed,
        "contender": contender,
        "replaced": sorted(next(iter(plans.values()))["replaced"]),
        "engines": [
            {
                "network": result["network"],
                "latency_ms": result["latency"]["median_ms"],
                "accuracy": result["accuracy"]["top1"],
                "macs": next(
                    each["macs"] for each in record["networks"] if each["name"] == result["network"]
                ),
            }
            for result in record["results"]
        ],
    }


def cells(lines: list[dict[str, Any]]) -> list[Cell]:
    """Accuracy of every student, at its budget."""
    names = {f"student-{budget:g}ms": budget for budget in BUDGETS}
    return [
        Cell("ten classes", names[engine["network"]], line["contender"], line["seed"], engine["accuracy"])
        for line in lines
        for engine in line["engines"]
        if engine["network"] in names
    ]


def main() -> None:
    """Run, then write OUT.json and OUT.svg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("depth-builds"), help="folder of the builds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/depth"))
    arguments = parser.parse_args()
    lines = arguments.out.with_suffix(".jsonl")
    arguments.work.mkdir(exist_ok=True)
    for seed in arguments.seeds:
        for contender in CONTENDERS:
            if any((one["seed"], one["contender"]) == (seed, contender) for one in read(lines)):
                continue
            line = run(seed, contender, arguments.work)
            with lines.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
    found = cells(read(lines))
    summary(found, CONTENDERS, arguments.out.with_suffix(".json"), reference="width")
    plot(found, CONTENDERS, arguments.out.with_suffix(".svg"), across="budget, ms")


if __name__ == "__main__":
    main()
