"""How many channels every group keeps for a budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.compress.cost import count_macs
from pipeline.compress.groups import Group
from pipeline.compress.structure import Plan, cut
from targets.errors import ConfigError


def plan_uniform(
    network: nn.Module,
    input_shape: Sequence[int],
    importance: Mapping[str, Tensor],
    groups: Sequence[Group],
    *,
    macs: int,
    alignment: int,
    minimum: int,
) -> Plan:
    """Cut every group to about the same share of its width, as wide as the budget allows.

    All groups start at their narrowest; again and again the one that has the least share of its width
    gets one more step, until no step fits.

    Args:
        network: the network to be cut; left as it is.
        input_shape: batch 1 included.
        importance: leader → one number a channel; the highest stay.
        groups: of `find_groups`.
        macs: multiply-accumulates the cut network may cost.
        alignment: widths are multiples of it where the layer is wide enough.
        minimum: channels no group goes below.

    Raises:
        ConfigError: even the narrowest network costs more; the message says how much.
    """

    def cost(widths: Mapping[str, int]) -> int:
        keep = {leader: list(range(width)) for leader, width in widths.items()}
        return count_macs(cut(copy.deepcopy(network), keep, input_shape), input_shape)

    full = {group.leader: group.width for group in groups}
    floor = -(-max(alignment, minimum) // alignment) * alignment
    widths = {leader: min(width, floor) for leader, width in full.items()}
    before, spent = count_macs(network, input_shape), cost(widths)
    if spent > macs:
        raise ConfigError(
            f"no network this small exists: the smallest reachable costs {spent:,} multiply-accumulates, "
            f"{spent / before:.1%} of the teacher's {before:,}",
            where="student.macs",
            mend=f"set student.macs to at least {spent / before:.4f}, or lower student.minimum_width",
        )
    growing = {leader for leader in full if widths[leader] < full[leader]}
    while growing:
        leader = min(sorted(growing), key=lambda name: widths[name] / full[name])
        wider = widths | {leader: min(full[leader], widths[leader] + alignment)}
        wider_cost = cost(wider)
        if wider_cost <= macs:
            widths, spent = wider, wider_cost
        if wider_cost > macs or widths[leader] == full[leader]:
            growing.remove(leader)
    keep = {leader: _top(importance[leader], width) for leader, width in widths.items()}
    return Plan(keep=keep, widths=full, macs_before=before, macs_after=spent)


def _top(scores: Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
