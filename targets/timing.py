"""Settings of a measurement, and its figures: median and its interval, percentiles, speed-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Sequence

import numpy as np

from targets.bootstrap import RESAMPLES, interval, resampled_medians
from targets.errors import ConfigError
from targets.trends import drift, scatter, two_modes

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fewest samples that say anything about a percentile: MLPerf loadgen's early-stopping bound.
P90_SAMPLES = 64
P99_SAMPLES = 662
# Two-sided test at 5 %, found in four cases of five: quantiles of the normal distribution, added.
SEEN = 1.959964 + 0.841621


@dataclass(frozen=True)
class MeasureSettings:
    """How long and how often to measure. Times are seconds.

    Args:
        warmup_min_s: every variant warms up at least this long.
        warmup_max_s: and at most this long, settled or not.
        warmup_tolerance: windows agree when their medians differ by at most this fraction.
        min_samples: samples of every variant.
        min_s: measuring goes on at least this long, all variants together.
        max_s: measuring ends after the block in which this is reached, whatever was asked above.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """

    warmup_min_s: float = 0.5
    warmup_max_s: float = 5.0
    warmup_tolerance: float = 0.05
    min_samples: int = 200
    min_s: float = 2.0
    max_s: float = 60.0
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """Latency of one variant in milliseconds: the fields of the build record's `Latency`, without loading.

    Args:
        samples: number of samples.
        median_ms: median.
        median_interval_ms: 95 % bootstrap interval of the median.
        p90_ms: 90th percentile; None with fewer than 64 samples.
        p99_ms: 99th percentile; None with fewer than 662 samples.
        min_ms: fastest sample.
        max_ms: slowest sample.
        coefficient_of_variation: standard deviation / mean.
        warmup_s: how long it took to settle.
        samples_ms: every sample, in the order taken.
        settled: windows of the warm-up agreed before it ended.
        drift: change over the run as a share of the median; None with fewer than 80 samples.
        drift_p: how likely such a trend is by chance.
        scatter: half the width of the middle 68 % of samples, as a share of the median.
        modes_ms: medians of two modes, None where there is one.
    """

    samples: int
    median_ms: float
    median_interval_ms: tuple[float, float]
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float
    max_ms: float
    coefficient_of_variation: float
    warmup_s: float
    samples_ms: list[float]
    settled: bool
    drift: float | None
    drift_p: float | None
    scatter: float
    modes_ms: tuple[float, float] | None


class Speedup(NamedTuple):
    """Baseline time / own time (above 1 is faster) and its 95 % bootstrap interval.

    `smallest_difference` is the least difference, as a share, that a run like this one would have found in
    four cases of five.
    """

    ratio: float
    interval: tuple[float, float]
    smallest_difference: float


def summarise(
    samples_ms: Sequence[float], warmup_s: float, settings: MeasureSettings, settled: bool = True
) -> Timing:
    """Return the figures of one variant.

    Args:
        samples_ms: [n], in the order taken, n ≥ 1.
        warmup_s: seconds of warm-up before them.
        settings: bootstrap resamples and seed.
        settled: windows of the warm-up agreed before it ended.
    """
    samples = np.asarray(samples_ms, np.float64)
    trend = drift(samples)
    spread = samples.std(ddof=1) if len(samples) > 1 else 0.0
    return Timing(
        samples=len(samples),
        median_ms=float(np.median(samples)),
        median_interval_ms=interval(resampled_medians(samples[None], settings.resamples, settings.seed)[0]),
        p90_ms=percentile(samples, 90) if len(samples) >= P90_SAMPLES else None,
        p99_ms=percentile(samples, 99) if len(samples) >= P99_SAMPLES else None,
        min_ms=float(samples.min()),
        max_ms=float(samples.max()),
        coefficient_of_variation=float(spread / samples.mean()),
        warmup_s=warmup_s,
        samples_ms=samples.tolist(),
        settled=settled,
        drift=trend.change if trend else None,
        drift_p=trend.p if trend else None,
        scatter=scatter(samples),
        modes_ms=two_modes(samples),
    )


def percentile(samples_ms: NDArray[np.float64], percent: int) -> float:
    """Return the smallest sample that at least `percent` % of the samples do not exceed (nearest rank).

    Args:
        samples_ms: [n], in any order.
        percent: 1 to 100.
    """
    rank = -(-percent * len(samples_ms) // 100)
    return float(np.sort(samples_ms)[rank - 1])


def speedup(
    baseline_ms: Sequence[float], own_ms: Sequence[float], settings: MeasureSettings | None = None
) -> Speedup:
    """Return how much faster one variant is than another, from samples that `compare` took together.

    The ratio of the medians, with the interval of a paired bootstrap: each resample draws the same stretches
    of the run for both, so that what slowed both down at a time cancels.

    Args:
        baseline_ms: [n], in the order taken.
        own_ms: [n], sample i taken in the same block as baseline sample i.
        settings: bootstrap resamples and seed.

    Raises:
        ConfigError: the two have different numbers of samples.
    """
    if len(baseline_ms) != len(own_ms):
        raise ConfigError(
            f"{len(baseline_ms)} baseline samples cannot be paired with {len(own_ms)}",
            mend="time both variants in one comparison",
        )
    pair = np.asarray([baseline_ms, own_ms], np.float64)
    baseline, own = np.median(pair, axis=1)
    settings = settings or MeasureSettings()
    resampled = resampled_medians(pair, settings.resamples, settings.seed)
    ratios = resampled[0] / resampled[1]
    smallest = float(np.expm1(SEEN * np.log(ratios).std()))
    return Speedup(float(baseline / own), interval(ratios), smallest)
