"""Which of the whole network's weights a cut network still has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compress.structure import Plan, apply
from pipeline.compress.tracing import has_weight


@dataclass(frozen=True)
class Survivors:
    """What is left of a layer: indices of its outputs and inputs in the whole network."""

    outputs: Tensor
    inputs: Tensor


def survivors(network: nn.Module, plan: Plan, input_shape: Sequence[int]) -> dict[str, Survivors]:
    """Which outputs and inputs a plan leaves of every convolution and linear layer with a weight of its own.

    Found by cutting copies whose weights are their own indices, so that flatten, concatenation and whatever
    else moves channels need no rules here.

    Args:
        network: whole.
        plan: which channels stay.
        input_shape: batch included.
    """
    found = [_indices(network, plan, input_shape, dimension) for dimension in (0, 1)]
    return {name: Survivors(found[0][name], found[1][name]) for name in found[0]}


def _indices(network: nn.Module, plan: Plan, input_shape: Sequence[int], dimension: int) -> dict[str, Tensor]:
    labelled = copy.deepcopy(network)
    for weight in _weights(labelled).values():
        shape = [-1 if axis == dimension else 1 for axis in range(weight.ndim)]
        own = torch.arange(weight.shape[dimension], dtype=weight.dtype, device=weight.device)
        weight.data = own.view(shape).expand_as(weight).clone()
    apply(labelled, plan, input_shape)
    return {
        name: weight.detach().transpose(0, dimension).flatten(1)[:, 0].long()
        for name, weight in _weights(labelled).items()
    }


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: part.weight
        for name, part in network.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear)) and has_weight(part)
    }
