"""path scores, paths, customise: critical paths of every class, and networks cut by them to some classes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import Budget
from pipeline.compress.cost import count_macs, count_parameters, macs
from pipeline.compress.customise import customising_pays, keep_set_plan
from pipeline.compress.groups import find_groups
from pipeline.compress.paths import (
    PathScores,
    exclusiveness,
    for_task,
    layer_shares,
    path_removal,
    paths,
    score_paths,
)
from pipeline.compress.readers import find_readers
from pipeline.compress.repair import repair
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import Plan, apply
from pipeline.fit import accuracy
from pipeline.network import save_weights, with_head
from pipeline.stage import Context
from pipeline.stages.artefacts import write_json
from pipeline.stages.loading import examples, input_shape, load_network, some
from pipeline.task import Task, resolve

# Classes a page has room for; of more, those of the task are shown.
MOST_CLASSES = 20


def score(context: Context) -> None:
    """Score the teacher's channels for each of its classes. Artefact: path_scores.npz."""
    network = load_network(context.settings["model"], context.inputs, weights="teacher")
    shape = input_shape(context.inputs["facts"])
    readers = find_readers(network, find_groups(network, shape), shape)
    batches = some(examples(context, "train"), context.settings["images"])
    score_paths(network, readers, batches, _classes(context)).save(context.out / "path_scores.npz")


def describe(context: Context) -> None:
    """Say how far the classes' paths lie apart, and whether customising pays. Artefact: paths.json."""
    scores = PathScores.load(context.inputs["scores"])
    task, share = Task.load(context.inputs["task"]), context.settings["share"]
    labels = list(range(len(scores.classes)))
    shown = labels if len(labels) <= MOST_CLASSES else list(task.wanted)[:MOST_CLASSES]
    mine = for_task(scores, task.wanted, task.other)
    held = layer_shares(list(scores.groups), share)
    document = {
        "classes": [scores.classes[label] for label in shown],
        "words": customising_pays(scores, task.wanted, mine, share),
        "layers": [_layer(leader, found[:, shown], held[leader]) for leader, found in scores.groups.items()],
    }
    (context.out / "paths.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def customise(context: Context) -> None:
    """Cut the teacher to some classes by scores that are there already, and repair it in closed form.

    Artefacts: task.json, plan.json, weights.safetensors, facts.json.
    """
    settings = context.settings
    task = resolve(_classes(context), settings["classes"], settings["other"])
    task.save(context.out / "task.json")
    teacher = load_network(settings["model"], context.inputs, weights="teacher")
    shape = input_shape(context.inputs["facts"])
    with_head(teacher, task.wanted, task.other, len(task.known), shape)
    scores = PathScores.load(context.inputs["scores"])
    plan = _plan(teacher, shape, scores, task, settings)
    plan.save(context.out / "plan.json")
    network = apply(copy.deepcopy(teacher), plan, shape)
    repair(network, teacher, plan, some(examples(context, "train", task), settings["repair_images"]), shape)
    save_weights(network, context.out / "weights.safetensors")
    select = examples(context, "select", task)
    mine = for_task(scores, task.wanted, task.other)
    facts = {
        "origin": f"{settings['model']['factory']}, cut to {', '.join(task.outputs)} by critical paths",
        "words": customising_pays(scores, task.wanted, mine, settings["share"]),
        "macs": count_macs(network, shape),
        "macs_before": plan.macs_before,
        "parameters": count_parameters(network),
        "select_top1": accuracy(network, select),
        "teacher_select_top1": accuracy(teacher, select),
    }
    write_json(context.out, "facts", facts)


def _plan(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    scores: PathScores,
    task: Task,
    settings: Mapping[str, Any],
) -> Plan:
    """By a budget where there is one, else as wide as the classes' paths are together."""
    shapes = find_shapes(network, find_groups(network, shape), shape)
    mine = for_task(scores, task.wanted, task.other)
    widths = {"alignment": settings["alignment"], "minimum": settings["minimum"]}
    if settings["macs"] is None:
        return keep_set_plan(shapes, mine, settings["share"], **widths)
    whole = float(macs(shapes, shapes.full))
    budget = Budget(
        "macs", settings["macs"] * whole, lambda given: macs(shapes, given), "--macs", share_of=whole
    )
    removal = {leader: path_removal(found) for leader, found in mine.items()}
    return make_plan(shapes, removal, budget, allocation="uniform", **widths)


def _layer(leader: str, scores: Tensor, share: float) -> dict[str, Any]:
    on = paths(scores, share)
    return {
        "layer": leader,
        "channels": len(scores),
        "share": share,
        "sizes": on.sum(0).tolist(),
        "exclusiveness": [
            [round(value, 4) for value in row] for row in exclusiveness(scores, share).tolist()
        ],
        "critical": [on[:, label].nonzero().flatten().tolist() for label in range(on.shape[1])],
    }


def _classes(context: Context) -> list[str]:
    known: list[str] = json.loads(context.inputs["facts"].read_text(encoding="utf-8"))["classes"]
    return known
