"""Scatter statistics in one pass: what discriminant information and least squares need of the data.

Every batch is centred on its own mean and joined by the update of Chan, Golub & LeVeque (1983), so that sums
of large numbers are never subtracted, and partial statistics of several workers join to the same result.
Memory is C² + CK + K² numbers whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.cluster import clustered, over_shards
from pipeline.compress.readers import Reader, distinct, watch_inputs

# (logits [N, outputs], labels [N]) → what the features are to explain [N, K]
Targets = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
Item = TypeVar("Item")
Part = TypeVar("Part")
# Columns from which on a product is quicker in two parts.
WIDE = 128
# Batches a worker of a cluster sees at a time.
SHARD = 4


@dataclass
class Scatter:
    """Centred second moments of features X [N, C] and targets Y [N, K], float64.

    Args:
        count: number of samples.
        mean_x: [C].
        mean_y: [K].
        xx: XᵀX [C, C] of the centred features.
        xy: XᵀY [C, K].
        yy: YᵀY [K, K].
    """

    count: float
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, precision: torch.dtype = torch.float64) -> Scatter:
        """Statistics of one batch.

        Args:
            x: [n, C], n ≥ 1.
            y: [n, K].
            precision: of the products within this batch. Once centred they lose little in float32 and take
                half the time; batches are joined in float64 always.
        """
        x, y = x.to(precision), y.to(precision)
        mean_x, mean_y = (part.mean(0, dtype=torch.float64) for part in (x, y))
        x, y = x - mean_x.to(precision), y - mean_y.to(precision)
        return cls(float(len(x)), mean_x, mean_y, gram(x).double(), (x.T @ y).double(), (y.T @ y).double())

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in one more batch; arguments as of `of`."""
        self.merge(Scatter.of(x, y))

    def merge(self, other: Scatter) -> None:
        """Take in the statistics of other samples."""
        count = self.count + other.count
        shift_x, shift_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        factor = self.count * other.count / count
        self.xx.add_(other.xx).addr_(shift_x, shift_x, alpha=factor)
        self.xy.add_(other.xy).addr_(shift_x, shift_y, alpha=factor)
        self.yy.add_(other.yy).addr_(shift_y, shift_y, alpha=factor)
        self.mean_x += shift_x * (other.count / count)
        self.mean_y += shift_y * (other.count / count)
        self.count = count

    def balanced(self) -> Scatter:
        """The same with every target's column scaled to unit norm, so that rare classes weigh as much."""
        norm = self.yy.diagonal().sqrt()
        scale = torch.where(norm > 0, 1.0 / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
        return replace(
            self, mean_y=self.mean_y * scale, xy=self.xy * scale, yy=self.yy * torch.outer(scale, scale)
        )

    def class_counts(self) -> Tensor:
        """Samples of each class [K]; the targets are one-hot labels."""
        return self.mean_y * self.count

    def class_means(self) -> Tensor:
        """Mean features of each class [K, C], of all where it is empty; the targets are one-hot labels."""
        return self.mean_x + (self.xy / self.class_counts().clamp_min(1.0)).T

    def between(self) -> Tensor:
        """Each feature's scatter between classes, Σ_k n_k (m_k − m)² [C]; the targets are one-hot labels."""
        counts = self.class_counts()
        return (self.xy.square() / counts.clamp_min(1.0)).sum(1)

    def within(self) -> Tensor:
        """Each feature's scatter within its classes [C]; the targets are one-hot labels."""
        return (self.xx.diagonal() - self.between()).clamp_min(0.0)


def gram(x: Tensor) -> Tensor:
    """XᵀX [C, C] of X [n, C]; where it is wide, what lies below the diagonal is not computed again."""
    half = x.shape[1] // 2
    if half < WIDE:
        return x.T @ x
    left, right = x[:, :half], x[:, half:]
    across = left.T @ right
    return torch.cat((torch.cat((gram(left), across), 1), torch.cat((across.T, gram(right)), 1)))


def join(into: dict[str, Scatter], name: str, batch: Scatter) -> None:
    """Add a batch's statistics under a name."""
    if name in into:
        into[name].merge(batch)
    else:
        into[name] = batch


def join_all(into: dict[str, Scatter], part: Mapping[str, Scatter]) -> None:
    """Add the statistics of other samples, name by name."""
    for name, scatter in part.items():
        join(into, name, scatter)


def add_to(totals: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add sums over other samples, name by name."""
    for name, each in more.items():
        totals[name] = totals.get(name, 0.0) + each


def one_hot(classes: int) -> Targets:
    """Targets: which class a sample is of [N, classes]."""

    def targets(logits: Tensor, labels: Tensor) -> Tensor:
        del logits
        return functional.one_hot(labels, classes).double()

    return targets


def collect(
    network: nn.Module, readers: Mapping[str, Sequence[Reader]], batches: Batches, targets: Targets
) -> dict[str, Scatter]:
    """Statistics of every group's feature maps against targets, in one pass; on a cluster where there is one.

    Args:
        network: evaluated.
        readers: leader → layers that read the group, of `find_readers`.
        batches: (images, labels), each with at least one image.
        targets: what the features are to explain.

    Returns:
        leader → statistics of the features as `pooled` lays them out.
    """
    found: dict[str, Scatter] = {}
    for part in in_shards(partial(collect_part, network, readers, targets), batches):
        join_all(found, part)
    return found


def in_shards(function: Callable[[Iterable[Item]], Part], items: Iterable[Item]) -> Iterator[Part]:
    """What a function makes of all items; on a cluster what it makes of every `SHARD` of them, in order.

    Args:
        function: makes sums, so that those of shards can be added up to those of all.
        items: batches, or what has one batch each.
    """
    if not clustered():
        yield function(items)
        return
    listed = list(items)
    yield from over_shards(function, [listed[at : at + SHARD] for at in range(0, len(listed), SHARD)])


@torch.no_grad()
def collect_part(
    network: nn.Module, readers: Mapping[str, Sequence[Reader]], targets: Targets, batches: Batches
) -> dict[str, Scatter]:
    """The statistics of some of the images; `join` puts those of several together."""
    found: dict[str, Scatter] = {}
    layers = [reader.layer for group in readers.values() for reader in group]
    network.eval()
    with watch_inputs(network, layers) as inputs:
        for images, labels in batches:
            y = targets(network(images), labels)
            for leader, group in readers.items():
                join(found, leader, Scatter.of(pooled(group, inputs), y))
    return found


def pooled(readers: Sequence[Reader], inputs: Mapping[str, Tensor]) -> Tensor:
    """Feature maps of a group as its readers see them, averaged over positions.

    The columns of each distinct tensor are: the group's channels, then channels of others it was concatenated
    with. Layers that read the same tensor count once.

    Args:
        readers: of one group.
        inputs: layer → its input.

    Returns:
        [N, columns], float64
    """
    parts = []
    for reader in distinct(readers):
        x = reader.average(inputs[reader.layer])
        parts += [x[:, reader.columns].mean(2), x[:, reader.rest]]
    return torch.cat(parts, dim=1).double()


def blocks(readers: Sequence[Reader]) -> Tensor:
    """Which columns of `pooled` go with a channel of the group: [channels, distinct tensors]."""
    found, start = [], 0
    for reader in distinct(readers):
        width = len(reader.columns)
        found.append(torch.arange(start, start + width))
        start += width + len(reader.rest)
    return torch.stack(found, dim=1)
