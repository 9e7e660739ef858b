"""A plan for some classes, told from scores that were kept for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pipeline.compress import cost
from pipeline.compress.allocation import share_lost, width_levels
from pipeline.compress.paths import PathScores, exclusiveness, keep_set, layer_shares, path_removal
from pipeline.compress.shapes import Shapes
from pipeline.compress.structure import Plan

# Below it, two classes have more than half of their channels in common (a limit of ours).
EXCLUSIVE = 0.5


def keep_set_plan(
    shapes: Shapes, scores: Mapping[str, Tensor], share: float, *, alignment: int, minimum: int
) -> Plan:
    """Keep the union of the classes' paths: widths follow from the scores, not from a budget.

    Args:
        shapes: of the network to be cut.
        scores: leader → [channels, outputs] of the task, leaders in the order they are read.
        share: of a class's mass that its path holds in the last layer.
        alignment: widths are rounded up to multiples of it where the layer is wide enough.
        minimum: channels no group goes below.
    """
    levels = width_levels(shapes.full, alignment, minimum)
    removal = {leader: path_removal(found) for leader, found in scores.items()}
    wanted = keep_sets(scores, share)
    widths = {
        leader: next(level for level in steps if level >= len(wanted[leader]))
        for leader, steps in levels.items()
    }
    return Plan(
        keep={leader: removal[leader].keep(width) for leader, width in widths.items()},
        widths=dict(shapes.full),
        macs_before=int(cost.macs(shapes, shapes.full)),
        macs_after=int(cost.macs(shapes, widths)),
        lost={leader: share_lost(removal[leader], width) for leader, width in widths.items()},
    )


def keep_sets(scores: Mapping[str, Tensor], share: float) -> dict[str, list[int]]:
    """Leader → channels on the path of any class; `share` is of the last layer (`layer_shares`)."""
    held = layer_shares(list(scores), share)
    return {leader: keep_set(found, held[leader]) for leader, found in scores.items()}


def customising_pays(
    scores: PathScores, wanted: Sequence[int], task: Mapping[str, Tensor], share: float
) -> str:
    """Say whether cutting the network to these classes will save much.

    Args:
        scores: of all classes.
        wanted: labels of the task.
        task: scores of the task's outputs, of `for_task`.
        share: of a class's mass that its path holds in the last layer.
    """
    last = list(scores.groups)[-1]
    found = scores.groups[last]
    width = len(found)
    apart = _between(exclusiveness(found, share), wanted)
    mine, all_of_them = (len(keep_set(each, share)) for each in (task[last], found))
    facts = (
        f"in {last}, the last layer, two classes share {1 - apart:.0%} of the channels on their paths "
        f"(exclusiveness {apart:.2f}); the classes of the task need {mine} of {width} channels there, "
        f"all classes {all_of_them}"
    )
    if apart < EXCLUSIVE:
        return f"Customising to these classes will save little: {facts}."
    if mine >= all_of_them:
        return f"Customising to these classes will save little, though classes differ: {facts}."
    return f"Customising to these classes can pay: {facts}."


def _between(apart: Tensor, wanted: Sequence[int]) -> float:
    """Mean exclusiveness of the task's classes against the others, or among themselves if there are none."""
    rest = [label for label in range(len(apart)) if label not in wanted]
    if rest:
        return float(apart[list(wanted)][:, rest].mean())
    pairs = len(apart) * (len(apart) - 1)
    return float(apart.sum()) / max(pairs, 1)
