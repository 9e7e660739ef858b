"""Critical paths against discriminant information: 2, 3 and 5 of ten classes, equal operations.

    python benchmarks/critical_paths.py [--cifar10 FOLDER] [--seeds 0 1 2] [--teachers PREFIX] [--out …]

Teachers, tasks, repair, short training and test are those of `criteria.py`. Contenders, at the same share of
the teacher's multiply-accumulates:

    keep-sets       union of the classes' paths; widths too follow from them, the path share from the budget
    critical-path   the same scores as an order, uniform widths
    discriminant-reconstruction, di-greedy, random    uniform widths

Scores of paths are taken once, of the teacher with all its classes; the others look at the network anew for
every task. Every finished cell is a line of OUT.jsonl; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from criteria import Scene, Settings, measure, scene, teacher, train_shortly
from paired import Cell, plot, read, summary
from pictures import Pictures, add_option, chosen, default_out
from torch import Tensor, nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import Budget
from pipeline.compress.cost import macs
from pipeline.compress.customise import keep_set_plan
from pipeline.compress.discriminant import Removal
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import rank
from pipeline.compress.paths import PathScores, for_task, path_removal, score_paths
from pipeline.compress.readers import find_readers
from pipeline.compress.repair import repair
from pipeline.compress.shapes import Shapes, find_shapes
from pipeline.compress.structure import Plan, apply

SHARES = (0.5, 0.25, 0.125)
CRITERIA = ("discriminant-reconstruction", "di-greedy", "random")
CONTENDERS = ("keep-sets", "critical-path", *CRITERIA)
WIDTHS = {"alignment": 2, "minimum": 4}
SETTINGS = {"fashion-mnist": Settings(), "cifar10": Settings(images=30000, teacher_epochs=6)}

Orders = Mapping[str, Mapping[str, Removal]]


def path_scores(data: Pictures, whole: nn.Module, images: int, seed: int) -> PathScores:
    """Of the teacher with all its classes, once."""
    network = copy.deepcopy(whole).eval().requires_grad_(False)
    train = data.examples(data.tasks[10], 0, data.train_to)
    seen = np.random.default_rng(seed).permutation(len(train.labels))[:images]
    batches = [train.tensors(part) for part in np.array_split(seen, 8)]
    groups = find_groups(network, data.shape)
    return score_paths(network, find_readers(network, groups, data.shape), batches, data.classes)


def by_keep_sets(shapes: Shapes, mine: dict[str, Tensor], limit: float) -> Plan | None:
    """The largest path share whose keep-sets cost no more than the limit, by halving; None if none does."""
    low, high, found = 0.0, 1.0, None
    for _ in range(20):
        middle = (low + high) / 2
        plan = keep_set_plan(shapes, mine, middle, **WIDTHS)
        if plan.macs_after <= limit:
            low, found = middle, plan
        else:
            high = middle
    return found


def plans(
    shapes: Shapes, mine: dict[str, Tensor], orders: Orders, limit: float
) -> Iterator[tuple[str, Plan]]:
    """Every contender's plan at a number of multiply-accumulates."""
    sets = by_keep_sets(shapes, mine, limit)
    if sets is not None:
        yield "keep-sets", sets
    budget = Budget("macs", limit, lambda widths: macs(shapes, widths))
    for name, order in orders.items():
        yield name, make_plan(shapes, order, budget, allocation="uniform", **WIDTHS)


def cells(
    here: Scene, scores: PathScores, classes: Sequence[int], shares: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Cut, repair, test, train, test; for each share and contender."""
    shapes = find_shapes(here.network, here.evidence.groups, here.shape)
    whole = int(macs(shapes, shapes.full))
    mine = for_task(scores, classes, other=False)
    orders = {"critical-path": {leader: path_removal(found) for leader, found in mine.items()}}
    orders |= {name: rank(name, here.evidence) for name in CRITERIA}
    for share in shares:
        for name, plan in plans(shapes, mine, orders, share * whole):
            begun = time.perf_counter()
            student = apply(copy.deepcopy(here.network), plan, here.shape)
            repair(student, here.network, plan, here.repairing, here.shape)
            seconds = time.perf_counter() - begun
            repaired = measure(student, here.test)
            train_shortly(student, here.short)
            yield {
                "share": share,
                "contender": name,
                "macs": plan.macs_after / whole,
                "widths": {leader: len(kept) for leader, kept in plan.keep.items()},
                "cut_and_repair_seconds": seconds,
                "repaired": repaired,
                "trained": measure(student, here.test),
            }


def run(data: Pictures, seed: int, cache: Path, out: Path) -> None:
    """All tasks of a seed that OUT.jsonl does not hold yet."""
    lines, settings = out.with_suffix(".jsonl"), SETTINGS[data.name]
    done = {(cell["seed"], cell["task"]) for cell in read(lines)}
    wanted = [task for task in (5, 3, 2) if (seed, task) not in done]
    if not wanted:
        return
    whole = teacher(data, settings, seed, cache)
    scores = path_scores(data, whole, settings.scoring, seed)
    for task in wanted:
        here = scene(data, whole, settings, task, seed)
        facts = {"seed": seed, "task": task, "whole": measure(here.network, here.test)}
        found = [facts | cell for cell in cells(here, scores, data.tasks[task], SHARES)]
        with lines.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(cell) + "\n" for cell in found)


def main() -> None:
    """Run, then write OUT.json and OUT.svg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teachers", type=Path, help="PREFIX-SEED.safetensors; default: that of criteria.py")
    parser.add_argument("--out", type=Path, help="without suffix")
    arguments = parser.parse_args()
    data, out = chosen(arguments), arguments.out or default_out(arguments, "critical_paths")
    teachers = arguments.teachers or default_out(arguments, "criteria")
    for seed in arguments.seeds:
        run(data, seed, teachers.with_name(f"{teachers.name}-{seed}.safetensors"), out)
    found = [
        Cell(
            f"{cell['task']} classes, {stage}",
            cell["share"],
            cell["contender"],
            cell["seed"],
            cell[stage]["accuracy"],
        )
        for cell in read(out.with_suffix(".jsonl"))
        for stage in ("repaired", "trained")
    ]
    summary(found, CONTENDERS, out.with_suffix(".json"), reference="discriminant-reconstruction")
    plot(found, CONTENDERS, out.with_suffix(".svg"), across="share of multiply-accumulates")


if __name__ == "__main__":
    main()
