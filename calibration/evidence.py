"""What repairs know of the calibration inputs: those to fit on, those to judge by, which errors matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from calibration.graph import FloatGraph
from calibration.observations import Observations
from calibration.placement import place
from calibration.positions import PositionWeights, weigh_positions
from calibration.ranges import Batch, collect, weigh_values
from targets.errors import DataError, ModelError

Progress = Callable[[str, int, int], None]

# Of so many batches the last one judges.
JUDGED = 4
# Calibration inputs on which layers are repaired: while recipes are compared, and for the model that is kept.
TRIED, REPAIRED = 64, 150
# Their activations are held in memory, so of large inputs there are fewer, as many as hold the values of 150
# ImageNet inputs; but no fewer than recipes are compared on.
HELD = REPAIRED * 3 * 224 * 224
# Calibration inputs that run backward, to see how much errors matter. With fewer, ranges clip what only the
# others show: 16 instead of 64 doubled SqueezeNet's divergence.
WEIGHED = 128


def divided(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Divide calibration batches into those to fit with, and every fourth to judge by.

    Raises:
        DataError: fewer than four batches.
    """
    if len(batches) < JUDGED:
        raise DataError(
            f"there are {len(batches)} batches of calibration data",
            mend=f"give at least {JUDGED}: every fourth one judges what is made of the others",
        )
    fitting = [batch for index, batch in enumerate(batches) if index % JUDGED != JUDGED - 1]
    return fitting, list(batches[JUDGED - 1 :: JUDGED])


def first(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """Return the first batches that hold at least so many inputs, or all; two, where one would do.

    What is fitted on one half of them is judged on the other.
    """
    chosen: list[Batch] = []
    held = 0
    for batch in batches:
        if held >= samples and len(chosen) > 1:
            break
        chosen.append(batch)
        held += len(next(iter(batch.values())))
    return chosen


def repaired_on(batches: Sequence[Batch]) -> list[Batch]:
    """Return the first batches, of as many inputs as repairs take: fewer where inputs are large."""
    values = sum(array[0].size for array in batches[0].values())
    return first(batches, min(max(HELD // max(values, 1), TRIED), REPAIRED))


def observed(model: Path, batches: Sequence[Batch], progress: Progress) -> Observations:
    """Observe ranges, and how much errors in each tensor matter if every operator has a gradient rule."""
    count = _inputs(batches)
    seen = collect(model, batches, lambda done: progress("observing ranges", done, count))
    weighed = first(batches, WEIGHED)
    count = _inputs(weighed)
    try:
        return weigh_values(model, seen, weighed, lambda done: progress("weighing errors", done, count))
    except ModelError:
        return seen


def weighed_positions(graph: FloatGraph, batches: Sequence[Batch], progress: Progress) -> PositionWeights:
    """Return how much output positions of layers matter; all alike if an operator has no gradient rule."""
    count = _inputs(batches)
    layers = [layer.node.name for layer in place(graph).layers]
    show = partial(progress, "weighing positions")
    try:
        return weigh_positions(graph, batches, layers, lambda done: show(done, count))
    except ModelError:
        return {}


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
    del what, done, total


def _inputs(batches: Sequence[Batch]) -> int:
    return sum(len(next(iter(batch.values()))) for batch in batches)
