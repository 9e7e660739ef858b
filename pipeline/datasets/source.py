"""What every data set offers: labelled images that can be read piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.generic]


class Source(Protocol):
    """Labelled images that can be read piece by piece."""

    @property
    def name(self) -> str:
        """Name of the data set."""
        ...

    @property
    def origin(self) -> str:
        """Where it came from."""
        ...

    @property
    def licence(self) -> str:
        """Of the data."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels [N]."""
        ...

    @property
    def own_test(self) -> int:
        """Images at the end that the data set itself keeps for testing."""
        ...

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the given indices: [n, H, W, C], uint8 or float32."""
        ...


@dataclass(frozen=True)
class Labelled:
    """What a `Source` says besides its images."""

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    own_test: int


@dataclass(frozen=True)
class ArraySource(Labelled):
    """Images held as one array [N, H, W, C]."""

    images: Images

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the given indices."""
        return self.images[indices]
