"""A ring of networks in training: all in this process, or one in each of as many processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from pipeline import parallel
from pipeline.compress.mixing import Weights


class Ring:
    """Who stands where, and what each gets from the one before.

    Where there are as many processes as networks each trains one of them, and lends its weights to the next
    process. Otherwise all are here, and several processes share every batch of every network.

    Args:
        networks: K, at least 2.
    """

    def __init__(self, networks: int) -> None:
        self.networks = networks
        self.apart = parallel.size() == networks
        here = parallel.rank()
        self.places = range(here, here + 1) if self.apart else range(networks)

    def training(self) -> AbstractContextManager[None]:
        """As long as it lasts, the networks here are trained by the processes they belong to."""
        return parallel.apart() if self.apart else nullcontext()

    def before(self, states: Sequence[Weights]) -> list[Weights]:
        """For each network here, the weights of the one before it; whole numbers may stay its own.

        Args:
            states: of the networks here, in the order of `places`; all processes call it alike.
        """
        if not self.apart:
            return [states[place - 1] for place in self.places]
        (mine,) = states
        return [_spread(parallel.from_before(_flat(mine)), mine)]

    def best(self, weights: Weights, facts: torch.Tensor) -> tuple[Weights, torch.Tensor]:
        """The best network's weights and facts, wherever in the ring it is.

        Args:
            weights: the best of those here.
            facts: what is known of it, a row of numbers: first those that say how good it is, compared one
                after the other; of one shape in all processes.
        """
        if not self.apart:
            return weights, facts
        row = _flat(weights)
        known = [each.cpu() for each in parallel.from_each(facts.to(row.device))]
        winner = max(range(self.networks), key=lambda place: known[place].tolist())
        return _spread(parallel.from_each(row)[winner], weights), known[winner]


def _flat(weights: Weights) -> torch.Tensor:
    """All floating-point tensors in a row."""
    return torch.cat([each.reshape(-1) for each in weights.values() if each.is_floating_point()])


def _spread(row: torch.Tensor, like: Weights) -> dict[str, torch.Tensor]:
    """What `_flat` put in a row, as tensors of these names and shapes; whole numbers are those of `like`."""
    found, start = {}, 0
    for name, each in like.items():
        if each.is_floating_point():
            found[name] = row[start : start + each.numel()].view(each.shape)
            start += each.numel()
        else:
            found[name] = each
    return found
