"""Does the engine that was chosen pay? It has to beat its float twin by a margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def judge(
    target: str, results: Sequence[Result], margin: float, otherwise: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Hold every product of a target that has float twins against the fastest of them.

    It pays when the whole interval of its speed-up lies at or above the margin.

    Args:
        target: its name.
        results: of that target, as in the record.
        margin: times as fast as the float twin.
        otherwise: what becomes of a product that does not pay: "report", "float" (its twin ships in its
            place), "stop" (the build ends with exit code 1).

    Returns:
        The results, with other roles where a float twin ships, and the record's `Requirement`s.
    """
    roles: dict[str, str] = {}
    requirements = []
    for product in results:
        if product["role"] != "product":
            continue
        twins = [
            result
            for result in results
            if result["network"] == product["network"] and result["role"] == "float twin"
        ]
        if not twins:
            continue
        twin = min(twins, key=lambda result: float(result["latency"]["median_ms"]))
        faster = next(each for each in product["speedups"] if each["baseline"] == twin["variant"])
        passed = faster["interval"][0] >= margin
        if not passed and otherwise == "float":
            roles |= {product["variant"]: "set aside", twin["variant"]: "product"}
        requirements.append(
            {
                "kind": "pays",
                "target": target,
                "variant": product["variant"],
                "passed": passed,
                "demanded": otherwise == "stop",
                "words": _words(product, twin, faster, margin, passed, otherwise),
            }
        )
    chosen = [{**result, "role": roles.get(result["variant"], result["role"])} for result in results]
    return chosen, requirements


def _words(
    product: Result, twin: Result, faster: Mapping[str, Any], margin: float, passed: bool, otherwise: str
) -> str:
    low, high = faster["interval"]
    said = (
        f"{product['variant']} is {faster['ratio']:.2f}× ({low:.2f}–{high:.2f}) as fast as "
        f"{twin['variant']}, {margin:g}× was asked for"
    )
    if passed:
        return f"{said}: it pays."
    instead = f", so {twin['variant']} ships in its place" if otherwise == "float" else ""
    return f"{said}: it does not pay{instead}."
