"""Give each output channel of each layer its own number of bits, for the least noise within a size.

    minimise Σ_c noise_c(b_c) · s_c   subject to   Σ_c weights_c · b_c ≤ budget

over all channels of all layers at once. On the convex hull of each channel's choices, taking the step of
greatest gain a bit first is optimal for every size it passes through (Fox, "Discrete optimization via
marginal analysis", 1966), and a larger budget only ever adds steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from targets.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """Channels of one layer that get the same width.

    Args:
        cost: of each choice of width, in units of the budget, increasing; [K].
        noise: sensitivity-weighted noise of each choice, [K].
    """

    cost: Array
    noise: Array


def allocate(items: Sequence[Item], budget: float) -> NDArray[np.int64]:
    """Return the index of the choice of each item, [len(items)].

    Args:
        items: what can be chosen.
        budget: largest sum of costs.

    Raises:
        ConfigError: even the cheapest choices cost more; the message gives the least that can be met.
    """
    chosen = np.zeros(len(items), np.int64)
    spent = float(sum(item.cost[0] for item in items))
    if spent > budget:
        raise ConfigError(
            f"the budget of {budget:g} cannot be met: the fewest bits cost {spent:g}",
            mend=f"allow at least {spent:g}",
        )
    steps = [
        (gain, index, choice, price)
        for index, item in enumerate(items)
        for choice, gain, price in hull_steps(item)
    ]
    for _, index, choice, price in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        if spent + price > budget * (1.0 + 1e-12):
            break
        spent += price
        chosen[index] = choice
    return chosen


def hull_steps(item: Item) -> list[tuple[int, float, float]]:
    """Return the steps along the lower convex hull: choice reached, gain per unit of cost, cost."""
    steps = []
    here = 0
    while here + 1 < len(item.cost):
        price = item.cost[here + 1 :] - item.cost[here]
        gain = (item.noise[here] - item.noise[here + 1 :]) / price
        # Of equal slopes the farthest: one step instead of two.
        best = int(len(gain) - 1 - np.argmax(gain[::-1]))
        if gain[best] <= 0.0:
            break
        here += best + 1
        steps.append((here, float(gain[best]), float(price[best])))
    return steps


@dataclass(frozen=True)
class Choices:
    """What is known of a layer's channels.

    Args:
        weights: number of weights in one channel.
        noise: noise power at each width, [C, K].
        sensitivity: of the network's output to a unit of noise, [C].
    """

    weights: int
    noise: Array
    sensitivity: Array


def allocate_bits(
    layers: Mapping[str, Choices], widths: Sequence[int], budget_bits: float, alignment: int = 1
) -> dict[str, NDArray[np.int64]]:
    """Return the width of every channel, {layer: [C]}.

    Args:
        layers: in the order in which equal steps are taken.
        widths: bits of each column of `Choices.noise`, increasing.
        budget_bits: largest number of bits of all weights together.
        alignment: channels of one width come in multiples of this, but for the last few of a layer;
            those most alike in weighted noise are taken together.

    Raises:
        ConfigError: the budget is below the fewest bits.
    """
    items, members = [], []
    for name, layer in layers.items():
        weighted = layer.noise * layer.sensitivity[:, None]
        order = np.argsort(-weighted[:, 0], kind="stable")
        for start in range(0, len(order), alignment):
            group = order[start : start + alignment]
            cost = np.asarray(widths, np.float64) * layer.weights * len(group)
            items.append(Item(cost, weighted[group].sum(axis=0)))
            members.append((name, group))
    bits = {name: np.zeros(len(layer.sensitivity), np.int64) for name, layer in layers.items()}
    for (name, group), choice in zip(members, allocate(items, budget_bits), strict=True):
        bits[name][group] = widths[choice]
    return bits
