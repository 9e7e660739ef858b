"""INT8 weights and INT32 biases against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration.weights import least_weight_scale, quantize_bias, quantize_weight

weights = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
    elements=st.floats(-4, 4, width=32, allow_subnormal=False),
)


@given(weights, st.integers(0, 2), st.sampled_from([8, 7]))
def test_values_equal_a_plain_reference_bit_for_bit(weight: np.ndarray, axis: int, bits: int) -> None:
    limit = {8: 127, 7: 63}[bits]
    got = quantize_weight(weight, axis, bits)
    assert (got.values.dtype, got.scale.dtype) == (np.int8, np.float32)
    for channel in range(weight.shape[axis]):
        part = np.take(weight, channel, axis)
        peak = np.abs(part).max()
        if peak >= np.abs(weight).max() / 1e6 and peak > 1e-6:
            assert got.scale[channel] == peak / np.float32(limit)
        expected = np.round(part / got.scale[channel])
        np.testing.assert_array_equal(np.take(got.values, channel, axis), expected)
        assert np.abs(expected).max() <= limit


@given(weights, st.integers(0, 2))
def test_error_is_at_most_half_a_step(weight: np.ndarray, axis: int) -> None:
    got = quantize_weight(weight, axis, 8)
    shape = [1, 1, 1]
    shape[axis] = -1
    step = got.scale.reshape(shape).astype(np.float64)
    assert (np.abs(weight - got.values * step) <= step * 0.5001).all()


def test_sqnr_is_about_six_decibels_a_bit() -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (16, 4096)).astype(np.float32)
    eight, seven = (quantize_weight(weight, 0, bits).sqnr_db for bits in (8, 7))
    assert eight == pytest.approx(20 * np.log10(2 * 127), abs=0.2)
    assert eight - seven == pytest.approx(20 * np.log10(127 / 63), abs=0.2)


def test_weights_on_the_grid_have_no_noise() -> None:
    weight = np.arange(-127, 128, dtype=np.float32).reshape(1, -1)
    got = quantize_weight(weight, 0, 8)
    assert got.sqnr_db is None
    assert np.array_equal(got.values, weight)


@settings(max_examples=50)
@given(
    arrays(np.float32, 4, elements=st.floats(-100, 100, width=32, allow_subnormal=False)),
    st.floats(1e-5, 10),
    st.sampled_from([0.0, 1e-20, 1e-6, 1.0]),
)
def test_biases_never_overflow_and_are_precise(bias: np.ndarray, source_scale: float, size: float) -> None:
    """Channels of (nearly) no weight would otherwise need integers far beyond 32 bits."""
    weight = (np.linspace(-1, 1, 12).reshape(4, 3) * np.array([[1], [size], [size], [1]])).astype(np.float32)
    scale = quantize_weight(weight, 0, 8, least_weight_scale(bias, source_scale)).scale
    integers, unit = quantize_bias(bias, source_scale, scale)
    assert integers.dtype == np.int32
    assert np.abs(integers.astype(np.int64)).max() <= 2**30 + 2**8
    assert (np.abs(integers * unit.astype(np.float64) - bias) <= 0.51 * unit + 1e-7 * np.abs(bias)).all()
