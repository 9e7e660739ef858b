from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.compress.discriminant import (
    System,
    information,
    information_dual,
    mask_gradient,
    removal_order,
    ridge,
)
from pipeline.compress.scatter import Scatter

seeds = st.integers(0, 2**31)
law = settings(deadline=None, max_examples=30)


def problem(seed: int, count: int = 60, columns: int = 8, targets: int = 3) -> tuple[Tensor, Tensor]:
    """Centred, correlated features and targets that depend on them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(count, columns) @ (draw(columns, columns) + 2 * torch.eye(columns))
    y = x @ draw(columns, targets) + draw(count, targets)
    return x - x.mean(0), y - y.mean(0)


def single(x: Tensor, y: Tensor) -> System:
    return System(x.T @ x, x.T @ y, torch.arange(x.shape[1]).unsqueeze(1))


def restricted(x: Tensor, y: Tensor, columns: list[int], rho: float) -> float:
    part = x[:, columns]
    return information(part.T @ part, part.T @ y, rho) if columns else 0.0


@law
@given(seeds, st.integers(5, 80), st.integers(1, 30), st.floats(1e-3, 10))
def test_primal_is_dual_is_ridge(seed: int, count: int, columns: int, strength: float) -> None:
    x, y = problem(seed, count, columns)
    rho = ridge(x.T @ x, strength)
    primal = information(x.T @ x, x.T @ y, rho)
    weights = torch.linalg.solve(x.T @ x + rho * torch.eye(columns), x.T @ y)
    loss = (y - x @ weights).square().sum() + rho * weights.square().sum()
    assert primal == pytest.approx(information_dual(x, y, rho), rel=1e-8)
    assert primal == pytest.approx(float(y.square().sum() - loss), rel=1e-8)


@law
@given(seeds, st.permutations(range(8)), st.floats(1e-6, 10))
def test_more_channels_never_tell_less(seed: int, order: list[int], strength: float) -> None:
    x, y = problem(seed, 20)
    rho = ridge(x.T @ x, strength)
    values = [restricted(x, y, order[:count], rho) for count in range(9)]
    assert all(b >= a - 1e-9 * values[-1] for a, b in pairwise(values))
    assert values[-1] <= float(y.square().sum()) * (1 + 1e-12)


@law
@given(seeds, st.sampled_from([1, 2, 3]))
def test_what_was_lost_is_what_brute_force_says(seed: int, size: int) -> None:
    x, y = problem(seed, columns=6 * size + 1)
    blocks = torch.arange(6 * size).view(size, 6).T
    removal = removal_order([System(x.T @ x, x.T @ y, blocks)])
    rho = ridge(x.T @ x)
    left = list(range(6))
    for channel, before, lost in zip(removal.order, (0.0, *removal.lost), removal.lost, strict=False):

        def value(channels: list[int]) -> float:
            columns = [int(column) for c in channels for column in blocks[c]]
            return restricted(x, y, [*columns, 6 * size], rho)

        drops = {c: value(left) - value([other for other in left if other != c]) for c in left}
        assert lost - before == pytest.approx(drops[channel], rel=1e-6, abs=1e-9 * removal.total)
        assert drops[channel] <= min(drops.values()) + 1e-6 * removal.total
        left.remove(channel)
        assert removal.total - lost == pytest.approx(value(left), rel=1e-6)


@law
@given(seeds)
def test_first_drop_is_exact(seed: int) -> None:
    x, y = problem(seed)
    removal = removal_order([single(x, y)])
    rho = ridge(x.T @ x)
    rest = [c for c in range(8) if c != removal.order[0]]
    drop = restricted(x, y, list(range(8)), rho) - restricted(x, y, rest, rho)
    assert removal.lost[0] == pytest.approx(drop, rel=1e-6)


@law
@given(seeds)
def test_of_two_identical_channels_exactly_one_survives(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(300) % 3
    y = torch.nn.functional.one_hot(labels, 3).double()
    signal = y[:, :2] * 3 + torch.randn(300, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    x = torch.cat([signal, signal[:, :1], noise], dim=1)
    found = Scatter.of(x, y)
    kept = removal_order([System(found.xx, found.xy, torch.arange(8).unsqueeze(1))]).keep(2)
    assert 1 in kept and len({0, 2} & set(kept)) == 1


def test_the_released_score_sees_neither_of_two_identical_channels() -> None:
    x, y = problem(5, count=500, columns=4)
    doubled = torch.cat([x, x[:, :1]], dim=1)
    alone = mask_gradient(single(x, y), 1.0)[0]
    together = mask_gradient(single(doubled, y), 1.0)
    assert float(together[0]) < 0.3 * float(alone)
    assert float(together[0]) == pytest.approx(float(together[4]))


@law
@given(seeds)
def test_the_released_score_is_the_gradient_of_the_mask(seed: int) -> None:
    x, y = problem(seed)
    mask = torch.ones(8, dtype=torch.float64, requires_grad=True)
    masked = x * mask
    inverse = torch.linalg.inv(masked.T @ masked + 2.0 * torch.eye(8))
    torch.trace(inverse @ masked.T @ y @ y.T @ masked).backward()
    assert mask.grad is not None
    torch.testing.assert_close(mask_gradient(single(x, y), 2.0), mask.grad.abs(), rtol=1e-6, atol=1e-9)


@law
@given(seeds)
def test_noise_goes_first_when_there_are_enough_images(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(2000) % 4
    y = torch.nn.functional.one_hot(labels, 4).double()
    signal = y[:, :3] + 0.5 * torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(2000, 12, generator=generator, dtype=torch.float64)
    found = Scatter.of(torch.cat([noise, signal], dim=1), y)
    removal = removal_order([System(found.xx, found.xy, torch.arange(15).unsqueeze(1))])
    assert set(removal.order[:12]) == set(range(12))
    assert removal.lost[11] < 0.02 * removal.total


def test_with_few_images_pure_noise_seems_to_tell_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.nn.functional.one_hot(torch.arange(128) % 4, 4).double()
    found = Scatter.of(torch.randn(128, 2000, generator=generator, dtype=torch.float64), y)
    assert information(found.xx, found.xy, ridge(found.xx)) > 0.97 * float(found.yy.diagonal().sum())


@law
@given(seeds, st.integers(1, 4))
def test_dead_channels_go_first_and_cost_nothing(seed: int, dead: int) -> None:
    x, y = problem(seed)
    x = torch.cat([torch.zeros(60, dead, dtype=torch.float64), x], dim=1)
    removal = removal_order([single(x, y)])
    assert set(removal.order[:dead]) == set(range(dead))
    assert removal.lost[dead - 1] == 0.0


def test_a_dead_layer_has_an_order_too() -> None:
    removal = removal_order([single(torch.zeros(10, 4).double(), torch.randn(10, 2).double())])
    assert sorted(removal.order) == [0, 1, 2, 3]
    assert removal.lost == (0.0,) * 4


@law
@given(seeds)
def test_many_copies_do_not_break_the_downdates(seed: int) -> None:
    x, y = problem(seed, columns=4)
    removal = removal_order([single(x.repeat(1, 16), y)], strength=1e-8)
    assert np.isfinite(removal.lost).all()
    assert sorted(c % 4 for c in removal.keep(4)) == [0, 1, 2, 3]


@law
@given(seeds)
def test_every_budget_is_a_prefix_and_losses_only_grow(seed: int) -> None:
    x, y = problem(seed)
    removal = removal_order([single(x, y)])
    assert sorted(removal.order) == list(range(8))
    assert list(removal.lost) == sorted(removal.lost)
    assert removal.lost[-1] == pytest.approx(removal.total)
    for count in range(8):
        assert set(removal.keep(count)) < set(removal.keep(count + 1))
        top = torch.argsort(removal.importance(), descending=True)[:count]
        assert sorted(top.tolist()) == removal.keep(count)


@law
@given(seeds)
def test_several_systems_cost_what_their_sum_costs(seed: int) -> None:
    x, y = problem(seed)
    once, twice = removal_order([single(x, y)]), removal_order([single(x, y), single(x, y)])
    assert once.order == twice.order
    assert twice.lost[-1] == pytest.approx(2 * once.lost[-1])
