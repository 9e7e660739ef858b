"""What the record says of scores and plans: curves that stay small and true, verdicts as the figures are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.slimming import Achieved, achieved, structure


def scored(lost, total):
    group = {
        "leader": "conv",
        "members": ["conv"],
        "order": list(range(len(lost))),
        "lost": lost,
        "total": total,
    }
    return {"criterion": "l1", "groups": [group], "uncut": [], "warnings": []}


def planned(keep, limit=100.0, kind="macs"):
    cost = {"kind": kind, "limit": limit, "before": 400.0, "predicted": 99.0}
    return {"keep": {"conv": keep}, "widths": {}, "lost": {"conv": 0.5}, "cost": cost}


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.floats(0, 50))
def test_a_curve_rises_from_nothing_over_all_channels_in_at_most_64_points(steps, total):
    lost = [sum(steps[: place + 1]) for place in range(len(steps))]
    (group,) = structure(scored(lost, total), {}, {}).groups
    counts, shares = [count for count, _ in group.lost], [share for _, share in group.lost]
    assert len(counts) <= 64 and counts[0] == 0 and counts[-1] == group.width == len(steps)
    assert counts == sorted(set(counts)) and shares == sorted(shares) and shares[0] == 0
    if len(steps) < 64:
        assert counts == list(range(len(steps) + 1))


def test_what_a_student_loses_is_what_its_plan_says():
    plan = planned([2, 5]) | {"lost": {"conv": 0.3}}
    (kept,) = structure(scored([1.0] * 6, 6.0), {"student": plan}, {}).students[0].groups
    assert (kept.leader, kept.channels, kept.lost) == ("conv", [2, 5], 0.3)


@pytest.mark.parametrize(
    ("value", "interval", "verdict"),
    [
        (100, None, "holds"),
        (101, None, "exceeded"),
        (99.0, (98.0, 100.0), "holds"),
        (99.0, (98.0, 101.0), "too close to call"),
        (101.0, (99.0, 103.0), "too close to call"),
        (102.0, (101.0, 103.0), "exceeded"),
    ],
)
def test_a_budget_is_judged_by_the_whole_interval(value, interval, verdict):
    found = structure(
        scored([1.0], 1.0), {"student": planned([0])}, {"student": Achieved(value, interval, "")}
    )
    assert found.students[0].budget.verdict == verdict


def test_before_anything_is_built_there_is_a_prediction_and_no_verdict():
    budget = structure(scored([1.0], 1.0), {"student": planned([0])}, {}).students[0].budget
    assert (budget.predicted, budget.achieved, budget.verdict) == (99.0, None, None)


def test_a_plan_made_by_hand_has_no_budget():
    plan = planned([0]) | {"cost": None}
    assert structure(scored([1.0], 1.0), {"student": plan}, {}).students[0].budget is None


def product(target, median, weight_bytes):
    return {
        "target": target,
        "variant": "student int8",
        "latency": {"median_ms": median, "median_interval_ms": [median - 0.1, median + 0.1]},
        "onnx_path": f"models/{target}.onnx",
        "weight_bytes": weight_bytes,
    }


def test_a_cost_is_counted_or_measured_where_its_kind_says():
    facts = {"macs": 1000, "parameters": 200}
    products = [product("one", 1.0, 300), product("two", 2.0, 500)]
    assert achieved("macs", facts, products, "two") == Achieved(1000, None, "the ONNX file")
    assert achieved("parameters", facts, products, "two").value == 200
    assert achieved("bytes", facts, products, "one") == Achieved(500, None, "models/two.onnx")
    timed = achieved("latency_ms", facts, products, "two")
    assert timed == Achieved(2.0, (1.9, 2.1), "student int8 on two")
