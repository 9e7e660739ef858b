"""Discriminant Information, and the exact order in which channels can be removed at the least loss of it.

Hou & Kung, "A Feature-map Discriminant Perspective for Pruning Deep Neural Networks", 2020: with centred
features X [N, C] and targets Y [N, K], S = XᵀX,

    DI = tr[(S + ρI)⁻¹ XᵀY YᵀX] = tr(YYᵀ) − min_W (‖Y − XW‖² + ρ‖W‖²),    ρ = λ·tr(S)/C

The order of removal is this project's: for ridge regression the cost of removing a block b of columns is
exact (the form of the Optimal Brain Surgeon, Hassibi & Stork 1992), with P = (S + ρI)⁻¹ and W = P XᵀY

    ΔDI_b = tr(W_bᵀ P_bb⁻¹ W_b),    W ← W − P_:b P_bb⁻¹ W_b,    P ← P − P_:b P_bb⁻¹ P_b:

so that one inverse gives the whole order, and every budget is a prefix of it.

A patent application (US 2019/0378017 A1, S. Y. Kung) describes scoring nodes with internal teaching labels
and pruning them by that score; its legal status was not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-3


@dataclass(frozen=True)
class System:
    """A least-squares problem whose columns belong to channels.

    Args:
        xx: XᵀX [D, D], float64.
        xy: XᵀY [D, K].
        blocks: [channels, m]; the columns that go with each channel. Columns of no channel always stay.
    """

    xx: Tensor
    xy: Tensor
    blocks: Tensor


@dataclass(frozen=True)
class Removal:
    """The order channels go in; any number of them kept is a suffix.

    Args:
        order: all channels, the one to go first in front.
        lost: what is lost in all after each removal, in the criterion's own unit; never decreasing.
        total: the criterion's value with all channels.
    """

    order: tuple[int, ...]
    lost: tuple[float, ...]
    total: float

    def keep(self, count: int) -> list[int]:
        """The `count` channels that stay longest, sorted."""
        return sorted(self.order[len(self.order) - count :])

    def importance(self) -> Tensor:
        """Every channel's place in the order [channels]; the last to go has the most."""
        places = torch.empty(len(self.order))
        places[list(self.order)] = torch.arange(len(self.order), dtype=places.dtype)
        return places


def ridge(xx: Tensor, strength: float = RIDGE) -> float:
    """ρ = λ·tr(S)/C; 1 where all features are dead, so that S + ρI is never singular."""
    rho = strength * float(xx.diagonal().mean())
    return rho if rho > 0.0 else 1.0


def information(xx: Tensor, xy: Tensor, rho: float) -> float:
    """DI from scatter matrices: tr[(S + ρI)⁻¹ XᵀY YᵀX]. XᵀX [C, C], XᵀY [C, K], float64."""
    return float((xy * _solve(xx, xy, rho)).sum())


def information_dual(x: Tensor, y: Tensor, rho: float) -> float:
    """DI from centred samples, tr[Yᵀ (K + ρI)⁻¹ K Y] with K = XXᵀ: cheaper where C > N. [N, C], [N, K]."""
    kernel = x @ x.T
    return float((y * _solve(kernel, kernel @ y, rho)).sum())


def mask_gradient(system: System, rho: float) -> Tensor:
    """|∂DI/∂mask_c| = 2ρ‖W_c‖², the score the authors released [channels].

    Traps: it is not the cost of removal; of two equal channels both score near zero; with fewer samples than
    features noise scores as high as anything.
    """
    weights = _solve(system.xx, system.xy, rho)
    return 2.0 * rho * weights.square().sum(1)[system.blocks].sum(1)


def removal_order(systems: Sequence[System], strength: float = RIDGE) -> Removal:
    """Remove, again and again, the channel that costs the least DI, until none is left.

    Args:
        systems: problems over the same channels; what a channel costs is the sum over them.
        strength: λ of ρ = λ·tr(S)/C, a system's own.

    Returns:
        the order, the DI lost, and the DI of all systems with all columns.
    """
    rhos = [ridge(system.xx, strength) for system in systems]
    total = sum(information(s.xx, s.xy, rho) for s, rho in zip(systems, rhos, strict=True))
    remaining = torch.arange(len(systems[0].blocks))
    order: list[int] = []
    lost: list[float] = []
    while len(remaining):
        solutions = [_Solution(s, rho, remaining) for s, rho in zip(systems, rhos, strict=True)]
        gone = torch.zeros(len(remaining), dtype=torch.bool)
        # Starting afresh at every halving keeps rounding errors small; all later inverses together cost a
        # seventh of the first.
        for _ in range(max(1, len(remaining) // 2)):
            costs = torch.stack([solution.costs().cpu() for solution in solutions]).sum(0)
            place = int(torch.where(gone, torch.inf, costs).argmin())
            gone[place] = True
            for solution in solutions:
                solution.remove(place)
            order.append(int(remaining[place]))
            lost.append((lost[-1] if lost else 0.0) + float(costs[place]))
        remaining = remaining[~gone]
    return Removal(tuple(order), tuple(lost), total)


class _Solution:
    """Ridge solution of a system restricted to some channels, kept current while channels go."""

    def __init__(self, system: System, rho: float, channels: Tensor) -> None:
        owned = torch.ones(len(system.xx), dtype=torch.bool)
        owned[system.blocks.flatten()] = False
        self.count, self.size = len(channels), system.blocks.shape[1]
        columns = torch.cat([system.blocks[channels].flatten(), owned.nonzero().flatten()])
        columns = columns.to(system.xx.device)
        xx = system.xx[columns][:, columns]
        self.inverse = torch.cholesky_inverse(_factor(xx, rho))
        self.weights = self.inverse @ system.xy[columns]

    def costs(self) -> Tensor:
        """ΔDI of removing each channel [channels]; 0 for those already gone."""
        mine = self.count * self.size
        weights = self.weights[:mine].view(self.count, self.size, -1)
        if self.size == 1:
            return weights[:, 0].square().sum(1) / self.inverse.diagonal()[:mine]
        square = self.inverse[:mine, :mine].reshape(self.count, self.size, self.count, self.size)
        diagonal = square.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        solved: Tensor = torch.linalg.solve(diagonal, weights)
        return (weights * solved).sum((1, 2)).clamp_min(0.0)

    def remove(self, channel: int) -> None:
        """Downdate by one channel's block; its rows and columns become those of the identity."""
        block = slice(channel * self.size, (channel + 1) * self.size)
        across = self.inverse[:, block].clone()
        gain = torch.linalg.solve(across[block], across.T)
        self.weights -= gain.T @ self.weights[block].clone()
        self.inverse -= across @ gain
        self.inverse[block] = 0.0
        self.inverse[:, block] = 0.0
        self.inverse.diagonal()[block] = 1.0
        self.weights[block] = 0.0


def _factor(matrix: Tensor, rho: float) -> Tensor:
    shifted = matrix.clone()
    shifted.diagonal().add_(rho)
    factor: Tensor = torch.linalg.cholesky(shifted)
    return factor


def _solve(matrix: Tensor, right: Tensor, rho: float) -> Tensor:
    return torch.cholesky_solve(right, _factor(matrix, rho))
