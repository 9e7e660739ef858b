"""Who reads a group's channels: the layers that mix them, and where in their inputs the channels lie.

What a channel is worth shows where it is read: behind batch normalisation, activation and residual sum. So
all statistics are taken at the inputs of the readers. Which columns carry a channel (flatten and
concatenation move them) comes from Torch-Pruning's dependency graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.compress.groups import Group
from pipeline.compress.tracing import Loss, blank, dependency_graph, losses, mixes
from targets.errors import ModelError

Taken = TypeVar("Taken")


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer that mixes a group's channels.

    Args:
        layer: its name.
        columns: [channels, m]; input channels that carry each channel of the group; m > 1 behind a flatten.
        rest: the input channels of others.
        source: index of the tensor it reads among the distinct ones the group is read as.
        linear: channels are the input's last dimension, not its second.
    """

    layer: str
    columns: Tensor
    rest: Tensor
    source: int
    linear: bool

    def average(self, x: Tensor) -> Tensor:
        """An input of the layer averaged over positions: [N, input channels]."""
        if self.linear:
            return x.reshape(len(x), -1, x.shape[-1]).mean(1)
        return x.flatten(2).mean(2)

    def total(self, x: Tensor) -> Tensor:
        """A tensor shaped as the layer's input, summed over positions and columns: [N, channels]."""
        summed = x.reshape(len(x), -1, x.shape[-1]).sum(1) if self.linear else x.flatten(2).sum(2)
        return summed[:, self.columns].sum(2)


def find_readers(
    network: nn.Module, groups: Sequence[Group], input_shape: Sequence[int]
) -> dict[str, tuple[Reader, ...]]:
    """The layers that read each group.

    Depthwise convolutions do not mix channels and are part of the group. A layer that reads only some of the
    group's channels is not listed; `find_groups` gives only groups that some layer reads whole.

    Args:
        network: traceable.
        groups: of `find_groups`.
        input_shape: batch included.

    Raises:
        ModelError: no layer reads a group as a whole.
    """
    graph = dependency_graph(network, input_shape)
    found: dict[str, tuple[Reader, ...]] = {}
    for group in groups:
        lost = losses(graph, network.get_submodule(group.leader))
        readers = (_reader(one, group.width) for one in lost if one.inputs)
        found[group.leader] = tuple(reader for reader in readers if reader is not None)
        if not found[group.leader]:
            raise ModelError(
                "no convolution or linear layer reads these channels, so what they are worth cannot be told",
                where=group.leader,
            )
    return _with_sources(network, found, input_shape)


def distinct(readers: Sequence[Reader]) -> list[Reader]:
    """The first reader of each distinct tensor."""
    return list({reader.source: reader for reader in reversed(readers)}.values())[::-1]


@contextmanager
def watch_inputs(network: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary with the layers' inputs at every pass: copies, which nothing writes over later."""
    with _watch(network, layers, Tensor.clone) as inputs:
        yield inputs


@contextmanager
def _watch(
    network: nn.Module, layers: Iterable[str], take: Callable[[Tensor], Taken]
) -> Iterator[dict[str, Taken]]:
    taken: dict[str, Taken] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            del layer
            taken[name] = take(given[0])

        return network.get_submodule(name).register_forward_pre_hook(hook)

    handles = [keep(name) for name in dict.fromkeys(layers)]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _reader(one: Loss, width: int) -> Reader | None:
    columns = one.columns(width)
    if one.name is None or columns is None or not mixes(one.part):
        return None
    others = set(range(one.part.weight.shape[1])) - set(columns.flatten().tolist())
    rest = torch.tensor(sorted(others), dtype=torch.long)
    return Reader(one.name, columns, rest, 0, isinstance(one.part, nn.Linear))


@torch.no_grad()
def _with_sources(
    network: nn.Module, found: Mapping[str, tuple[Reader, ...]], input_shape: Sequence[int]
) -> dict[str, tuple[Reader, ...]]:
    """Number the distinct tensors of each group, and put its readers into the order they run in."""
    layers = [reader.layer for group in found.values() for reader in group]
    with _watch(network, layers, lambda x: (x, x._version)) as read:
        network(blank(network, input_shape))
    # What was written over in between is another tensor, though the same object.
    tensor = {layer: (id(x), version) for layer, (x, version) in read.items()}
    order = list(read)
    placed = {}
    for leader, group in found.items():
        ran = sorted(group, key=lambda reader: order.index(reader.layer))
        sources = list(dict.fromkeys(tensor[reader.layer] for reader in ran))
        placed[leader] = tuple(replace(reader, source=sources.index(tensor[reader.layer])) for reader in ran)
    return placed
