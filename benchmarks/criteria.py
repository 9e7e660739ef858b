"""Which criterion keeps the right channels: Fashion-MNIST, a small residual network, the same repair for all.

    python benchmarks/criteria.py [--quick] [--seeds 3] [--epochs 0] [--out benchmarks/criteria]

For every seed a teacher is trained; for every task (10, 5, 3, 2 of the classes) and share of the teacher's
multiply-accumulates the network is cut to uniform widths by each criterion, repaired in closed form and
tested, and, with --epochs, tested again after a short training of that length. Criteria and repair see
training images alone; accuracy is of the data set's own test split.

Every finished cell is a line of OUT.jsonl; a second call goes on where the first one stopped. OUT.json then
holds means and 95 % intervals over the seeds, the settings and the machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.allocation import plan_uniform
from pipeline.compress.cost import count_macs
from pipeline.compress.distill import cross_entropy
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import CRITERIA, rank
from pipeline.compress.readers import find_readers
from pipeline.compress.repair import repair
from pipeline.compress.structure import Plan, apply
from pipeline.datasets.fashion_mnist import fashion_mnist, find_fashion_mnist
from pipeline.datasets.source import ArraySource
from pipeline.fit import Examples, FitSettings, accuracy, fit
from pipeline.network import load_weights, save_weights, with_head
from pipeline.zoo import resnet
from targets import environment
from targets.preprocess import Preprocess

SHAPE = (1, 1, 28, 28)
PREPROCESS = Preprocess(mean=(0.286,), std=(0.353,))
# The few-class tasks are of classes the network confuses; others are at 100 % whatever is cut.
TASKS = {10: tuple(range(10)), 5: (0, 2, 3, 4, 6), 3: (0, 3, 6), 2: (2, 4)}
TEST_FROM = 60000
SELECT_FROM = 55000
# PyTorch 2.13 writes past its buffers in the backward pass of strided 1×1 convolutions of fewer than 8 input
# channels in channels-last order, as shortcuts are.
MINIMUM = 8
# Two-sided 95 % quantile of Student's t, by number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Settings:
    """What a run costs.

    Args:
        widths: of the teacher's stages.
        images: the teacher is trained on.
        teacher_epochs: it is trained for.
        scoring: images that criteria and repair look at.
        shares: of the teacher's multiply-accumulates that are kept.
        tasks: numbers of classes.
        epochs: of the short training after repair; 0 for none.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    images: int = 50000
    teacher_epochs: int = 10
    scoring: int = 2048
    shares: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)
    tasks: tuple[int, ...] = (10, 5, 3, 2)
    epochs: int = 0


QUICK = Settings(
    widths=(16, 32, 64), images=6000, teacher_epochs=2, scoring=512, shares=(0.5, 0.2), tasks=(10, 3)
)
TRAINING = FitSettings(
    epochs=1, batch_size=128, learning_rate=0.1, weight_decay=5e-4, flip=True, shift=1, average=0.99
)


@dataclass(frozen=True)
class Scene:
    """One teacher seen through one task."""

    network: nn.Module
    train: Examples
    select: Examples
    test: Examples
    evidence: Evidence


def examples(source: ArraySource, classes: tuple[int, ...], start: int, stop: int) -> Examples:
    """A stretch of the images, those of the task alone, labelled by its outputs."""
    outputs = np.full(10, -1)
    outputs[list(classes)] = range(len(classes))
    mine = start + np.flatnonzero(outputs[source.labels[start:stop]] >= 0)
    return Examples(source.images[mine], outputs[source.labels[mine]], PREPROCESS)


def teacher(source: ArraySource, settings: Settings, seed: int, cache: Path) -> nn.Module:
    """The network of a seed, trained once."""
    torch.manual_seed(seed)
    network = resnet(10, 1, (1, 1, 1), settings.widths)
    if cache.is_file():
        network.load_state_dict(load_weights(cache), strict=False)
        return network
    everything = TASKS[10]
    train = examples(source, everything, 0, settings.images)
    select = examples(source, everything, SELECT_FROM, TEST_FROM)
    recipe = replace(TRAINING, epochs=settings.teacher_epochs)
    fit(network, cross_entropy, train, select, recipe, seed, lambda *_: None)
    save_weights(network, cache)
    return network


def scene(source: ArraySource, whole: nn.Module, settings: Settings, task: int, seed: int) -> Scene:
    """Give a copy of the teacher the task's head and gather what criteria may see."""
    classes = TASKS[task]
    network = copy.deepcopy(whole)
    if task < 10:
        with_head(network, classes, False, 10)
    network.eval().requires_grad_(False)
    train = examples(source, classes, 0, settings.images)
    chosen = np.random.default_rng(seed).permutation(len(train.labels))[: settings.scoring]
    batches = [train.tensors(chosen[start : start + 128]) for start in range(0, len(chosen), 128)]
    groups = find_groups(network, SHAPE)
    evidence = Evidence(network, groups, find_readers(network, groups, SHAPE), batches, task, seed)
    select = examples(source, classes, SELECT_FROM, TEST_FROM)
    test = examples(source, classes, TEST_FROM, TEST_FROM + 10000)
    return Scene(network, train, select, test, evidence)


