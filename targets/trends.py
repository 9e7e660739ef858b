"""What a series of samples says besides its median: a trend over the run, scatter, a second mode."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Medians of so many stretches of the run are looked at: few enough that neighbours on the machine average
# out, enough for the normal approximation of Mann and Kendall's statistic.
STRETCHES = 20
# Below this many samples a stretch would hold fewer than four.
FEWEST = 80
MIDDLE = (15.865, 84.135)  # percentiles one standard deviation of a normal distribution from its middle
SMALLEST_MODE = 0.1
APART = 4.0
DISTANCE = 0.05


class Drift(NamedTuple):
    """Change from the beginning of a run to its end, as a share of the median, and how likely by chance."""

    change: float
    p: float


def drift(samples: NDArray[np.float64]) -> Drift | None:
    """Test medians of stretches of the run for a trend.

    Mann and Kendall's test (Mann, Econometrica 13, 1945) on the medians, Sen's slope (JASA 63, 1968) for its
    size: neither is moved by a few late samples.

    Args:
        samples: [n], in the order taken.

    Returns:
        None with fewer than 80 samples.
    """
    if len(samples) < FEWEST:
        return None
    medians = np.array([np.median(stretch) for stretch in np.array_split(samples, STRETCHES)])
    first, second = np.triu_indices(STRETCHES, 1)
    differences = medians[second] - medians[first]
    slope = float(np.median(differences / (second - first)))
    change = slope * (STRETCHES - 1) / float(np.median(samples))
    score = abs(float(np.sign(differences).sum()))
    deviation = math.sqrt(STRETCHES * (STRETCHES - 1) * (2 * STRETCHES + 5) / 18)
    return Drift(change, math.erfc(max(score - 1, 0.0) / deviation / math.sqrt(2)))


def scatter(samples: NDArray[np.float64]) -> float:
    """Return half the width of the middle 68 % of samples as a share of their median.

    For normal samples this is the coefficient of variation; unlike it, one late sample does not move it.

    Args:
        samples: [n] > 0.
    """
    low, high = np.percentile(samples, MIDDLE)
    return float((high - low) / 2 / np.median(samples))


def two_modes(samples: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the medians of two modes, or None where the samples are one heap.

    The samples are split where the variance between both parts is largest (Otsu, IEEE SMC 9, 1979). They
    count as two modes when each holds a tenth of them, their means are four standard deviations apart
    (Ashman's D; halves of one normal distribution are 2.7, of a uniform one 3.5 apart) and differ by 5 %.

    Args:
        samples: [n], in any order.

    Returns:
        None also with fewer than 80 samples.
    """
    if len(samples) < FEWEST:
        return None
    low, high = np.percentile(samples, (1, 99))
    ordered = np.sort(samples[(samples >= low) & (samples <= high)])
    n = len(ordered)
    sizes = np.arange(1, n)
    sums = np.cumsum(ordered)
    left = sums[:-1] / sizes
    right = (sums[-1] - sums[:-1]) / (n - sizes)
    fits = np.minimum(sizes, n - sizes) >= SMALLEST_MODE * n
    between = np.where(fits, sizes * (n - sizes) * (right - left) ** 2, -1.0)
    cut = int(np.argmax(between)) + 1
    lower, upper = ordered[:cut], ordered[cut:]
    spread = math.sqrt((lower.var() + upper.var()) / 2)
    apart = float(upper.mean() - lower.mean())
    if apart <= APART * spread or apart <= DISTANCE * float(lower.mean()):
        return None
    return float(np.median(lower)), float(np.median(upper))
