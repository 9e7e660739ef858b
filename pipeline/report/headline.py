"""The result of a target in one sentence a manager understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.wording import Wording


def headlines(target: str, results: Sequence[Mapping[str, Any]], words: Wording) -> list[str]:
    """Say of everything that ships how it compares with what it came from.

    Args:
        target: its name.
        results: of that target, as in the record; the first is the baseline.
        words: what a share of right answers is called.
    """
    products = [result for result in results if result["role"] == "product"]
    return [_headline(target, product, results[0], words) for product in products]


def _headline(target: str, product: Mapping[str, Any], baseline: Mapping[str, Any], words: Wording) -> str:
    own = product["accuracy"]
    low, high = own["top1_interval"]
    said = (
        f"{target}: {product['variant']} takes {_milliseconds(product['latency']['median_ms'])}, "
        f"{words.score} {own['top1']:.1%} ± {(high - low) / 2 * 100:.1f}"
    )
    if product is baseline:
        return said + "."
    faster = next(each for each in product["speedups"] if each["baseline"] == baseline["variant"])
    was = baseline["accuracy"]["top1"]
    return f"{said}; {_compared(faster)} {baseline['variant']}, whose {words.short} is {was:.1%}."


def _compared(speedup: Mapping[str, Any]) -> str:
    low, high = speedup["interval"]
    if low <= 1.0 <= high:
        return "no measurable difference in time from"
    if speedup["ratio"] > 1.0:
        return f"{speedup['ratio']:.1f}× faster than"
    return f"{1 / speedup['ratio']:.1f}× slower than"


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms" if value >= 0.1 else f"{value * 1000:.0f} µs"
