"""Figures from samples: laws of the percentiles, coverage of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.bootstrap import resampled_medians
from targets.errors import ConfigError
from targets.timing import MeasureSettings, percentile, speedup, summarise

SETTINGS = MeasureSettings(resamples=200)
LATENCIES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=80)


@given(LATENCIES, st.integers(1, 100))
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(samples: list[float], percent: int) -> None:
    value = percentile(np.array(samples), percent)
    assert value in samples
    assert sum(sample <= value for sample in samples) * 100 >= percent * len(samples)
    assert sum(sample < value for sample in samples) * 100 < percent * len(samples)


def test_percentiles_of_one_to_a_hundred() -> None:
    samples = np.arange(100, 0, -1.0)
    assert [percentile(samples, percent) for percent in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]


@pytest.mark.parametrize(
    ("count", "p90", "p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)]
)
def test_percentiles_need_enough_samples(count: int, p90: bool, p99: bool) -> None:
    timing = summarise(np.linspace(1, 2, count).tolist(), 0.0, SETTINGS)
    assert (timing.p90_ms is not None, timing.p99_ms is not None) == (p90, p99)


@given(LATENCIES)
def test_figures_are_in_order(samples: list[float]) -> None:
    timing = summarise(samples, 1.5, SETTINGS)
    low, high = timing.median_interval_ms
    assert timing.min_ms <= low <= high <= timing.max_ms
    assert timing.min_ms <= timing.median_ms <= timing.max_ms
    assert timing.samples_ms == samples and timing.samples == len(samples) and timing.warmup_s == 1.5
    assert timing.coefficient_of_variation >= 0


@given(LATENCIES, st.sampled_from([0.25, 2.0, 8.0]))
def test_figures_scale_with_the_unit(samples: list[float], factor: float) -> None:
    one = summarise(samples, 0.0, SETTINGS)
    other = summarise([factor * sample for sample in samples], 0.0, SETTINGS)
    assert other.median_ms == factor * one.median_ms
    assert other.median_interval_ms == tuple(factor * bound for bound in one.median_interval_ms)
    assert math.isclose(other.coefficient_of_variation, one.coefficient_of_variation, abs_tol=1e-9)


@given(st.integers(1, 120), st.integers(0, 3))
def test_resampled_medians_are_those_of_drawn_samples(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).permutation(count).astype(np.float64)
    medians = resampled_medians(np.stack([values, 2 * values]), 50, seed)
    assert medians.shape == (2, 50)
    np.testing.assert_array_equal(medians[1], 2 * medians[0])
    np.testing.assert_array_equal(2 * medians % 1, 0)
    assert medians[0].min() >= 0 and medians[0].max() <= count - 1


def test_many_samples_are_resampled_piece_by_piece_with_the_same_result() -> None:
    values = np.random.default_rng(0).standard_normal((1, 30_000))
    medians = resampled_medians(values, 100, 0)
    assert medians.shape == (1, 100) and abs(np.median(medians) - np.median(values)) < 0.02


def series(seed: int, correlation: float, count: int = 300) -> np.ndarray:
    """Two variants (10 and 8 ms) that a wandering machine slows down alike: [2, count]."""
    random = np.random.default_rng(seed)
    wander = random.standard_normal(count)
    for step in range(1, count):
        wander[step] = correlation * wander[step - 1] + math.sqrt(1 - correlation**2) * wander[step]
    noise = 0.3 * random.standard_normal((2, count))
    return np.stack([10 + wander + noise[0], 8 + 0.8 * wander + noise[1]])


@pytest.mark.parametrize(("correlation", "least"), [(0.0, 0.90), (0.5, 0.85)])
def test_intervals_cover_the_truth(correlation: float, least: float) -> None:
    medians, speedups = [], []
    for seed in range(200):
        pair = series(seed, correlation)
        settings = MeasureSettings(resamples=300, seed=seed)
        low, high = summarise(pair[0].tolist(), 0.0, settings).median_interval_ms
        medians.append(low <= 10 <= high)
        low, high = speedup(pair[0].tolist(), pair[1].tolist(), settings).interval
        speedups.append(low <= 10 / 8 <= high)
    assert np.mean(medians) >= least and np.mean(speedups) >= least


def test_pairing_narrows_the_interval() -> None:
    pair = series(0, 0.5)
    apart = np.random.default_rng(1).permutation(pair[1])
    together = np.ptp(speedup(pair[0].tolist(), pair[1].tolist()).interval)
    assert together < 0.7 * np.ptp(speedup(pair[0].tolist(), apart.tolist()).interval)


def test_the_interval_of_a_bimodal_engine_says_that_the_median_is_uncertain() -> None:
    samples = np.random.default_rng(0).choice([1.0, 2.0], 200).tolist()
    assert summarise(samples, 0.0, SETTINGS).median_interval_ms == (1.0, 2.0)


def test_a_seed_gives_the_same_interval_again() -> None:
    samples = series(3, 0.5)[0].tolist()
    again = [summarise(samples, 0.0, MeasureSettings(seed=seed)).median_interval_ms for seed in (7, 7, 8)]
    assert again[0] == again[1] != again[2]


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 baseline samples cannot be paired with 2"):
        speedup([1.0, 1.0, 1.0], [1.0, 1.0])
