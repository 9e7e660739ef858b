"""Laws of the range methods."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration.clipping import (
    CANDIDATES,
    affine,
    divergences,
    entropy_range,
    errors,
    least_squares_range,
    min_max_range,
    percentile_range,
)
from calibration.histogram import Histogram

values = arrays(
    np.float32, st.integers(2, 60), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
)


def histogram_of(data: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(data)
    return histogram


def squared_error(data: np.ndarray, low: float, high: float, symmetric: bool) -> float:
    """The error of quantizing the data itself."""
    scale, zero = (float(value[0]) for value in affine(np.array([low]), np.array([high]), symmetric))
    smallest, largest = (-128, 127) if symmetric else (0, 255)
    stored = np.clip(np.rint(data.astype(np.float64) / scale) + zero, smallest, largest)
    return float(np.sum((data - (stored - zero) * scale) ** 2))


def activations(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    normal = rng.standard_normal(40000)
    shapes = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "long tail": normal * np.exp(rng.standard_normal(40000)),
        "lopsided": np.where(normal > 0, normal * 6, normal),
        "negative": -np.abs(normal) - 0.5,
        "relu6": np.clip(normal * 4, 0, 6),
    }
    return shapes[kind].astype(np.float32)


KINDS = ["normal", "relu", "long tail", "lopsided", "negative", "relu6"]


@settings(deadline=None)
@given(values, st.booleans(), st.floats(51, 100))
def test_every_range_contains_zero_and_stays_within_the_observed_one(
    data, symmetric: bool, share: float
) -> None:
    histogram = histogram_of(data)
    low, high = min_max_range(histogram)
    assert low <= 0 <= high
    ranges = (
        percentile_range(histogram, share, symmetric),
        least_squares_range(histogram, symmetric),
        entropy_range(histogram, symmetric),
    )
    for inner in ranges:
        assert low <= inner[0] <= 0 <= inner[1] <= high


@given(st.floats(-1e5, 0), st.floats(0, 1e5), st.booleans())
def test_quantizers_cover_their_range_and_hold_zero_exactly(low: float, high: float, symmetric: bool) -> None:
    scale, zero = affine(np.array([low]), np.array([high]), symmetric)
    smallest, largest = (-128, 127) if symmetric else (0, 255)
    assert scale[0] > 0
    assert zero[0] == int(zero[0])
    assert smallest <= zero[0] <= largest
    assert not symmetric or zero[0] == 0
    # The zero-point is rounded: either end may lie half a step outside, float32 rounding of the scale aside.
    slack = scale[0] * 0.51
    assert (smallest - zero[0]) * scale[0] <= low + slack
    assert (largest - zero[0]) * scale[0] >= high - slack


def test_relu_outputs_have_zero_point_zero_in_uint8() -> None:
    histogram = histogram_of(activations("relu"))
    for low, high in (
        min_max_range(histogram),
        percentile_range(histogram, 99.9, False),
        least_squares_range(histogram, False),
    ):
        assert affine(np.array([low]), np.array([high]), False)[1][0] == 0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_error_from_the_histogram_is_the_error_on_the_data(kind: str, symmetric: bool) -> None:
    data = activations(kind)
    histogram = histogram_of(data)
    low, high = min_max_range(histogram)
    for share in (1.0, 0.7, 0.4):
        expected = squared_error(data, low * share, high * share, symmetric)
        got = errors(histogram, np.array([low * share]), np.array([high * share]), symmetric)[0]
        assert got == pytest.approx(expected, rel=0.05, abs=0.02)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_least_squares_is_as_good_as_brute_force_on_the_data(kind: str, symmetric: bool) -> None:
    data = activations(kind)
    histogram = histogram_of(data)
    low, high = min_max_range(histogram)
    chosen = squared_error(data, *least_squares_range(histogram, symmetric), symmetric)
    both = [(low * share, high * share) for share in CANDIDATES]
    assert chosen <= 1.03 * min(squared_error(data, *ends, symmetric) for ends in both)


def test_least_squares_gives_a_lone_outlier_up_the_more_values_there_are_beside_it() -> None:
    lone = np.array([400], np.float32)
    limits = [
        least_squares_range(histogram_of(np.append(np.tile(activations("normal"), copies), lone)), True)[1]
        for copies in (1, 10, 40)
    ]
    assert 400 > limits[0] > 2 * limits[1] > 4 * limits[2]


@settings(max_examples=50)
@given(values, st.floats(51, 99.9), st.booleans())
def test_percentile_leaves_out_no_more_than_asked(data: np.ndarray, share: float, symmetric: bool) -> None:
    low, high = percentile_range(histogram_of(data), share, symmetric)
    allowed = (100 - share) / 100 * data.size + 1e-6
    below, above = np.sum(data < low), np.sum(data > high)
    assert max(below, above) <= allowed
    assert not symmetric or below + above <= allowed


def test_percentile_is_accurate_to_one_bin() -> None:
    data = activations("normal")
    histogram = histogram_of(data)
    width = 2.0**histogram.exponent
    low, high = percentile_range(histogram, 99, False)
    assert low == pytest.approx(np.quantile(data, 0.01), abs=width)
    assert high == pytest.approx(np.quantile(data, 0.99), abs=width)


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_has_no_more_bins_than_levels_is_kept_whole_by_entropy(symmetric: bool) -> None:
    data = np.repeat(np.arange(1, 121), np.arange(1, 121)).astype(np.float32)
    histogram = histogram_of(data)
    assert entropy_range(histogram, symmetric) == min_max_range(histogram)
    assert divergences(histogram, np.array([0.0]), np.array([120.0]), symmetric)[0] == pytest.approx(
        0, abs=1e-12
    )


def test_entropy_gives_a_lone_outlier_up_and_spares_a_second_hump() -> None:
    normal = np.abs(activations("normal"))
    outlier = histogram_of(np.append(normal, np.float32(400)))
    assert entropy_range(outlier, True)[1] < 40
    hump = histogram_of(np.concatenate([normal, normal / 10 + np.float32(20)]))
    assert entropy_range(hump, True)[1] > 20


def test_divergence_is_that_of_the_distributions_written_out() -> None:
    data = np.repeat(np.array([1, 2, 3, 4, 9], np.float32), [10, 2, 5, 5, 3])
    # Every bin has levels of its own; the 9 is cut, counts with the 4 before and is missing afterwards.
    before, after = np.array([10.0, 2, 5, 8]), np.array([10.0, 2, 5, 5])
    got = divergences(histogram_of(data), np.array([0.0]), np.array([4.0]), False)[0]
    p, q = before / before.sum(), after / before.sum()
    assert got == pytest.approx(np.sum(p * np.log(p / q)), rel=1e-9)


@pytest.mark.parametrize("choose", [least_squares_range, entropy_range])
@pytest.mark.parametrize("half", [1.0, 2.7, 40.0])
def test_a_value_that_many_share_at_the_lower_end_is_kept_exactly(choose, half: float) -> None:
    """ReLU moved to −h, for zero-points that have to be 0: what was zero may not be rounded."""
    data = np.clip(activations("normal"), 0, None) * np.float32(half) - np.float32(half)
    low, high = choose(histogram_of(data), True)
    scale = float(affine(np.array([low]), np.array([high]), True)[0][0])
    level = -half / scale
    assert level == pytest.approx(round(level), abs=1e-4)
    assert round(level) <= 128
