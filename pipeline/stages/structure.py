"""scores, structure: which channels matter, and which of them a student keeps for its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.compress.allocation import make_plan
from pipeline.compress.blocks import load_replaced
from pipeline.compress.budget import Budget
from pipeline.compress.cost import count_macs, count_parameters, macs, parameters, weight_bytes
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups, survey
from pipeline.compress.importance import rank
from pipeline.compress.latency import LatencyTable
from pipeline.compress.readers import find_readers
from pipeline.compress.scores import GroupScores, Scores, UncutLayer
from pipeline.compress.shapes import Shapes, find_shapes
from pipeline.compress.sufficiency import check_images, check_teacher
from pipeline.stage import Context
from pipeline.stages.loading import examples, fresh, fresh_uncut, input_shape, load_uncut, some
from pipeline.task import Task


def score(context: Context) -> None:
    """Put the channels of every group into the order they can go in. Artefact: scores.json."""
    settings = context.settings
    network = load_uncut(settings["model"], context.inputs)
    shape = input_shape(context.inputs["facts"])
    found = survey(network, shape)
    groups = list(found.groups)
    task = Task.load(context.inputs["task"])
    batches = some(examples(context, "train", task), settings["images"])
    warnings = check_images(torch.cat([labels for _, labels in batches]), task.outputs, groups)
    warnings += _doubts(network, batches, task)
    readers = find_readers(network, groups, shape)
    evidence = Evidence(network, groups, readers, batches, len(task.outputs), settings["seed"])
    removal = rank(settings["importance"], evidence)
    scores = Scores(
        criterion=settings["importance"],
        groups=[GroupScores.of(group, removal[group.leader]) for group in groups],
        uncut=[UncutLayer(layer=one.layer, reason=one.reason) for one in found.uncut],
        warnings=warnings,
    )
    scores.save(context.out / "scores.json")


@torch.inference_mode()
def _doubts(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], task: Task) -> list[str]:
    """Whether the teacher knows the wanted classes; every fourth image is enough to see that."""
    wanted = len(task.wanted)
    looked = [(network(images[::4])[:, :wanted], labels[::4]) for images, labels in batches]
    logits, labels = (torch.cat(parts) for parts in zip(*looked, strict=True))
    return check_teacher(logits, labels, task.outputs[:wanted])


def decide(context: Context) -> None:
    """Decide which channels stay for a budget. Artefact: plan.json."""
    settings = context.settings
    shape, teacher = input_shape(context.inputs["facts"]), fresh(settings["model"])
    whole = {"macs": count_macs(teacher, shape), "parameters": count_parameters(teacher)}
    network = fresh_uncut(settings["model"], context.inputs)
    scores = Scores.load(context.inputs["scores"])
    shapes = find_shapes(network, find_groups(network, shape), shape)
    plan = make_plan(
        shapes,
        {group.leader: group.removal() for group in scores.groups},
        _budget(context, shapes, whole),
        allocation=settings["allocation"],
        alignment=settings["alignment"],
        minimum=settings["minimum"],
    )
    replaced = load_replaced(context.inputs["replaced"]) if "replaced" in context.inputs else {}
    plan.model_copy(update={"replaced": replaced}).save(context.out / "plan.json")


def _budget(context: Context, shapes: Shapes, whole: Mapping[str, int]) -> Budget:
    """The student's budget with what is held against it; shares are of the teacher with its own head."""
    kind, limit, bits = (context.settings["budget"][name] for name in ("kind", "limit", "bits"))
    setting = f"student.{kind}"
    if kind == "latency_ms":
        table = LatencyTable.load(context.inputs["costs"])
        return Budget(kind, limit, lambda widths: table.milliseconds(shapes, widths), setting)
    if kind == "bytes":
        return Budget(kind, limit, lambda widths: weight_bytes(shapes, widths, bits), setting)
    count = {"macs": macs, "parameters": parameters}[kind]
    return Budget(
        kind, int(limit * whole[kind]), lambda widths: count(shapes, widths), setting, float(whole[kind])
    )
