"""Whether hints and the auxiliary head pay: Fashion-MNIST, a small residual network, students of a set cost.

    python benchmarks/distillation.py [--quick] [--seeds 3] [--out benchmarks/distillation]

The demo's teacher is cut to uniform widths by the L1 norm, repaired in closed form and trained for two epochs
on some of the images with each loss, for tasks of 10 and of 3 confusable classes. Accuracy and cross-entropy
are of images 55000 to 60000 of the training file, which no student is trained on; the test split is
never read.

Every finished cell is a line of OUT.jsonl; a second call goes on where the first one stopped. OUT.json then
holds, for every loss, the mean over seeds, and how far it is from the labels alone, seed by seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import macs_budget
from pipeline.compress.cost import count_macs
from pipeline.compress.distill import DistillationSettings, cross_entropy, distilling
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import by_score, l1_importance
from pipeline.compress.repair import repair
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import apply
from pipeline.datasets.fashion_mnist import fashion_mnist, find_fashion_mnist
from pipeline.datasets.source import ArraySource
from pipeline.fit import Examples, FitSettings, accuracy, fit
from pipeline.network import load_weights, with_head
from pipeline.zoo import resnet
from targets import environment
from targets.preprocess import Preprocess

SHAPE = (1, 1, 28, 28)
TEACHER = Path(__file__).parents[1] / "examples/footwear/teacher.safetensors"
TASKS = {10: tuple(range(10)), 3: (0, 3, 6)}
TRAIN_TO, SELECT_TO = 55000, 60000
PLAIN = "labels"
LOSSES = {
    PLAIN: DistillationSettings(task=0.0),
    "labels, task": DistillationSettings(),
    "labels, task, all classes": DistillationSettings(all_classes=1.0),
    "labels, task, hints": DistillationSettings(hints=1.0),
    "labels, task, all classes, hints": DistillationSettings(all_classes=1.0, hints=1.0),
}
# Clipped: otherwise losses of more terms take longer steps, and a repaired network, whose head has large
# weights, is thrown far from where it was.
RECIPE = FitSettings(
    epochs=2,
    batch_size=128,
    learning_rate=0.02,
    weight_decay=5e-4,
    flip=True,
    shift=1,
    average=0.9,
    clip=1.0,
)
# Two-sided 95 % quantile of Student's t, by number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Settings:
    """What a run costs.

    Args:
        images: trained on, drawn anew for every seed.
        select: images results are of.
        repair: images the repair looks at.
        shares: of the teacher's multiply-accumulates that are kept.
        recipe: of the training.
    """

    images: int = 2000
    select: int = 2000
    repair: int = 2048
    shares: tuple[float, ...] = (0.125, 0.0625)
    recipe: FitSettings = RECIPE


QUICK = Settings(images=600, select=500, repair=256, shares=(0.125,), recipe=replace(RECIPE, epochs=1))


def teacher() -> nn.Module:
    """The demo's."""
    network = resnet(10, 1, (1, 1, 1), (32, 64, 128))
    network.load_state_dict(load_weights(TEACHER), strict=False)
    return network.eval()


def examples(source: ArraySource, task: int, start: int, stop: int, count: int, seed: int) -> Examples:
    """At most `count` random images of a stretch, of the task's classes alone, labelled by its outputs."""
    outputs = np.full(10, -1)
    outputs[list(TASKS[task])] = range(task)
    mine = start + np.flatnonzero(outputs[source.labels[start:stop]] >= 0)
    chosen = np.random.default_rng(seed).permutation(mine)[:count]
    preprocess = Preprocess(mean=(0.286,), std=(0.353,))
    return Examples(source.images[chosen], outputs[source.labels[chosen]], preprocess)


def repaired(task: int, share: float, seen: Examples) -> nn.Module:
    """The teacher with the task's head, cut to a share of its cost and refitted."""
    whole = with_head(teacher(), TASKS[task], False, 10, SHAPE) if task < 10 else teacher()
    groups = find_groups(whole, SHAPE)
    shapes = find_shapes(whole, groups, SHAPE)
    budget = macs_budget(shapes, int(share * count_macs(whole, SHAPE)))
    order = {leader: by_score(score) for leader, score in l1_importance(whole, groups).items()}
    plan = make_plan(shapes, order, budget, alignment=2, minimum=8)
    batches = [
        seen.tensors(np.arange(start, min(start + 128, len(seen.labels))))
        for start in range(0, len(seen.labels), 128)
    ]
    student = apply(copy.deepcopy(whole), plan, SHAPE)
    repair(student, whole, plan, batches, SHAPE)
    return student.requires_grad_(True)


