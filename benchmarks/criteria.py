"""Which criterion keeps the right channels: Fashion-MNIST, a small residual network, the same repair for all.

    python benchmarks/criteria.py [--quick] [--seeds 5] [--shares 0.5 0.25] [--out benchmarks/criteria]

For every seed a teacher is trained; for every task (10, 5, 3, 2 of the classes) and share of the teacher's
multiply-accumulates the network is cut to uniform widths by each criterion, repaired in closed form and
tested, then trained for a fixed number of steps and tested again. Criteria, repair and training see training
images alone; accuracy and cross-entropy are of the data set's own test split.

Every finished cell is a line of OUT.jsonl; a second call goes on where the first one stopped. At the end
`criteria_report` turns the lines into OUT.json, OUT.svg and the table in docs/discriminant.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from criteria_report import read, report
from pictures import Pictures, fashion
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import macs_budget
from pipeline.compress.cost import count_macs
from pipeline.compress.distill import cross_entropy
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import CRITERIA, by_score, rank
from pipeline.compress.readers import find_readers
from pipeline.compress.repair import repair
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import Plan, apply
from pipeline.fit import Examples, FitSettings, fit, memory_format
from pipeline.network import load_weights, save_weights, with_head
from pipeline.zoo import resnet


@dataclass(frozen=True)
class Settings:
    """What a run costs.

    Args:
        widths: of the teacher's stages.
        images: the teacher is trained on.
        teacher_epochs: it is trained for.
        scoring: images that criteria look at; repair, which has fewer columns left, at a quarter of them.
        shares: of the teacher's multiply-accumulates that are kept.
        tasks: numbers of classes.
        steps: of the short training after repair.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    images: int = 20000
    teacher_epochs: int = 3
    scoring: int = 1024
    shares: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)
    tasks: tuple[int, ...] = (10, 5, 3, 2)
    steps: int = 40


QUICK = Settings(images=6000, teacher_epochs=1, scoring=512, shares=(0.25, 0.1), tasks=(10, 3), steps=20)
# No group gets narrower: at a sixteenth of the operations a quarter of the first stage's channels.
ALIGNMENT, MINIMUM = 2, 4
TEACHING = FitSettings(
    epochs=1, batch_size=128, learning_rate=0.1, weight_decay=5e-4, flip=True, shift=1, average=0.99
)
SHORT_BATCH, SHORT_RATE = 64, 0.006


@dataclass(frozen=True)
class Scene:
    """One teacher seen through one task.

    Args:
        network: the teacher with the task's head.
        test: the task's test images.
        short: images of the short training, each seen once.
        evidence: what criteria may look at.
        repairing: what repair looks at.
        shape: of one input.
    """

    network: nn.Module
    test: Examples
    short: Examples
    evidence: Evidence
    repairing: list[tuple[Tensor, Tensor]]
    shape: tuple[int, ...]


def some(given: Examples, chosen: np.ndarray[Any, np.dtype[np.int64]]) -> Examples:
    """Those at some indices."""
    return replace(given, images=given.images[chosen], labels=given.labels[chosen])


def teacher(data: Pictures, settings: Settings, seed: int, cache: Path) -> nn.Module:
    """The network of a seed, trained once."""
    torch.manual_seed(seed)
    network = resnet(10, data.shape[1], (1, 1, 1), settings.widths)
    if cache.is_file():
        network.load_state_dict(load_weights(cache), strict=False)
        return network
    train = data.examples(data.tasks[10], 0, settings.images)
    select = data.examples(data.tasks[10], data.train_to, data.test_from)
    recipe = replace(TEACHING, epochs=settings.teacher_epochs, shift=data.shift)
    fit(network, cross_entropy, train, select, recipe, seed, lambda *_: None)
    save_weights(network, cache)
    return network


