"""Check calibration batches against what the model wants, and take their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.graph import FloatGraph
from targets.errors import DataError


class BatchCheck:
    """Checks batches one after the other; remembers a digest and a count.

    Args:
        graph: the model they are meant for.
    """

    def __init__(self, graph: FloatGraph) -> None:
        self.samples = 0
        self._inputs = {value.name: value.type.tensor_type for value in graph.inputs}
        self._digests = {name: hashlib.sha256() for name in self._inputs}
        self._rows: dict[str, str] = {}

    def add(self, batch: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Check one batch, count it and give it back.

        Raises:
            DataError: a missing or unknown input, wrong element type, wrong shape or layout, NaN or infinity.
        """
        if set(batch) != set(self._inputs):
            raise DataError(f"the batch has inputs {sorted(batch)}", mend=self.wanted())
        for name, array in batch.items():
            self._check(name, np.asarray(array))
            self._digests[name].update(np.ascontiguousarray(array).data)
            self._rows[name] = f"{name} {array.dtype} {array.shape[1:]}"
        self.samples += len(next(iter(batch.values())))
        return batch

    def digest(self) -> str:
        """Return the sha256 of everything seen, in order, however it was cut into batches."""
        total = hashlib.sha256()
        for name in sorted(self._rows):
            total.update(f"{self._rows[name]} {self._digests[name].hexdigest()}\n".encode())
        return total.hexdigest()

    def wanted(self) -> str:
        """Return what the model wants, in words."""
        inputs = [
            f"{name!r}: {_dtype(item)} [{', '.join(_dims(item))}]" for name, item in self._inputs.items()
        ]
        return "the model wants " + ", ".join(inputs)

    def _check(self, name: str, array: NDArray[Any]) -> None:
        tensor = self._inputs[name]
        if array.dtype != _dtype(tensor):
            raise DataError(f"input {name!r} is {array.dtype}", where=name, mend=self.wanted())
        shape = _dims(tensor)
        if tensor.HasField("shape") and not _fits(array.shape, shape):
            hint = _layout_hint(array.shape, shape)
            raise DataError(
                f"input {name!r} has shape {list(array.shape)}", where=name, mend=self.wanted() + hint
            )
        if not array.size:
            raise DataError(f"input {name!r} is empty", where=name, mend=self.wanted())
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"input {name!r} holds NaN or infinity", where=name, mend="check how the data is prepared"
            )


def single_inputs(
    graph: FloatGraph, batches: Iterable[Mapping[str, NDArray[Any]]]
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Cut batches into single inputs where the model takes them: their activations fit into caches.

    Args:
        graph: the model they are meant for.
        batches: input name → array [N, …].
    """
    axes = [value.type.tensor_type.shape.dim[:1] for value in graph.inputs]
    free = all(len(first) == 1 and not first[0].HasField("dim_value") for first in axes)
    for batch in batches:
        counts = {len(array) for array in batch.values() if np.ndim(array)}
        if not free or len(counts) != 1:
            yield batch
            continue
        for index in range(counts.pop()):
            yield {name: array[index : index + 1] for name, array in batch.items()}


def _dtype(tensor: onnx.TypeProto.Tensor) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _dims(tensor: onnx.TypeProto.Tensor) -> list[str]:
    """Return the dimensions as text: numbers where they are fixed, names where they are free."""
    dims = tensor.shape.dim
    return [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def _fits(shape: tuple[int, ...], wanted: list[str]) -> bool:
    return len(shape) == len(wanted) > 0 and all(
        str(size) == dim or not dim.isdigit() for size, dim in zip(shape, wanted, strict=True)
    )


def _layout_hint(shape: tuple[int, ...], wanted: list[str]) -> str:
    if len(shape) != 4:
        return ""
    for order, move in ((0, 3, 1, 2), "NHWC to NCHW"), ((0, 2, 3, 1), "NCHW to NHWC"):
        if _fits(tuple(shape[axis] for axis in order), wanted):
            return f"; transpose from {move}"
    return ""
