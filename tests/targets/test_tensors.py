"""Inputs that fit an engine, and messages that fit a line."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from targets.tensors import fits, one_line, ordered_inputs, sample_inputs
from targets.toolchain import TensorSpec

SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@given(SHAPES, SHAPES)
def test_a_static_shape_fits_itself_alone(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert fits(shape, other) == (shape == other)


@given(SHAPES)
def test_a_dynamic_shape_fits_every_one_of_its_rank(shape: tuple[int, ...]) -> None:
    assert fits(shape, (-1,) * len(shape))
    assert not fits(shape, (-1,) * (len(shape) + 1))


@given(st.lists(st.tuples(SHAPES, st.sampled_from(["float32", "float16", "int64", "uint8", "bool"]))))
def test_sample_inputs_fit(kinds: list[tuple[tuple[int, ...], str]]) -> None:
    specs = [TensorSpec(f"input{i}", dtype, (-1, *shape)) for i, (shape, dtype) in enumerate(kinds)]
    arrays = ordered_inputs(specs, sample_inputs(specs))
    assert [array.dtype.name for array in arrays] == [dtype for _, dtype in kinds]


def test_an_array_that_fits_is_not_copied() -> None:
    array = np.zeros((2, 3), np.float32)
    (same,) = ordered_inputs([TensorSpec("x", "float32", (-1, 3))], {"x": array})
    assert np.shares_memory(array, same)


@given(st.text(max_size=2000))
def test_one_line_is_one_line(message: str) -> None:
    line = one_line(RuntimeError(message), drop=("Exception from",), length=80)
    assert 0 < len(line) <= 80 and len(line.splitlines()) == 1


def test_one_line_leaves_source_files_out() -> None:
    message = "Exception from src/core.cpp:84:\n  No rule   for operations: Bogus-17\n\n"
    assert one_line(RuntimeError(message), drop=("Exception from",)) == "No rule for operations: Bogus-17"
    assert one_line(ValueError("")) == "ValueError"