def uniform_widths(network: nn.Module, share: float) -> Plan:
    """A plan of uniform widths at a share of the cost; which channels stay is of no account."""
    groups = find_groups(network, SHAPE)
    order = {group.leader: torch.arange(group.width, dtype=torch.float32) for group in groups}
    macs = int(share * count_macs(network, SHAPE))
    return plan_uniform(network, SHAPE, order, groups, macs=macs, alignment=2, minimum=MINIMUM)


@torch.no_grad()
def loss(network: nn.Module, test: Examples) -> float:
    """Cross-entropy on the test split: less of a lottery than accuracy."""
    parts: list[Tensor] = []
    for start in range(0, len(test.labels), 500):
        images, labels = test.tensors(np.arange(start, min(start + 500, len(test.labels))))
        parts.append(torch.nn.functional.cross_entropy(network(images), labels, reduction="none"))
    return float(torch.cat(parts).mean())


def cells(
    here: Scene, settings: Settings, seed: int, wanted: dict[float, list[str]]
) -> Iterator[dict[str, Any]]:
    """Cut, repair, test: one result for each share and criterion that is still wanted."""
    plans = {share: uniform_widths(here.network, share) for share in wanted}
    for name in dict.fromkeys(name for names in wanted.values() for name in names):
        begun = time.perf_counter()
        removal = rank(name, here.evidence)
        seconds = time.perf_counter() - begun
        for share in (share for share, names in wanted.items() if name in names):
            keep = {leader: removal[leader].keep(len(kept)) for leader, kept in plans[share].keep.items()}
            plan = plans[share].model_copy(update={"keep": keep})
            student = apply(copy.deepcopy(here.network), plan, SHAPE)
            repair(student, here.network, plan, here.evidence.batches, SHAPE)
            result = {"repaired": accuracy(student, here.test), "loss": loss(student, here.test)}
            if settings.epochs:
                student.requires_grad_()
                recipe = replace(TRAINING, epochs=settings.epochs, learning_rate=0.02)
                fit(student, cross_entropy, here.train, here.select, recipe, seed, lambda *_: None)
                result["trained"] = accuracy(student, here.test)
            yield {"share": share, "criterion": name, "rank_seconds": seconds, **result}


def run(source: ArraySource, settings: Settings, criteria: list[str], seed: int, out: Path) -> None:
    """All cells of one seed that OUT.jsonl does not hold yet."""
    lines = out.with_suffix(".jsonl")
    done = {(c["epochs"], c["seed"], c["task"], c["share"], c["criterion"]) for c in read(lines)}
    whole: nn.Module | None = None
    for task in settings.tasks:
        wanted = {
            share: [name for name in criteria if (settings.epochs, seed, task, share, name) not in done]
            for share in settings.shares
        }
        if not any(wanted.values()):
            continue
        whole = whole or teacher(source, settings, seed, out.with_name(f"{out.name}-{seed}.safetensors"))
        here = scene(source, whole, settings, task, seed)
        uncut = accuracy(here.network, here.test)
        for cell in cells(here, settings, seed, wanted):
            with lines.open("a", encoding="utf-8") as stream:
                stream.write(
                    json.dumps(
                        {"epochs": settings.epochs, "seed": seed, "task": task, "whole": uncut, **cell}
                    )
                    + "\n"
                )


def read(lines: Path) -> list[dict[str, Any]]:
    """Cells that are done."""
    if not lines.is_file():
        return []
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and half-width of the 95 % interval over seeds of every cell."""
    joined = defaultdict(list)
    for cell in found:
        joined[cell["epochs"], cell["task"], cell["share"], cell["criterion"]].append(cell)
    rows = []
    for (epochs, task, share, criterion), same in sorted(joined.items()):
        row: dict[str, Any] = {
            "epochs": epochs,
            "task": task,
            "share": share,
            "criterion": criterion,
            "seeds": len(same),
        }
        for measure in ("whole", "repaired", "loss", "trained", "rank_seconds"):
            values = [cell[measure] for cell in same if measure in cell]
            if values:
                row[measure] = {"mean": statistics.fmean(values), "half_width": half_width(values)}
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
    parser.add_argument("--quick", action="store_true", help="a small teacher, two tasks, two shares")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="of training after repair")
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    parser.add_argument("--out", type=Path, help="default benchmarks/criteria[-quick]")
    arguments = parser.parse_args()
    settings = replace(QUICK if arguments.quick else Settings(), epochs=arguments.epochs)
    out = arguments.out or Path(f"benchmarks/criteria{'-quick' * arguments.quick}")
    source = fashion_mnist(find_fashion_mnist(download=True))
    for seed in range(arguments.seeds):
        run(source, settings, arguments.criteria, seed, out)
    document = {
        "settings": vars(settings),
        "seeds": list(range(arguments.seeds)),
        "machine": environment.facts(),
        "versions": {name: version(name) for name in ("torch", "torch-pruning", "numpy")},
        "cells": summary(read(out.with_suffix(".jsonl"))),
    }
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
