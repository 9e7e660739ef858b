"""How many channels every group keeps for a budget, and the plan that follows from it.

Two allocations: "uniform" leaves every group about the same share of its width; "information" removes where
the least is lost for what is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.compress import cost
from pipeline.compress.budget import Budget
from pipeline.compress.discriminant import Removal
from pipeline.compress.shapes import Shapes
from pipeline.compress.structure import Plan, PlannedCost

# No group is left less than this share of what the uniform allocation would leave it: criteria look at one
# group at a time, with all others whole, and some of them see too late that a group has become a bottleneck.
LEAST_SHARE = 0.5

Allocation = Literal["uniform", "information"]
Levels = Mapping[str, Sequence[int]]
Losses = Mapping[str, NDArray[np.float64]]


def make_plan(
    shapes: Shapes,
    removal: Mapping[str, Removal],
    budget: Budget,
    *,
    allocation: Allocation = "uniform",
    alignment: int,
    minimum: int,
) -> Plan:
    """Decide how many channels every group keeps, and which.

    Args:
        shapes: of the network to be cut.
        removal: leader → the order its channels go in, and what is lost.
        budget: what the cut network may cost.
        allocation: how the budget is shared out.
        alignment: widths are multiples of it where the layer is wide enough.
        minimum: channels no group goes below.

    Raises:
        ConfigError: even the narrowest network costs more; the message says how much.
    """
    levels = width_levels(shapes.full, alignment, minimum)
    widths = uniform(levels, budget)
    if allocation == "information":
        levels = not_below(levels, widths)
        lost = {leader: losses(removal[leader], steps) for leader, steps in levels.items()}
        widths = by_information(lost, levels, budget)
    return Plan(
        keep={leader: removal[leader].keep(width) for leader, width in widths.items()},
        widths=dict(shapes.full),
        macs_before=int(cost.macs(shapes, shapes.full)),
        macs_after=int(cost.macs(shapes, widths)),
        allocation=allocation,
        cost=PlannedCost(
            kind=budget.kind,
            limit=budget.limit,
            before=float(budget.cost(shapes.full)),
            predicted=float(budget.cost(widths)),
        ),
        lost={leader: share_lost(removal[leader], width) for leader, width in widths.items()},
    )


def width_levels(full: Mapping[str, int], alignment: int, minimum: int) -> dict[str, list[int]]:
    """Leader → the widths a group may have, rising: the narrowest, multiples of the alignment, all of it."""
    floor = -(-max(alignment, minimum) // alignment) * alignment
    return {leader: [*range(floor, width, alignment), width] for leader, width in full.items()}


def not_below(levels: Levels, widths: Mapping[str, int], share: float = LEAST_SHARE) -> dict[str, list[int]]:
    """The levels that are at least a share of these widths."""
    return {
        leader: [step for step in steps if step >= share * widths[leader]] for leader, steps in levels.items()
    }


def losses(removal: Removal, levels: Sequence[int]) -> NDArray[np.float64]:
    """What a group loses at each width, as −log of the share of the criterion that is left [levels].

    Groups run one behind the other, so shares multiply and their logarithms add: the last that is left of a
    group is worth more than the first that goes.
    """
    return -np.log1p(-np.minimum([share_lost(removal, width) for width in levels], 1.0 - 1e-6))


def uniform(levels: Levels, budget: Budget) -> dict[str, int]:
    """Widths of about the same share in all groups, as wide as the budget allows.

    All groups start at their narrowest; again and again the one that has the least share of its width gets
    one more step, until no step fits.

    Args:
        levels: leader → widths it may have, rising.
        budget: what all may cost together.

    Raises:
        ConfigError: even the narrowest costs more.
    """
    place = dict.fromkeys(levels, 0)
    budget.check(*_extremes(levels, budget))
    growing = {leader for leader in levels if len(levels[leader]) > 1}
    while growing:
        leader = min(sorted(growing), key=lambda name: levels[name][place[name]] / levels[name][-1])
        place[leader] += 1
        if budget.cost(_widths(levels, place)) > budget.limit:
            place[leader] -= 1
            growing.remove(leader)
        elif place[leader] == len(levels[leader]) - 1:
            growing.remove(leader)
    return _widths(levels, place)


def by_information(lost: Losses, levels: Levels, budget: Budget) -> dict[str, int]:
    """Widths that lose little in all: greedy by loss for what is saved.

    From full width on, the step of a group, over one level or several, that loses least for what it saves is
    taken until the budget holds. What is then left of the budget goes to the steps back that regain most for
    what they cost, as long as one fits. Where costs of groups add up, a larger budget never loses more.

    Args:
        lost: leader → what the group loses at each of its levels; 0 at the last.
        levels: leader → widths it may have, rising.
        budget: what all may cost together.

    Raises:
        ConfigError: even the narrowest costs more.
    """
    budget.check(*_extremes(levels, budget))
    place = {leader: len(steps) - 1 for leader, steps in levels.items()}
    while (spent := float(budget.cost(_widths(levels, place)))) > budget.limit:
        down = _moves(lost, levels, place, budget, {leader: range(here) for leader, here in place.items()})
        place |= [down.to[down.cheapest_loss(spent)]]
    while True:
        wider = {leader: range(here + 1, len(levels[leader])) for leader, here in place.items()}
        up = _moves(lost, levels, place, budget, wider)
        if not (up.cost <= budget.limit).any():
            return _widths(levels, place)
        place |= [up.to[up.best_gain(float(budget.cost(_widths(levels, place))), budget.limit)]]


@dataclass(frozen=True)
class _Moves:
    """Steps that one group or another could take.

    Args:
        to: group and the place among its levels it would go to.
        cost: of the network after each [moves].
        loss: by which each changes the loss [moves].
    """

    to: list[tuple[str, int]]
    cost: NDArray[np.float64]
    loss: NDArray[np.float64]

    def cheapest_loss(self, spent: float) -> int:
        """The move that loses least for what it saves; one that saves nothing comes last."""
        saved = spent - self.cost
        ratio = np.where(saved > 0, self.loss / np.where(saved > 0, saved, 1.0), np.inf)
        return int(ratio.argmin())

    def best_gain(self, spent: float, limit: float) -> int:
        """The move that regains most for what it costs, of those within the limit."""
        tiny = np.finfo(np.float64).tiny
        ratio = np.where(self.cost <= limit, -self.loss / np.maximum(self.cost - spent, tiny), -np.inf)
        return int(ratio.argmax())


def _moves(
    lost: Losses,
    levels: Levels,
    place: Mapping[str, int],
    budget: Budget,
    targets: Mapping[str, Iterable[int]],
) -> _Moves:
    to = [(leader, target) for leader in place for target in targets[leader]]
    widths = {leader: np.full(len(to), levels[leader][here]) for leader, here in place.items()}
    for row, (leader, target) in enumerate(to):
        widths[leader][row] = levels[leader][target]
    loss = np.array([lost[leader][target] - lost[leader][place[leader]] for leader, target in to])
    return _Moves(to, np.broadcast_to(np.asarray(budget.cost(widths), np.float64), len(to)), loss)


def _widths(levels: Levels, place: Mapping[str, int]) -> dict[str, int]:
    return {leader: levels[leader][here] for leader, here in place.items()}


def _extremes(levels: Levels, budget: Budget) -> tuple[float, float]:
    """Cost of the narrowest network and of the whole one."""
    narrow = {leader: steps[0] for leader, steps in levels.items()}
    whole = {leader: steps[-1] for leader, steps in levels.items()}
    return float(budget.cost(narrow)), float(budget.cost(whole))


def share_lost(removal: Removal, width: int) -> float:
    """Share of a group's criterion that is lost when `width` channels are left."""
    removed = len(removal.order) - width
    if removed == 0 or removal.total <= 0:
        return 0.0
    return min(max(removal.lost[removed - 1] / removal.total, 0.0), 1.0)
