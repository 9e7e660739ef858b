"""Two classifiers on the same images: McNemar's test, and an interval for their difference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import Z_95
from targets.errors import DataError


@dataclass(frozen=True)
class Difference:
    """Accuracy of a second classifier minus that of a first, on the same images.

    Args:
        change: share of images; above 0 the second is better.
        interval: 95 %, paired.
        lost: images only the first gets right.
        won: images only the second gets right.
        p: two-sided, of McNemar's exact test.
    """

    change: float
    interval: tuple[float, float]
    lost: int
    won: int
    p: float


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Compare which images two classifiers get right.

    McNemar (Psychometrika 12, 1947) in its exact form: of the images only one of them gets right, each is as
    likely to be won as to be lost. Interval: Bonett and Price (JEBS 37, 2012), Wald's with one image added to
    each kind, which keeps its 95 % where few images differ.

    Args:
        first: [N], right or not.
        second: [N], of the same images in the same order.

    Raises:
        DataError: not the same number of images, or none.
    """
    if first.shape != second.shape or not len(first):
        raise DataError(
            f"{len(first)} and {len(second)} images cannot be compared one by one",
            mend="compare results on the same test images",
        )
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    images = len(first)
    share_lost, share_won = (lost + 1) / (images + 2), (won + 1) / (images + 2)
    middle = share_won - share_lost
    half = Z_95 * math.sqrt((share_won + share_lost - middle**2) / (images + 2))
    change = (won - lost) / images
    interval = (max(-1.0, min(middle - half, change)), min(1.0, max(middle + half, change)))
    return Difference(change, interval, lost, won, mcnemar(lost, won))


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided p of so uneven a split, or a more uneven one, of lost + won fair coins."""
    count, fewer = lost + won, min(lost, won)
    if lost == won:
        return 1.0
    logs = [
        math.lgamma(count + 1) - math.lgamma(each + 1) - math.lgamma(count - each + 1) - count * math.log(2)
        for each in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))
