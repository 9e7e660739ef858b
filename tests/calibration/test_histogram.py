"""Laws of the streaming histogram."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration.histogram import SIDE, Histogram, merged

finite = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
batches = st.lists(arrays(np.float32, st.integers(1, 40), elements=finite), min_size=1, max_size=6)


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    facts = [(h.minimum, h.maximum, h.exponent, h.zeros) for h in (a, b)]
    return facts[0] == facts[1] and np.array_equal(a.counts, b.counts)


@given(batches)
def test_equals_the_histogram_of_all_data_in_hand(parts: list[np.ndarray]) -> None:
    data = np.concatenate(parts).astype(np.float64)
    histogram = histogram_of(*parts)
    expected, _ = np.histogram(data, histogram.edges())
    assert np.array_equal(histogram.counts, expected)
    assert (histogram.minimum, histogram.maximum) == (data.min(), data.max())
    assert histogram.zeros == np.sum(data == 0)


@given(batches, st.randoms(use_true_random=False))
def test_order_and_cut_do_not_matter(parts: list[np.ndarray], random) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)
    together = histogram_of(np.concatenate(parts))
    assert same(together, histogram_of(*shuffled))
    assert same(together, merged([histogram_of(part) for part in shuffled]))


@given(batches)
def test_range_is_resolved_by_at_least_half_the_bins_of_its_larger_side(parts: list[np.ndarray]) -> None:
    histogram = histogram_of(*parts)
    largest = max(abs(histogram.minimum), abs(histogram.maximum))
    assert largest == 0 or SIDE / 2 <= largest / 2.0**histogram.exponent <= SIDE or histogram.exponent == -126


def test_counts_pieces_larger_than_one_and_any_shape() -> None:
    data = np.random.default_rng(0).standard_normal((3, 70000)).astype(np.float32)
    histogram = histogram_of(data)
    assert histogram.counts.sum() == data.size
    assert np.array_equal(histogram.counts, np.histogram(data.astype(np.float64), histogram.edges())[0])


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_refuses_what_is_not_finite_and_counts_nothing(value: float, word: str) -> None:
    histogram = histogram_of(np.ones(3, np.float32))
    with pytest.raises(ValueError, match=word):
        histogram.add(np.array([5, value], np.float32))
    assert same(histogram, histogram_of(np.ones(3, np.float32)))


def test_size_does_not_grow() -> None:
    histogram = histogram_of(np.zeros(4, np.float32))
    size = histogram.counts.nbytes
    for power in range(30):
        histogram.add(np.array([2.0**power, -(3.0**power)], np.float32))
    assert histogram.counts.nbytes == size
    assert histogram.counts.sum() == 64


def test_an_empty_array_counts_nothing() -> None:
    assert same(histogram_of(np.zeros((0, 3), np.float32)), Histogram())
