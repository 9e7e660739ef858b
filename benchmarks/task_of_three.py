"""A student for 3 of CIFAR-10's 10 classes against its teacher, restricted to the task, in float and in INT8.

    python benchmarks/task_of_three.py CIFAR10_FOLDER TEACHER.safetensors [--network resnet20] [--out …]

Each task is an ordinary build (`edgewright build`): the structure is decided for a share of the teacher's
multiply-accumulates, repaired, distilled, quantized, compiled with OpenVINO for this machine, and everything
is timed in turns in one process. The test split is opened once, by the last stages. The teacher is a network
of `python benchmarks/cifar10.py`. Several shares make a family; with --epochs 0 it is repaired and not
trained, which is enough to see what each would take.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.record import Record, Result
from pipeline.report import load
from pipeline.session import Session
from targets import environment

# One task of classes that look unlike each other, one of classes the teacher confuses.
TASKS = {"vehicles": ("airplane", "automobile", "ship"), "animals": ("cat", "deer", "dog")}
# Of `zoo.resnet`, as in cifar10.py.
NETWORKS = {
    "resnet20": "blocks = [3, 3, 3], widths = [16, 32, 64]",
    "wide8": "blocks = [1, 1, 1], widths = [48, 96, 192]",
}
BUILD = """
[project]
name = "{name}"
seed = {seed}

[data]
kind = "images"
path = "{data}"
select = 0.1
calibrate = 0.02
mean = [0.4914, 0.4822, 0.4465]
std = [0.2470, 0.2435, 0.2616]

[task]
classes = {classes}

[model]
factory = "pipeline.zoo:resnet"
arguments = {{ classes = 10, channels = 3, {shape} }}
checkpoint = "{teacher}"

[student]
macs = {shares}
minimum_width = {minimum}
alignment = {minimum}
importance = "discriminant-reconstruction"
distillation = {distillation}
depth = {depth}

[student.training]
epochs = {epochs}
learning_rate = {rate}
flip = true
shift = 4
average = 0.995

[quantize]
samples = 512

# What INT8 costs is measured below, so no gate stops it: a few images lie between two classes and tip over.
[gates.limits]
quantize = {{ top1_agreement = 0.5, cosine = -1.0, relative_l2 = 10.0, max_abs = 100.0 }}
engine-int8 = {{ top1_agreement = 0.5, cosine = -1.0, relative_l2 = 10.0, max_abs = 100.0 }}

[measure]
seconds = 6.0

[[targets]]
device = "this-machine"
toolchain = "openvino"

[[targets]]
device = "any-onnxruntime"
"""
DEPTH = """
[triage]
epochs = 0
tolerance = {tolerance}
"""


def build(name: str, arguments: argparse.Namespace, seed: int) -> Record:
    """Build one task's student and return the record."""
    folder = arguments.work / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    text = BUILD.format(
        name=name,
        seed=seed,
        data=arguments.data.resolve(),
        classes=json.dumps(TASKS[name]),
        teacher=arguments.teacher.resolve(),
        shape=NETWORKS[arguments.network],
        shares=arguments.shares,
        minimum=arguments.minimum,
        epochs=arguments.epochs,
        rate=arguments.learning_rate,
        distillation=arguments.distillation,
        depth="false" if arguments.depth is None else "true",
    )
    if arguments.depth is not None:
        text += DEPTH.format(tolerance=arguments.depth)
    (folder / "build.toml").write_text(text, encoding="utf-8")
    session = Session(folder / "build.toml")
    session.build()
    return load(session.output / "report.json")


def rows_of(record: Record, name: str, seed: int) -> list[dict[str, Any]]:
    """What each student came to on each target."""
    macs = {network.name: network.macs for network in record.networks}
    rows = []
    for target in record.targets:
        results = {result.variant: result for result in record.results if result.target == target.name}
        for student in (network for network in macs if network != "teacher"):
            shipped = results[f"{student} int8"]
            rows.append(
                {
                    "task": name,
                    "seed": seed,
                    "target": target.name,
                    "macs_ratio": macs["teacher"] / macs[student],
                    "student": figures(shipped),
                    "student fp32": figures(results[f"{student} fp32"]),
                    "teacher fp32": figures(results["teacher fp32"]),
                    "teacher int8": figures(results["teacher int8"]),
                    "speedups": {
                        faster.baseline: {"ratio": faster.ratio, "interval": faster.interval}
                        for faster in shipped.speedups
                        if faster.baseline in (f"{student} fp32", "teacher fp32", "teacher int8")
                    },
                }
            )
    return rows


def figures(result: Result) -> dict[str, Any]:
    """Accuracy, time and size of one engine."""
    return {
        "top1": result.accuracy.top1,
        "top1_interval": result.accuracy.top1_interval,
        "images": result.accuracy.images,
        "median_ms": result.latency.median_ms,
        "median_interval_ms": result.latency.median_interval_ms,
        "onnx_size_bytes": result.engine.onnx_size_bytes,
    }


def main() -> None:
    """Build every task, write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("teacher", type=Path, help="weights of a network of all ten classes")
    parser.add_argument("--network", choices=NETWORKS, default="wide8", help="what the teacher is")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.095], help="of the teacher's multiply-accumulates"
    )
    parser.add_argument("--minimum", type=int, default=4, help="channels no layer goes below")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--distillation", type=float, default=1.0, help="weight of the soft targets")
    parser.add_argument(
        "--depth",
        type=float,
        metavar="TOLERANCE",
        help="replace blocks for so much accuracy before training",
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--work", type=Path, default=Path("task-of-three"), help="folder for the builds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/task_of_three.json"))
    parser.add_argument("--clean", action="store_true", help="begin anew")
    arguments = parser.parse_args()
    if arguments.clean:
        shutil.rmtree(arguments.work, ignore_errors=True)
    rows = [
        each
        for name in arguments.tasks
        for seed in range(arguments.seeds)
        for each in rows_of(build(name, arguments, seed), name, seed)
    ]
    document = {
        "network": arguments.network,
        "shares": arguments.shares,
        "epochs": arguments.epochs,
        "learning_rate": arguments.learning_rate,
        "distillation": arguments.distillation,
        "depth": arguments.depth,
        "machine": environment.facts(),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
