"""The allocation of bits: optimal where it can be, monotone, within budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.bits import Choices, Item, allocate, allocate_bits
from calibration.grid import WIDTHS
from targets.errors import ConfigError

noises = st.lists(st.floats(0, 100), min_size=3, max_size=3).map(lambda values: sorted(values, reverse=True))
items = st.lists(
    st.builds(
        lambda noise, weight: Item(np.array([2.0, 4.0, 8.0]) * weight, np.array(noise)),
        noises,
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=5,
)


def total(chosen: np.ndarray, choices: list[Item], what: str) -> float:
    return sum(float(getattr(item, what)[index]) for item, index in zip(choices, chosen, strict=True))


def brute_force(choices: list[Item], budget: float) -> float:
    """Return the least noise of all combinations within a budget."""
    every = itertools.product(*(range(len(item.cost)) for item in choices))
    return min(total(one, choices, "noise") for one in every if total(one, choices, "cost") <= budget)


def fewest(choices: list[Item]) -> float:
    return sum(float(item.cost[0]) for item in choices)


@settings(deadline=None)
@given(items, st.floats(0, 100))
def test_no_allocation_of_the_same_size_is_better(choices: list[Item], extra: float) -> None:
    chosen = allocate(choices, fewest(choices) + extra)
    spent = total(chosen, choices, "cost")
    assert spent <= fewest(choices) + extra + 1e-9
    assert total(chosen, choices, "noise") == pytest.approx(brute_force(choices, spent), abs=1e-6)


@settings(deadline=None)
@given(items, st.floats(0, 100))
def test_what_is_lost_is_less_than_one_step(choices: list[Item], extra: float) -> None:
    """Against the best of all combinations within the budget, not only of the size that came out."""
    budget = fewest(choices) + extra
    got = total(allocate(choices, budget), choices, "noise")
    largest = max(float(item.noise[0]) for item in choices)
    assert brute_force(choices, budget) <= got + 1e-6 <= brute_force(choices, budget) + largest + 1e-5


@settings(deadline=None)
@given(items, st.floats(0, 50), st.floats(0, 50))
def test_a_larger_budget_only_adds_bits(choices: list[Item], first: float, second: float) -> None:
    small = allocate(choices, fewest(choices) + first)
    large = allocate(choices, fewest(choices) + first + second)
    assert (large >= small).all()


def test_a_budget_below_the_fewest_bits_is_refused_with_the_nearest() -> None:
    choices = [Item(np.array([2.0, 4.0]), np.array([1.0, 0.0]))] * 3
    with pytest.raises(ConfigError, match="fewest bits cost 6"):
        allocate(choices, 5.9)


def layers(seed: int = 0) -> dict[str, Choices]:
    rng = np.random.default_rng(seed)
    return {
        name: Choices(
            weights, rng.uniform(0.5, 2, (count, 1)) * 4.0 ** -np.array(WIDTHS), rng.lognormal(0, 2, count)
        )
        for name, weights, count in (("a", 27, 16), ("b", 144, 24), ("c", 9, 40))
    }


@pytest.mark.parametrize("average", [2.0, 3.1, 4.0, 5.0, 6.7, 8.0])
def test_budgets_are_met_and_used(average: float) -> None:
    choices = layers()
    weights = sum(layer.weights * len(layer.sensitivity) for layer in choices.values())
    bits = allocate_bits(choices, WIDTHS, average * weights)
    spent = sum(choices[name].weights * int(widths.sum()) for name, widths in bits.items())
    assert average * weights - 2 * 144 <= spent <= average * weights
    assert {int(width) for widths in bits.values() for width in widths} <= set(WIDTHS)


def test_noise_and_sensitivity_both_buy_bits() -> None:
    equal = np.tile(4.0 ** -np.array(WIDTHS), (2, 1))
    loud = Choices(9, equal * np.array([[1.0], [100.0]]), np.ones(2))
    keen = Choices(9, equal, np.array([1.0, 100.0]))
    for layer in (loud, keen):
        bits = allocate_bits({"layer": layer}, WIDTHS, 8 * 9)["layer"]
        assert bits[1] > bits[0]


@pytest.mark.parametrize("alignment", [4, 8])
def test_channels_of_one_width_come_in_multiples_of_the_alignment(alignment: int) -> None:
    choices = layers()
    weights = sum(layer.weights * len(layer.sensitivity) for layer in choices.values())
    for widths in allocate_bits(choices, WIDTHS, 4.5 * weights, alignment).values():
        counts = np.unique(widths, return_counts=True)[1]
        assert not (counts % alignment).any()


def test_sixteen_bit_float_is_a_width_like_any_other() -> None:
    widths = (8, 16)
    noise = np.tile([1.0, 0.0], (4, 1))
    bits = allocate_bits({"layer": Choices(9, noise, np.array([1.0, 2, 3, 4]))}, widths, 9 * (8 * 3 + 16))
    assert bits["layer"].tolist() == [8, 8, 8, 16]