def measured(network: nn.Module, select: Examples) -> dict[str, float]:
    """Accuracy and cross-entropy."""
    total = 0.0
    for start in range(0, len(select.labels), 500):
        images, labels = select.tensors(np.arange(start, min(start + 500, len(select.labels))))
        with torch.no_grad():
            total += cross_entropy(images, network.eval()(images), labels, 1.0).item() * len(labels)
    return {"top1": accuracy(network, select), "loss": total / len(select.labels)}


def cells(
    source: ArraySource, settings: Settings, task: int, share: float, seed: int, losses: list[str]
) -> Iterator[dict[str, Any]]:
    """Cut and repair once, then train a copy with each loss."""
    train = examples(source, task, 0, TRAIN_TO, settings.images, seed)
    select = examples(source, task, TRAIN_TO, SELECT_TO, settings.select, seed)
    start = repaired(task, share, examples(source, task, 0, TRAIN_TO, settings.repair, seed + 1000))
    before = measured(start, select)
    for name in losses:
        student = copy.deepcopy(start)
        images, _ = train.tensors(np.arange(128))
        with distilling(teacher(), student, TASKS[task], False, LOSSES[name], images) as loss:
            fit(student, loss, train, select, settings.recipe, seed, lambda *_: None)
        yield {"loss_name": name, "repaired": before, "trained": measured(student, select)}


def run(source: ArraySource, settings: Settings, seed: int, lines: Path) -> None:
    """All cells of one seed that OUT.jsonl does not hold yet."""
    done = {(cell["seed"], cell["task"], cell["share"], cell["loss_name"]) for cell in read(lines)}
    for share in settings.shares:
        for task in TASKS:
            losses = [name for name in LOSSES if (seed, task, share, name) not in done]
            for cell in cells(source, settings, task, share, seed, losses) if losses else ():
                with lines.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"seed": seed, "task": task, "share": share} | cell) + "\n")


def read(lines: Path) -> list[dict[str, Any]]:
    """Cells that are done."""
    if not lines.is_file():
        return []
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of every cell, and its gains over the labels alone with 95 % intervals."""
    joined: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell in found:
        joined[cell["task"], cell["share"], cell["loss_name"]][cell["seed"]] = cell
    rows = []
    for (task, share, name), mine in joined.items():
        plain = joined[task, share, PLAIN]
        row: dict[str, Any] = {"task": task, "share": share, "loss_name": name, "seeds": sorted(mine)}
        for measure in ("top1", "loss"):
            row[measure] = statistics.fmean(cell["trained"][measure] for cell in mine.values())
            row[f"repaired_{measure}"] = statistics.fmean(cell["repaired"][measure] for cell in mine.values())
            both = mine.keys() & plain.keys()
            gains = [mine[seed]["trained"][measure] - plain[seed]["trained"][measure] for seed in both]
            row[f"{measure}_gain"] = {"mean": statistics.fmean(gains), "half_width": half_width(gains)}
        rows.append(row)
    return rows


def half_width(values: list[float]) -> float | None:
    """Half of Student's 95 % interval; none for a single value."""
    if len(values) not in STUDENT:
        return None
    return STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    """Run, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one share, one epoch, few images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="default benchmarks/distillation[-quick]")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    out = arguments.out or Path(f"benchmarks/distillation{'-quick' * arguments.quick}")
    lines = out.with_suffix(".jsonl")
    source = fashion_mnist(find_fashion_mnist(download=True))
    for seed in range(arguments.seeds):
        run(source, settings, seed, lines)
    document = {
        "settings": asdict(settings),
        "losses": {name: asdict(chosen) for name, chosen in LOSSES.items()},
        "machine": environment.facts(),
        "versions": {name: version(name) for name in ("torch", "torch-pruning", "numpy")},
        "cells": summary(read(lines)),
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
