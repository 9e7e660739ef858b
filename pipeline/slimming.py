"""What scoring found, what every student keeps and what that came to, as the record says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.measured import Interval
from pipeline.record import Budget, ChannelGroup, KeptChannels, Slimmed, Structure, UncutLayer

# A curve drawn a few centimetres wide shows no more.
MOST_POINTS = 64


@dataclass(frozen=True)
class Achieved:
    """What a built student costs, in the unit of its budget.

    Args:
        value: counts, bytes or milliseconds.
        interval: of a time, 95 %; None for what is counted.
        on: what was counted or measured.
    """

    value: float
    interval: Interval | None
    on: str


def structure(
    scores: Mapping[str, Any], plans: Mapping[str, Mapping[str, Any]], achieved: Mapping[str, Achieved]
) -> Structure:
    """Put together what the report shows of the students' structures.

    Args:
        scores: scores.json.
        plans: student → plan.json.
        achieved: student → what it costs; those that are not built yet are left out.
    """
    return Structure(
        criterion=scores["criterion"],
        groups=[
            ChannelGroup(
                leader=group["leader"],
                members=group["members"],
                width=len(group["order"]),
                lost=_curve(group),
            )
            for group in scores["groups"]
        ],
        students=[
            Slimmed(
                network=student,
                groups=[
                    KeptChannels(leader=leader, channels=channels, lost=plan["lost"][leader])
                    for leader, channels in plan["keep"].items()
                ],
                budget=_budget(plan, achieved.get(student)),
            )
            for student, plan in plans.items()
        ],
        uncut=[UncutLayer(**layer) for layer in scores["uncut"]],
        warnings=scores["warnings"],
    )


def achieved(
    kind: str, facts: Mapping[str, Any], products: Sequence[Mapping[str, Any]], target: str
) -> Achieved:
    """What a student that was built costs.

    Args:
        kind: of the budget.
        facts: of its simplified ONNX file.
        products: what ships of it, as in the record, with "weight_bytes" of the ONNX file behind each.
        target: the one a budget of milliseconds is about.
    """
    if kind == "latency_ms":
        product = next(each for each in products if each["target"] == target)
        latency = product["latency"]
        low, high = latency["median_interval_ms"]
        return Achieved(latency["median_ms"], (low, high), f"{product['variant']} on {target}")
    if kind == "bytes":
        largest = max(products, key=lambda each: each["weight_bytes"])
        return Achieved(largest["weight_bytes"], None, largest["onnx_path"])
    return Achieved(facts[kind], None, "the ONNX file")


def planned_cost(plan: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Kind, limit, cost before and predicted cost of a plan.json; None in a plan made by hand."""
    cost: Mapping[str, Any] | None = plan["cost"]
    return cost


def _budget(plan: Mapping[str, Any], achieved: Achieved | None) -> Budget | None:
    cost = planned_cost(plan)
    if cost is None:
        return None
    return Budget(
        kind=cost["kind"],
        limit=cost["limit"],
        before=cost["before"],
        predicted=cost["predicted"],
        achieved=achieved.value if achieved else None,
        achieved_interval=achieved.interval if achieved else None,
        achieved_on=achieved.on if achieved else None,
        verdict=_verdict(cost["limit"], achieved) if achieved else None,
    )


def _verdict(limit: float, achieved: Achieved) -> Literal["holds", "too close to call", "exceeded"]:
    low, high = achieved.interval or (achieved.value, achieved.value)
    if high <= limit:
        return "holds"
    return "exceeded" if low > limit else "too close to call"


def _curve(group: Mapping[str, Any]) -> list[tuple[int, float]]:
    width = len(group["order"])
    last = min(width, MOST_POINTS - 1)
    removed = [round(point * width / last) for point in range(last + 1)]
    return [(count, _share_lost(group, count)) for count in removed]


def _share_lost(group: Mapping[str, Any], removed: int) -> float:
    """Share of the criterion's total that the first `removed` channels of the order take with them."""
    if removed == 0 or group["total"] <= 0:
        return 0.0
    # Rounding may carry the sum of what is lost a little past the total.
    return float(min(max(group["lost"][removed - 1] / group["total"], 0.0), 1.0))
