"""How a budget is shared out among groups: what is promised of both allocations, against brute force."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SHAPE, build

from pipeline.compress.allocation import by_information, losses, make_plan, uniform, width_levels
from pipeline.compress.budget import Budget
from pipeline.compress.cost import count_macs, count_parameters, macs, parameters, weight_bytes
from pipeline.compress.discriminant import Removal
from pipeline.compress.groups import find_groups
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import Plan, apply
from targets.errors import ConfigError

GAINS = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4)


@st.composite
def separable(draw, convex):
    """Groups whose costs add up: levels, what each loses at them, and a price for each channel."""
    levels, lost, prices = {}, {}, {}
    for name in "abcd"[: draw(st.integers(2, 4))]:
        gains = draw(GAINS)
        gains = sorted(gains, reverse=True) if convex else gains
        levels[name] = list(range(1, len(gains) + 2))
        lost[name] = np.append(np.cumsum(gains[::-1])[::-1], 0.0)
        prices[name] = draw(st.integers(1, 30))
    return levels, lost, prices


def budget(prices, limit):
    return Budget("macs", limit, lambda widths: sum(prices[name] * widths[name] for name in prices))


def loss(levels, lost, widths):
    return sum(lost[name][levels[name].index(width)] for name, width in widths.items())


def every(levels):
    return [dict(zip(levels, widths, strict=True)) for widths in itertools.product(*levels.values())]


def limits(levels, prices):
    cost = budget(prices, 0).cost
    ends = [cost({name: steps[end] for name, steps in levels.items()}) for end in (0, -1)]
    return np.linspace(*ends, 12)


@settings(max_examples=60, deadline=None)
@given(case=separable(convex=False))
def test_the_budget_holds_and_no_step_fits_any_more(case):
    levels, lost, prices = case
    for limit in limits(levels, prices):
        allowed = budget(prices, limit)
        for widths in (by_information(lost, levels, allowed), uniform(levels, allowed)):
            assert allowed.cost(widths) <= limit
            for name, steps in levels.items():
                place = steps.index(widths[name])
                if place + 1 < len(steps):
                    assert allowed.cost({**widths, name: steps[place + 1]}) > limit


@settings(max_examples=60, deadline=None)
@given(case=separable(convex=False))
def test_a_larger_budget_never_loses_more(case):
    levels, lost, prices = case
    found = [
        loss(levels, lost, by_information(lost, levels, budget(prices, limit)))
        for limit in limits(levels, prices)
    ]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(found))


@settings(max_examples=40, deadline=None)
@given(case=separable(convex=True))
def test_the_loss_is_within_one_step_of_the_least_there_is(case):
    levels, lost, prices = case
    step = max(float(-np.diff(each).min()) for each in lost.values())
    for limit in limits(levels, prices):
        allowed = budget(prices, limit)
        least = min(loss(levels, lost, widths) for widths in every(levels) if allowed.cost(widths) <= limit)
        assert loss(levels, lost, by_information(lost, levels, allowed)) <= least + step + 1e-9


@settings(max_examples=40, deadline=None)
@given(case=separable(convex=True), data=st.data())
def test_what_it_finds_is_the_best_for_what_it_costs_when_all_steps_cost_the_same(case, data):
    levels, lost, prices = case
    prices = dict.fromkeys(prices, 1)
    limit = data.draw(st.integers(len(levels), sum(steps[-1] for steps in levels.values())))
    allowed = budget(prices, limit)
    least = min(loss(levels, lost, widths) for widths in every(levels) if allowed.cost(widths) <= limit)
    assert loss(levels, lost, by_information(lost, levels, allowed)) == pytest.approx(least)


def test_a_plateau_does_not_hide_what_lies_behind_it():
    levels = {"a": [1, 2, 3], "b": [1, 2, 3]}
    lost = {"a": np.array([0.2, 0.1, 0.0]), "b": np.array([0.11, 0.11, 0.0])}
    assert by_information(lost, levels, budget({"a": 1, "b": 1}, 4)) == {"a": 3, "b": 1}


def test_the_budget_a_message_asks_for_is_enough():
    cost = Budget("macs", 0, lambda widths: widths["a"], share_of=7.0)
    with pytest.raises(ConfigError) as caught:
        uniform({"a": [3, 7]}, cost)
    share = float(caught.value.mend.split("at least ")[1].split(",")[0])
    assert uniform({"a": [3, 7]}, Budget("macs", int(share * 7.0), cost.cost)) == {"a": 3}


@given(
    full=st.dictionaries(st.sampled_from("abc"), st.integers(1, 70), min_size=1),
    alignment=st.sampled_from([1, 4, 8, 16]),
    minimum=st.integers(1, 20),
)
def test_widths_are_multiples_of_the_alignment_where_the_layer_is_wide_enough(full, alignment, minimum):
    for name, steps in width_levels(full, alignment, minimum).items():
        assert steps[-1] == full[name] and steps == sorted(set(steps))
        assert all(width % alignment == 0 for width in steps[:-1])
        assert steps[0] >= min(minimum, full[name])


def test_the_last_that_is_left_of_a_group_is_worth_more_than_the_first_that_goes():
    even = Removal(tuple(range(8)), tuple(float(n) for n in range(1, 9)), 8.0)
    lost = losses(even, range(1, 9))
    assert (np.diff(lost, 2) > 0).all() and lost[-1] == 0.0


def removal(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    orders = {}
    for group in groups:
        gains = torch.rand(group.width, generator=generator).sort().values
        order = torch.randperm(group.width, generator=generator).tolist()
        orders[group.leader] = Removal(tuple(order), tuple(gains.cumsum(0).tolist()), float(gains.sum()))
    return orders


@pytest.mark.parametrize("allocation", ["uniform", "information"])
@pytest.mark.parametrize("name", ["chain", "depthwise", "residual"])
@pytest.mark.parametrize("kind", ["macs", "parameters", "bytes"])
def test_the_network_cut_costs_what_the_plan_says(name, kind, allocation):
    network = build(name)
    groups = find_groups(network, SHAPE)
    shapes = find_shapes(network, groups, SHAPE)
    cost = {
        "macs": partial(macs, shapes),
        "parameters": partial(parameters, shapes),
        "bytes": partial(weight_bytes, shapes, bits=8),
    }[kind]
    orders = removal(groups)
    allowed = Budget(kind, 0.5 * cost(shapes.full), cost)
    plan = make_plan(shapes, orders, allowed, allocation=allocation, alignment=2, minimum=2)
    cut = apply(network, plan, SHAPE)
    counted = {"macs": count_macs(cut, SHAPE), "parameters": count_parameters(cut)}
    counted["bytes"] = weight_bytes(find_shapes(cut, [], SHAPE), {}, 8)
    assert plan.cost.predicted == counted[kind] <= plan.cost.limit < plan.cost.before
    assert plan.macs_after == counted["macs"]
    assert all(set(kept) == set(orders[leader].keep(len(kept))) for leader, kept in plan.keep.items())


def test_no_group_is_left_less_than_half_of_what_it_has_in_a_uniform_plan():
    network = build("residual")
    groups = find_groups(network, SHAPE)
    shapes = find_shapes(network, groups, SHAPE)
    cheap = {
        group.leader: Removal(tuple(range(group.width)), (0.0,) * (group.width - 1) + (1e-6,), 1.0)
        for group in groups
    }
    dear = {**removal(groups), groups[0].leader: cheap[groups[0].leader]}
    allowed = Budget("macs", 0.4 * macs(shapes, shapes.full), partial(macs, shapes))
    kept = {
        way: make_plan(shapes, dear, allowed, allocation=way, alignment=1, minimum=1).keep
        for way in ("uniform", "information")
    }
    for leader, channels in kept["uniform"].items():
        assert len(kept["information"][leader]) >= len(channels) / 2
    first = groups[0].leader
    assert len(kept["information"][first]) < len(kept["uniform"][first])


def test_a_plan_says_what_was_budgeted_and_lost(tmp_path):
    network = build("residual")
    groups = find_groups(network, SHAPE)
    shapes = find_shapes(network, groups, SHAPE)
    cost = partial(parameters, shapes)
    allowed = Budget("parameters", 0.4 * cost(shapes.full), cost)
    plan = make_plan(shapes, removal(groups), allowed, allocation="information", alignment=1, minimum=1)
    plan.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert read == plan and read.allocation == "information" and read.cost.kind == "parameters"
    assert set(read.lost) == set(read.keep) and all(0 <= share <= 1 for share in read.lost.values())


@pytest.mark.parametrize(
    ("kind", "said", "mend"),
    [
        ("macs", "costs 20 multiply-accumulates, 10.0% of the 200", "student.macs to at least 0.1000"),
        ("parameters", "costs 20 parameters", "student.parameters to at least 0.1000"),
        ("bytes", "costs 20 bytes", "student.bytes to at least 20"),
        ("latency_ms", "costs 20.000 ms, 10.0% of the 200.000 ms", "student.latency_ms to at least 20.000"),
    ],
)
@pytest.mark.parametrize("allocate", [uniform, lambda levels, allowed: by_information({}, levels, allowed)])
def test_a_budget_below_the_narrowest_names_the_smallest_reachable(kind, said, mend, allocate):
    share_of = 200.0 if kind in ("macs", "parameters") else None
    allowed = Budget(kind, 10, lambda widths: 20 * widths["a"], f"student.{kind}", share_of)
    with pytest.raises(ConfigError, match=said) as caught:
        allocate({"a": [1, 5, 10]}, allowed)
    assert caught.value.where == f"student.{kind}" and mend in caught.value.mend
