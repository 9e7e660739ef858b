"""How far two sets of outputs are apart: the four figures of a gate.

numpy alone: a repro folder carries a copy of this file, and so does what goes to devices.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Outputs = Mapping[str, NDArray[Any]]
    Values = NDArray[np.float64]

# Written where there is no figure because a value is NaN or infinite: JSON has no infinity.
UNBOUNDED = sys.float_info.max
# Root mean square below which a reference is no yardstick of its own.
WEAKEST_RMS = 1e-6


def measure(reference: Outputs, candidate: Outputs) -> dict[str, float]:
    """Compare outputs of the same samples.

    Args:
        reference: name → [N, ...], N ≥ 1.
        candidate: the same names and shapes.

    Returns:
        max_abs: largest |c − r| of all elements.
        relative_l2: ‖c − r‖ / ‖r‖ over all samples, of the worst output.
        cosine: c·r / (‖c‖ ‖r‖) of the worst sample and output; two zero vectors agree.
        top1_agreement: share of samples with the same arg-max of the first output of rank 2; left out
            where there is none.
        A NaN or infinite value anywhere gives the worst figures there are.
    """
    scored = class_scores(reference)
    if not all(np.isfinite(side[name]).all() for side in (reference, candidate) for name in reference):
        worst = {"max_abs": UNBOUNDED, "relative_l2": UNBOUNDED, "cosine": -1.0}
        return {**worst, "top1_agreement": 0.0} if scored else worst
    pairs = [(_rows(reference[name]), _rows(candidate[name])) for name in reference]
    figures = {
        "max_abs": max(float(np.abs(c - r).max(initial=0.0)) for r, c in pairs),
        "relative_l2": max(relative_l2(r, c) for r, c in pairs),
        "cosine": min(float(_cosines(r, c).min()) for r, c in pairs),
    }
    if scored:
        figures["top1_agreement"] = float(_same_top1(reference[scored], candidate[scored]).mean())
    return figures


def relative_l2(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """‖c − r‖ / √(‖r‖² + n·`WEAKEST_RMS`²), the second term for a reference of zeros; finite always."""
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.linalg.norm(c - r))
        scale = max(math.hypot(float(np.linalg.norm(r)), WEAKEST_RMS * r.size**0.5), sys.float_info.min)
    return min(error / scale, UNBOUNDED) if np.isfinite(error) else UNBOUNDED


def badness(metric: str, reference: Outputs, candidate: Outputs) -> Values:
    """Say how much each sample alone violates a metric.

    Returns:
        [N]; larger is worse. The worst sample alone gives `measure` a figure no better than all together.
    """
    if metric == "top1_agreement":
        scored = class_scores(reference)
        return 1.0 - _same_top1(reference[scored], candidate[scored]) if scored else np.zeros(0)
    each = [_each(metric, _rows(reference[name]), _rows(candidate[name])) for name in reference]
    worst: Values = np.stack(each).max(axis=0)
    return worst


def class_scores(outputs: Outputs) -> str:
    """Return the name of the first output that is [N, classes], or ""."""
    return next((name for name, array in outputs.items() if array.ndim == 2 and array.shape[1] > 1), "")


def _each(metric: str, r: Values, c: Values) -> Values:
    with np.errstate(invalid="ignore", over="ignore"):
        if metric == "max_abs":
            values = np.abs(c - r).max(axis=1, initial=0.0)
        elif metric == "cosine":
            values = 1.0 - _cosines(r, c)
        else:
            values = np.array([relative_l2(r[n], c[n]) for n in range(len(r))])
    finite = np.isfinite(c).all(axis=1) & np.isfinite(r).all(axis=1)
    return np.where(finite, values, np.inf)


def _cosines(r: Values, c: Values) -> Values:
    length_r, length_c = np.linalg.norm(r, axis=1), np.linalg.norm(c, axis=1)
    # Each side is scaled first: the product of two tiny lengths would be lost.
    unit_r = r / np.maximum(length_r, sys.float_info.min)[:, None]
    unit_c = c / np.maximum(length_c, sys.float_info.min)[:, None]
    cosines = np.clip((unit_r * unit_c).sum(axis=1), -1.0, 1.0)
    return np.where((length_r == 0) & (length_c == 0), 1.0, cosines)


def _same_top1(reference: NDArray[Any], candidate: NDArray[Any]) -> Values:
    same: Values = (reference.argmax(axis=1) == candidate.argmax(axis=1)).astype(np.float64)
    return same


def _rows(array: NDArray[Any]) -> Values:
    return array.astype(np.float64).reshape(len(array), -1)
