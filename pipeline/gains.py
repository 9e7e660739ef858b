"""What each step on a network's way cost, and what came of it: the record's `Gain`s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.evaluate import right_images
from pipeline.paired import difference
from pipeline.record import Accuracy

Result = Mapping[str, Any]
# Precision → what making it is called, and the stages that do it, by network and target.
STEPS = {
    "int8": ("quantize", ("observe {0}", "quantize {0} {1}")),
    "mixed": ("mix bits of", ("observe {0}", "quantize {0} {1}", "mix {0} {1}")),
}


def gains(
    target: str, results: Sequence[Result], stages: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the steps that led to every variant of a target that ships or might have.

    Args:
        target: its name.
        results: of that target, as in the record, the network everything started from first.
        stages: the record's `StageCost`s.
    """
    seconds = {stage["name"]: stage["seconds"] for stage in stages}
    return [
        _gain(target, step, before, after, sum(seconds.get(name, 0.0) for name in names))
        for step, before, after, names in _steps(target, results)
    ]


def _steps(target: str, results: Sequence[Result]) -> Iterator[tuple[str, Result, Result, list[str]]]:
    """What led from which result to which, and the stages that did it."""
    first = results[0]
    for network in dict.fromkeys(result["network"] for result in results):
        own = [result for result in results if result["network"] == network]
        plain, *others = own
        if network != first["network"]:
            names = ["scores", "costs", f"structure {network}", network]
            yield f"slim and train {network}", first, plain, names
        for other in others:
            if network == first["network"] and other["role"] == "baseline":
                continue
            step, making = STEPS.get(other["precision"], (f"compute in {other['precision']}", ()))
            yield f"{step} {network}", plain, other, [name.format(network, target) for name in making]


def _gain(target: str, step: str, before: Result, after: Result, seconds: float) -> dict[str, Any]:
    own, other = Accuracy.model_validate(after["accuracy"]), Accuracy.model_validate(before["accuracy"])
    was, now = right_images(other), right_images(own)
    paired = None if was is None or now is None else difference(was, now)
    faster = next(each for each in after["speedups"] if each["baseline"] == before["variant"])
    return {
        "target": target,
        "step": step,
        "before": before["variant"],
        "after": after["variant"],
        "seconds": seconds,
        "accuracy_change": own.top1 - other.top1,
        "accuracy_interval": paired.interval if paired else None,
        "size_change_bytes": after["engine"]["size_bytes"] - before["engine"]["size_bytes"],
        "speedup": faster["ratio"],
        "speedup_interval": faster["interval"],
    }
