"""How one network's weights are mixed with another's: what filter grafting computes, without the training.

Meng, Cheng et al., "Filter Grafting for Deep Neural Networks: Reason, Method, and Cultivation", 2020; the
training is `graft`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

STRENGTH, SHARPNESS = 0.4, 500.0
BINS = 10

Weights = Mapping[str, Tensor]


def entropy(weights: Tensor) -> float:
    """Entropy in nats of a layer's weights, counted in ten equally wide bins from least to greatest."""
    counts = torch.histc(weights.detach().float().flatten(), BINS)
    shares = counts[counts > 0] / weights.numel()
    return float(-(shares * shares.log()).sum())


def own_share(own: float, other: float, strength: float = STRENGTH, sharpness: float = SHARPNESS) -> float:
    """α: what a layer keeps of its weights, by its entropy and the other's; α(a, b) + α(b, a) = 1."""
    return strength / math.pi * math.atan(sharpness * (own - other)) + 0.5


def own_shares(own: Weights, other: Weights, strength: float = STRENGTH) -> dict[str, float]:
    """α of every parameter and buffer: that of the last convolution before it; a half before the first.

    Args:
        own: a network's state, in the order of its layers.
        other: of a network of the same structure.
        strength: A; zero is plain averaging.
    """
    shares, current = {}, 0.5
    for name, weights in own.items():
        if weights.ndim == 4:
            current = own_share(entropy(weights), entropy(other[name]), strength)
        shares[name] = current
    return shares


def mixed(own: Weights, other: Weights, shares: Mapping[str, float]) -> dict[str, Tensor]:
    """α·own + (1 − α)·other; what is counted in whole numbers stays its own."""
    return {
        name: other[name].lerp(weights, shares[name]) if weights.is_floating_point() else weights.clone()
        for name, weights in own.items()
    }


def diverse_rate(rate: float, number: int, networks: int) -> float:
    """Peak learning rate of the network with this number, 1 … K; the last one's is `rate` itself."""
    return rate * (1.0 + math.cos(math.pi * (networks - number) / networks)) / 2.0
