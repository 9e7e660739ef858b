"""Width alone against width and depth, at equal measured latency: whole builds.

    python benchmarks/depth.py [--cifar10 FOLDER] [--seeds 0 1 2] [--out …]

For every seed two builds of `edgewright` share a teacher, a residual network of two blocks a stage, cut to
two budgets of milliseconds on this machine's ONNX Runtime, once by width alone, once with `student.depth`.
Accuracy is that of the engines on the test split; latency is of all engines of a seed in turns, in one
process. Every finished build is a line of OUT.jsonl; a second call goes on where the first one stopped, also
within a build. Where OUT.jsonl is gone and the builds are not, engines are timed once more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from paired import Cell, plot, read, summary
from pictures import add_option, default_out

from pipeline.session import Session
from pipeline.timer import time_engines
from targets.measure import MeasureSettings
from targets.tensors import sample_inputs
from targets.toolchain import Engine, load_toolchain

SETTINGS = MeasureSettings(min_samples=200, min_s=5.0, max_s=60.0)
IMAGES = 16
CONTENDERS = ("width", "width and depth")
FASHION: dict[str, Any] = {
    "data": 'kind = "fashion-mnist"\ndownload = true\nmean = [0.286]\nstd = [0.353]',
    "limit": 10000,
    "channels": 1,
    "epochs": 4,
    "short": 2,
    "shift": 1,
    "budgets": [0.25, 0.16],
}
CIFAR10: dict[str, Any] = {
    "data": 'kind = "images"\npath = "{folder}"\nmean = [0.491, 0.482, 0.447]\nstd = [0.247, 0.244, 0.262]',
    "limit": 24000,
    "channels": 3,
    "epochs": 6,
    "short": 2,
    "shift": 4,
    "budgets": [0.33, 0.2],
}
BUILD = """
[project]
name = "{name}-{seed}"
seed = {seed}
output = "{name}-{seed}"
store = "store"

[data]
{data}
limit = {limit}

[model]
factory = "pipeline.zoo:resnet"
arguments = {{ classes = 10, channels = {channels}, blocks = [2, 2, 2], widths = [16, 32, 64] }}

[model.training]
epochs = {epochs}
flip = true
shift = {shift}

[student]
latency_ms = {budgets}
depth = {depth}
minimum_width = 4

[student.training]
epochs = {short}
learning_rate = 0.02
flip = true
shift = {shift}

[triage]
epochs = 0
tolerance = 0.02

[[targets]]
device = "any-onnxruntime"
precisions = ["fp32"]
"""


def pair(subject: dict[str, Any], seed: int, folder: Path) -> list[dict[str, Any]]:
    """Build both ways, time all engines against each other, and read what the reports say."""
    outputs = {contender: build(subject, seed, contender, folder) for contender in CONTENDERS}
    return [line(seed, contender, outputs[contender], ms) for contender, ms in in_turns(outputs).items()]


def build(subject: dict[str, Any], seed: int, contender: str, folder: Path) -> Path:
    """Return the output folder of one build."""
    depth = contender != "width"
    name = "deep" if depth else "wide"
    path = folder / f"{name}-{seed}.toml"
    text = BUILD.format(name=name, seed=seed, depth=str(depth).lower(), **subject)
    path.write_text(text, encoding="utf-8")
    return Session(path).build().output


def in_turns(outputs: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Time the engines of all outputs against each other: contender → network → milliseconds."""
    engines = {
        f"{contender}/{folder.name.removesuffix('-fp32')}": Engine.load(folder)
        for contender, output in outputs.items()
        for folder in sorted(output.glob("engines/any-onnxruntime/*-fp32"))
    }
    inputs = {
        name: [sample_inputs(engine.inputs, seed) for seed in range(IMAGES)]
        for name, engine in engines.items()
    }
    found: dict[str, dict[str, float]] = {contender: {} for contender in outputs}
    for name, timing in time_engines(load_toolchain("onnxruntime"), engines, inputs, SETTINGS).items():
        contender, network = name.split("/")
        found[contender][network] = timing.median_ms
    return found


def line(seed: int, contender: str, output: Path, ms: dict[str, float]) -> dict[str, Any]:
    """What one build came to."""
    record = json.loads((output / "report.json").read_text(encoding="utf-8"))
    macs = {network["name"]: network["macs"] for network in record["networks"]}
    plan = json.loads(next(iter(output.glob("models/*.plan.json"))).read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "contender": contender,
        "replaced": sorted(plan["replaced"]),
        "engines": [
            {
                "network": result["network"],
                "latency_ms": ms[result["network"]],
                "accuracy": result["accuracy"]["top1"],
                "macs": macs[result["network"]],
            }
            for result in record["results"]
        ],
    }


def cells(lines: list[dict[str, Any]], budgets: list[float]) -> list[Cell]:
    """Accuracy of every student, at its budget."""
    names = {f"student-{budget:g}ms": budget for budget in budgets}
    return [
        Cell("ten classes", names[engine["network"]], line["contender"], line["seed"], engine["accuracy"])
        for line in lines
        for engine in line["engines"]
        if engine["network"] in names
    ]


def main() -> None:
    """Run, then write OUT.json and OUT.svg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("depth-builds"), help="folder of the builds")
    parser.add_argument("--out", type=Path, help="without suffix")
    arguments = parser.parse_args()
    out = arguments.out or default_out(arguments, "depth")
    lines, work = out.with_suffix(".jsonl"), arguments.work / out.name
    subject = FASHION
    if arguments.cifar10:
        subject = CIFAR10 | {"data": CIFAR10["data"].format(folder=arguments.cifar10.resolve())}
    work.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        if any(one["seed"] == seed for one in read(lines)):
            continue
        found = pair(subject, seed, work)
        with lines.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(one) + "\n" for one in found)
    compared = cells(read(lines), subject["budgets"])
    summary(compared, CONTENDERS, out.with_suffix(".json"), reference="width")
    plot(compared, CONTENDERS, out.with_suffix(".svg"), across="budget, ms")


if __name__ == "__main__":
    main()
