"""Inputs of a network, cut into batches that are prepared when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def as_they_are(values: NDArray[Any]) -> NDArray[Any]:
    """Prepare nothing."""
    return values


@dataclass(frozen=True)
class PreparedBatches(Sequence[Arrays]):
    """Batches of one size; a few inputs at the end that fill none are left out.

    Args:
        arrays: input name → [N, …] as stored, of the same N; memory-mapped ones stay on disk.
        size: inputs of a batch.
        rows: which inputs, in order; None for all.
        prepare: from stored values to what the network takes.
    """

    arrays: Arrays
    size: int
    rows: NDArray[np.intp] | None = None
    prepare: Callable[[NDArray[Any]], NDArray[Any]] = as_they_are

    @property
    def inputs(self) -> int:
        """Number of inputs in all batches."""
        return len(self) * self.size

    def __len__(self) -> int:
        """Number of batches."""
        rows = len(next(iter(self.arrays.values()))) if self.rows is None else len(self.rows)
        return rows // self.size

    def cut(self, batches: int) -> list[PreparedBatches]:
        """Parts of at most so many batches, which hold the same ones in the same order."""
        rows = np.arange(self.inputs) if self.rows is None else self.rows[: self.inputs]
        step = batches * self.size
        return [replace(self, rows=rows[start : start + step]) for start in range(0, len(rows), step)]

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: of arrays on disk their files, not what is in them."""
        arrays = {name: _file_of(array) or array for name, array in self.arrays.items()}
        return self.__dict__ | {"arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open those files again."""
        state["arrays"] = {
            name: np.load(array, mmap_mode="r") if isinstance(array, Path) else array
            for name, array in state["arrays"].items()
        }
        self.__dict__.update(state)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...

    @overload
    def __getitem__(self, index: slice) -> list[Arrays]: ...

    def __getitem__(self, index: int | slice) -> Arrays | list[Arrays]:
        """One batch, input name → [size, …], or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = index * self.size, (index + 1) * self.size
        chosen = slice(start, end) if self.rows is None else self.rows[start:end]
        return {name: self.prepare(array[chosen]) for name, array in self.arrays.items()}


def _file_of(array: NDArray[Any]) -> Path | None:
    """The .npy file a memory-mapped array is the whole of."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return None
    path = Path(array.filename)
    return path if path.stat().st_size == array.offset + array.nbytes else None