def scene(data: Pictures, whole: nn.Module, settings: Settings, task: int, seed: int) -> Scene:
    """Give a copy of the teacher the task's head and gather what criteria may see."""
    classes = data.tasks[task]
    network = copy.deepcopy(whole)
    if task < 10:
        with_head(network, classes, False, 10, data.shape)
    network.eval().requires_grad_(False)
    train = data.examples(classes, 0, data.train_to)
    rng = np.random.default_rng(seed)
    seen = some(train, rng.permutation(len(train.labels))[: settings.scoring])
    short = some(train, rng.permutation(len(train.labels))[: settings.steps * SHORT_BATCH])
    batches = [seen.tensors(part) for part in np.array_split(np.arange(len(seen.labels)), 8)]
    groups = find_groups(network, data.shape)
    readers = find_readers(network, groups, data.shape)
    evidence = Evidence(network, groups, readers, batches, task, seed)
    return Scene(network, data.test(classes), short, evidence, batches[: len(batches) // 4], data.shape)


def uniform_plans(data: Pictures, settings: Settings) -> dict[float, Plan]:
    """Share → uniform widths at that share of the teacher's cost; which channels stay is of no account."""
    network = resnet(10, data.shape[1], (1, 1, 1), settings.widths).eval()
    groups = find_groups(network, data.shape)
    order = {group.leader: by_score(torch.arange(group.width)) for group in groups}
    shapes, macs = find_shapes(network, groups, data.shape), count_macs(network, data.shape)
    return {
        share: make_plan(
            shapes, order, macs_budget(shapes, int(share * macs)), alignment=ALIGNMENT, minimum=MINIMUM
        )
        for share in settings.shares
    }


@torch.no_grad()
def measure(network: nn.Module, test: Examples) -> dict[str, float]:
    """Accuracy, and cross-entropy: less of a lottery."""
    network.eval()
    correct, lost = 0, 0.0
    for part in np.array_split(np.arange(len(test.labels)), -(-len(test.labels) // 500)):
        images, labels = test.tensors(part)
        logits = network(images)
        correct += int((logits.argmax(1) == labels).sum())
        lost += float(functional.cross_entropy(logits, labels, reduction="sum"))
    return {"accuracy": correct / len(test.labels), "loss": lost / len(test.labels)}


def train_shortly(network: nn.Module, given: Examples) -> None:
    """Once through some images: SGD with momentum, its rate falling as a cosine."""
    network.train().requires_grad_()
    order = memory_format(network)
    network.to(memory_format=order)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=SHORT_RATE, momentum=0.9, nesterov=True)
    steps = len(given.labels) // SHORT_BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for part in np.array_split(np.arange(len(given.labels)), steps):
        images, labels = given.tensors(part)
        # A copy: with one channel both orders are one, and what is behind it follows the strides.
        logits = network(images.clone(memory_format=order))
        optimizer.zero_grad()
        functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def cells(here: Scene, plans: dict[float, Plan], wanted: dict[float, list[str]]) -> Iterator[dict[str, Any]]:
    """Cut, repair, test, train, test: one result for each share and criterion that is still wanted."""
    for name in dict.fromkeys(name for names in wanted.values() for name in names):
        begun = time.perf_counter()
        removal = rank(name, here.evidence)
        seconds = time.perf_counter() - begun
        for share in (share for share, names in wanted.items() if name in names):
            keep = {leader: removal[leader].keep(len(kept)) for leader, kept in plans[share].keep.items()}
            plan = plans[share].model_copy(update={"keep": keep})
            student = apply(copy.deepcopy(here.network), plan, here.shape)
            repair(student, here.network, plan, here.repairing, here.shape)
            repaired = measure(student, here.test)
            train_shortly(student, here.short)
            trained = measure(student, here.test)
            macs = plan.macs_after / plan.macs_before
            yield {
                "share": share,
                "criterion": name,
                "macs": macs,
                "rank_seconds": seconds,
                "repaired": repaired,
                "trained": trained,
            }


def run(
    data: Pictures,
    settings: Settings,
    plans: dict[float, Plan],
    criteria: list[str],
    seed: int,
    out: Path,
) -> None:
    """All cells of one seed that OUT.jsonl does not hold yet."""
    lines = out.with_suffix(".jsonl")
    done = {(cell["seed"], cell["task"], cell["share"], cell["criterion"]) for cell in read(lines)}
    whole: nn.Module | None = None
    for task in settings.tasks:
        wanted = {
            share: [name for name in criteria if (seed, task, share, name) not in done]
            for share in settings.shares
        }
        if not any(wanted.values()):
            continue
        whole = whole or teacher(data, settings, seed, out.with_name(f"{out.name}-{seed}.safetensors"))
        here = scene(data, whole, settings, task, seed)
        uncut = measure(here.network, here.test)
        for cell in cells(here, plans, wanted):
            with lines.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"seed": seed, "task": task, "whole": uncut, **cell}) + "\n")


def main() -> None:
    """Run, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a worse teacher, two tasks, two shares")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shares", nargs="+", type=float, help="of the multiply-accumulates that are kept")
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    parser.add_argument("--out", type=Path, help="default benchmarks/criteria[-quick]")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    settings = replace(settings, shares=tuple(arguments.shares or settings.shares))
    out = arguments.out or Path(f"benchmarks/criteria{'-quick' * arguments.quick}")
    data = fashion()
    plans = uniform_plans(data, settings)
    for seed in range(arguments.seeds):
        run(data, settings, plans, arguments.criteria, seed, out)
    report(out, vars(settings))


if __name__ == "__main__":
    main()
