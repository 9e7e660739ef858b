"""scores, structure: which channels matter, and which of them a student keeps for its budget."""

from __future__ import annotations

from pipeline.compress.allocation import plan_uniform
from pipeline.compress.cost import count_macs
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import rank
from pipeline.compress.readers import find_readers
from pipeline.compress.scores import GroupScores, Scores
from pipeline.compress.structure import PlannedCost
from pipeline.stage import Context
from pipeline.stages.loading import examples, fresh, give_head, input_shape, load_network, some
from pipeline.task import Task


def score(context: Context) -> None:
    """Put the channels of every group into the order they can go in. Artefact: scores.json."""
    settings = context.settings
    network = load_network(settings["model"], context.inputs, weights="teacher", headed=True)
    shape = input_shape(context.inputs["facts"])
    groups = find_groups(network, shape)
    task = Task.load(context.inputs["task"])
    batches = some(examples(context, "train", task), settings["images"])
    readers = find_readers(network, groups, shape)
    evidence = Evidence(network, groups, readers, batches, len(task.outputs), settings["seed"])
    removal = rank(settings["importance"], evidence)
    scores = Scores(
        criterion=settings["importance"],
        groups=[GroupScores.of(group, removal[group.leader]) for group in groups],
    )
    scores.save(context.out / "scores.json")


def decide(context: Context) -> None:
    """Decide which channels stay for a budget. Artefact: plan.json."""
    settings = context.settings
    network = fresh(settings["model"]).eval()
    shape = input_shape(context.inputs["facts"])
    whole = count_macs(network, shape)
    give_head(network, context.inputs)
    scores = Scores.load(context.inputs["scores"])
    limit = int(settings["budget"]["limit"] * whole)
    plan = plan_uniform(
        network,
        shape,
        {group.leader: group.removal().importance() for group in scores.groups},
        find_groups(network, shape),
        macs=limit,
        alignment=settings["alignment"],
        minimum=settings["minimum"],
    )
    cost = PlannedCost(kind="macs", limit=limit, before=plan.macs_before, predicted=plan.macs_after)
    plan.model_copy(update={"cost": cost}).save(context.out / "plan.json")
