"""Does the engine that was chosen pay? It has to beat its float twin by a margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A quantized product beside the fastest float twin of its network."""

    product: Result
    twin: Result
    faster: Mapping[str, Any]
    passed: bool


def judge(
    target: str, results: Sequence[Result], margin: float, otherwise: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Hold every product of a target that has float twins against the fastest of them.

    It pays when the whole interval of its speed-up lies at or above the margin.

    Args:
        target: its name.
        results: of that target, as in the record.
        margin: times as fast as the float twin.
        otherwise: what becomes of a product that does not pay: "report"; "float", it is set aside, and where
            nothing else of its network pays, the float twin ships; "stop", the build ends with exit code 1.

    Returns:
        The results, with their roles as they turned out, and the record's `Requirement`s.
    """
    trials = [trial for trial in (_try(result, results, margin) for result in results) if trial]
    roles: dict[str, str] = {}
    paying = {trial.product["network"] for trial in trials if trial.passed}
    requirements = []
    for trial in trials:
        instead = otherwise == "float" and not trial.passed
        promoted = instead and trial.product["network"] not in paying
        if instead:
            roles[trial.product["variant"]] = "set aside"
        if promoted:
            roles[trial.twin["variant"]] = "product"
        requirements.append(
            {
                "kind": "pays",
                "target": target,
                "variant": trial.product["variant"],
                "passed": trial.passed,
                "demanded": otherwise == "stop",
                "words": _words(trial, margin, instead, promoted),
            }
        )
    chosen = [{**result, "role": roles.get(result["variant"], result["role"])} for result in results]
    return chosen, requirements


def _try(product: Result, results: Sequence[Result], margin: float) -> Trial | None:
    twins = [
        result
        for result in results
        if result["network"] == product["network"] and result["role"] == "float twin"
    ]
    if product["role"] != "product" or not twins:
        return None
    twin = min(twins, key=lambda result: float(result["latency"]["median_ms"]))
    faster = next(each for each in product["speedups"] if each["baseline"] == twin["variant"])
    return Trial(product, twin, faster, faster["interval"][0] >= margin)


def _words(trial: Trial, margin: float, instead: bool, promoted: bool) -> str:
    low, high = trial.faster["interval"]
    twin = trial.twin["variant"]
    said = (
        f"{trial.product['variant']} is {trial.faster['ratio']:.2f}× ({low:.2f}–{high:.2f}) as fast as "
        f"{twin}, {margin:g}× was asked for"
    )
    if trial.passed:
        return f"{said}: it pays."
    consequence = (
        f", so {twin} ships in its place" if promoted else ", so it does not ship" if instead else ""
    )
    return f"{said}: it does not pay{consequence}."
