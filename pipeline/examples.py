"""Labelled images, and how training goes through them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import parallel
from targets.preprocess import Preprocess


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained: SGD with Nesterov momentum, one warm-up-and-cosine cycle, averaged weights.

    Args:
        epochs: passes over the images.
        batch_size: images a step.
        learning_rate: the peak of the cycle.
        weight_decay: L2 on all weights with more than one dimension.
        flip: mirror half of the images.
        shift: move images by up to so many pixels each way.
        average: decay per step of the exponential moving average of the weights.
        clip: longest gradient of all parameters together; a longer one is shortened (Pascanu et al. 2013).
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    flip: bool
    shift: int
    average: float
    clip: float = math.inf


@dataclass(frozen=True)
class Examples:
    """Labelled images as they are stored.

    Args:
        images: [N, H, W, C], possibly memory-mapped.
        labels: [N]; output indices of the network.
        preprocess: from stored images to the network's input.
    """

    images: NDArray[np.generic]
    labels: NDArray[np.int64]
    preprocess: Preprocess

    def tensors(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Network input [n, …] and labels [n] of the given indices."""
        return self._prepare(self.images[indices]), torch.from_numpy(self.labels[indices])

    def steps(self, settings: FitSettings) -> int:
        """Batches an epoch."""
        return max(1, len(self.labels) // settings.batch_size)

    def batches(
        self, settings: FitSettings, rng: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """One shuffled, augmented epoch; a last incomplete batch is left out unless it is the only one.

        Among several processes each gets its part of every batch, and the weight of that part: means over
        parts, weighted so, average to the mean over the batch.
        """
        order = rng.permutation(len(self.labels))
        steps = self.steps(settings)
        for indices in np.array_split(order[: steps * settings.batch_size], steps):
            moves = Moves.draw(len(indices), settings, rng)
            part = slice(parallel.rank(), None, parallel.size())
            mine = indices[part]
            images = moves.apply(self.images[mine], part)
            weight = len(mine) * parallel.size() / len(indices)
            yield self._prepare(images), torch.from_numpy(self.labels[mine]), weight

    def _prepare(self, images: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(self.preprocess(images))


@dataclass(frozen=True)
class Moves:
    """How each of n images is mirrored and moved.

    Args:
        mirrored: [n].
        offsets: [2, n], rows and columns, 0 to 2·shift.
        shift: the offset that leaves an image where it is.
    """

    mirrored: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    shift: int

    @classmethod
    def draw(cls, count: int, settings: FitSettings, rng: np.random.Generator) -> Moves:
        """At random, as far as the settings allow."""
        mirrored = rng.random(count) < 0.5 if settings.flip else np.zeros(count, bool)
        return cls(mirrored, rng.integers(0, 2 * settings.shift + 1, (2, count)), settings.shift)

    def apply(self, images: NDArray[np.generic], part: slice = slice(None)) -> NDArray[np.generic]:
        """Images [m, H, W, C], the given part of the n; what moves in from outside is zero."""
        mirrored, offsets, shift = self.mirrored[part], self.offsets[:, part], self.shift
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        rows = offsets[0][:, None, None] + np.arange(height)[:, None]
        columns = offsets[1][:, None, None] + np.arange(width)
        moved: NDArray[np.generic] = padded[np.arange(len(images))[:, None, None], rows, columns]
        return moved
