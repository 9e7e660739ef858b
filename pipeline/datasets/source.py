"""What every data set offers: images, labelled or not, that can be read piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.generic]


class Source(Protocol):
    """Images that can be read piece by piece, and what is known of them."""

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
        """Class names in label order; those of the network's outputs where there are no labels."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels [N], or None where the data has none."""
        ...

    @property
    def own_test(self) -> int:
        """Images at the end that the data set itself keeps for testing."""
        ...

    def __len__(self) -> int:
        """Number of images N."""
        ...

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the given indices: [n, H, W, C], uint8 or float32."""
        ...


@dataclass(frozen=True)
class Description:
    """What a `Source` says besides its images."""

    name: str
    origin: str
    licence: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64] | None
    own_test: int


@dataclass(frozen=True)
class ArraySource(Description):
    """Images held as one array [N, H, W, C]."""

    images: Images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def read(self, indices: NDArray[np.int64]) -> Images:
        """Images of the given indices."""
        return self.images[indices]
