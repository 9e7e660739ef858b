"""Who reads a group's channels: the layers that mix them, and where in their inputs the channels lie.

What a channel is worth shows where it is read: behind batch normalisation, activation and residual sum. So
all statistics are taken at the inputs of the readers. Which columns carry a channel (flatten and
concatenation move them) comes from Torch-Pruning's dependency graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.compress.groups import Group, dependency_graph, last_layer
from targets.errors import ModelError


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
    group's channels is not listed.

    Args:
        network: traceable.
        groups: of `find_groups`.
        input_shape: batch included.

    Raises:
        ModelError: no layer reads a group as a whole.
    """
    names = {module: name for name, module in network.named_modules()}
    widths = {group.leader: group.width for group in groups}
    found: dict[str, tuple[Reader, ...]] = {}
    for items in dependency_graph(network, input_shape).get_all_groups(
        ignored_layers=[last_layer(network)], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        writers = {names.get(item.dep.target.module): item.root_idxs for item in items if _writes(item)}
        leader = next((name for name in widths if name in writers), None)
        if leader is None:
            continue
        index = {root: channel for channel, root in enumerate(writers[leader])}
        readers = [
            _reader(names[item.dep.target.module], item, index)
            for item in items
            if item.dep.handler.__name__ == "prune_in_channels" and _mixes(item.dep.target.module)
        ]
        found[leader] = tuple(reader for reader in readers if reader is not None)
    for leader in widths:
        if not found.get(leader):
            raise ModelError(
                "no convolution or linear layer reads these channels, so what they are worth cannot be told",
                where=leader,
            )
    return _with_sources(network, found, list(widths), input_shape)


def distinct(readers: Sequence[Reader]) -> list[Reader]:
    """The first reader of each distinct tensor."""
    return list({reader.source: reader for reader in reversed(readers)}.values())[::-1]


@contextmanager
def watch_inputs(network: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary with the layers' inputs at every forward pass."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            del layer
            inputs[name] = given[0]

        return network.get_submodule(name).register_forward_pre_hook(hook)

    handles = [keep(name) for name in dict.fromkeys(layers)]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _writes(item: object) -> bool:
    dep = item.dep  # type: ignore[attr-defined]
    return dep.handler.__name__ == "prune_out_channels" and isinstance(
        dep.target.module, (nn.Conv2d, nn.Linear)
    )


def _mixes(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1
    return isinstance(layer, nn.Linear)


def _reader(name: str, item: object, index: Mapping[int, int]) -> Reader | None:
    layer, columns, roots = item.dep.target.module, item.idxs, item.root_idxs  # type: ignore[attr-defined]
    where: list[list[int]] = [[] for _ in index]
    for column, root in zip(columns, roots, strict=True):
        if root in index:
            where[index[root]].append(column)
    if len({len(one) for one in where}) != 1 or not where[0]:
        return None
    linear = isinstance(layer, nn.Linear)
    mine = {column for one in where for column in one}
    others = [column for column in range(layer.weight.shape[1]) if column not in mine]
    return Reader(name, torch.tensor(where), torch.tensor(others, dtype=torch.long), 0, linear)


@torch.no_grad()
def _with_sources(
    network: nn.Module,
    found: Mapping[str, tuple[Reader, ...]],
    leaders: Sequence[str],
    input_shape: Sequence[int],
) -> dict[str, tuple[Reader, ...]]:
    """Number the distinct tensors of each group, and put its readers into the order they run in."""
    placed = {}
    device = next(network.parameters()).device
    with watch_inputs(network, [reader.layer for group in found.values() for reader in group]) as inputs:
        network(torch.zeros(tuple(input_shape), device=device))
        order = list(inputs)
        for leader in leaders:
            ran = sorted(found[leader], key=lambda reader: order.index(reader.layer))
            tensors = list(dict.fromkeys(id(inputs[reader.layer]) for reader in ran))
            placed[leader] = tuple(
                replace(reader, source=tensors.index(id(inputs[reader.layer]))) for reader in ran
            )
    return placed
