"""Running many samples through something that takes a few at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Mapping

import numpy as np

from targets.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.toolchain import TensorSpec

Tensors = Mapping[str, "NDArray[np.generic]"]
Infer = Callable[[Tensors], Tensors]

CHUNK = 32  # samples at once where the batch is dynamic


def sample_count(inputs: Tensors) -> int:
    """Return N of inputs [N, ...]."""
    return len(next(iter(inputs.values())))


def batch_size(inputs: Iterable[TensorSpec], chunk: int) -> int:
    """Return the fixed batch of a model, or `chunk` where its batch is dynamic.

    Raises:
        ModelError: an input has no batch axis, or inputs disagree about it.
    """
    sizes = {spec.name: spec.shape[0] if spec.shape else 0 for spec in inputs}
    fixed = {size for size in sizes.values() if size != -1}
    if len(fixed) > 1 or 0 in fixed:
        raise ModelError(
            f"the inputs' first axes are not one batch axis: {sizes}",
            mend="export the model with the batch as first axis of every input",
        )
    return fixed.pop() if fixed else chunk


def batches(count: int, size: int) -> Iterator[NDArray[np.intp]]:
    """Yield indices 0..count−1 in groups of exactly `size`; the last one fills up the last group."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def run_in_batches(infer: Infer, inputs: Tensors, size: int) -> dict[str, NDArray[np.generic]]:
    """Run `infer` on all samples, `size` at a time, and return its outputs joined.

    Args:
        infer: takes exactly `size` samples.
        inputs: name → [N, ...], the same N ≥ 1 everywhere.
        size: samples in one run.

    Returns:
        output name → [N, ...].

    Raises:
        ModelError: an output does not have one row for every sample.
    """
    count = sample_count(inputs)
    parts: dict[str, list[NDArray[np.generic]]] = {}
    for rows in batches(count, size):
        outputs = infer({name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()})
        for name, array in outputs.items():
            parts.setdefault(name, []).append(_per_sample(name, array, size))
    return {name: np.concatenate(arrays)[:count] for name, arrays in parts.items()}


def _per_sample(name: str, array: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    if array.ndim == 0 or len(array) != size:
        raise ModelError(
            f"output {name!r} has shape {list(array.shape)} for a batch of {size}",
            where=name,
            mend="export the model with the batch as first axis of every output",
        )
    return array
