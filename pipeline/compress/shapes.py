"""The shapes of a network's layers as functions of how many channels every group keeps.

Read off one trace: which inputs and outputs of a layer belong to which group is Torch-Pruning's dependency
graph; sizes and what runs behind a layer are seen in one forward pass. Whatever a cut network costs can then
be told without cutting it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pipeline.compress.groups import Group
from pipeline.compress.passes import Pass, record_pass
from pipeline.compress.tracing import dependency_graph, losses

# Widths may be arrays of one shape: everything is then told for as many networks at once.
Count = int | NDArray[np.int64]
Widths = Mapping[str, Count]
Kind = Literal["convolution", "transposed convolution", "linear"]


@dataclass(frozen=True)
class Channels:
    """A number of channels, linear in the widths of groups: constant + Σ times · width.

    Args:
        constant: channels of no group.
        terms: (leader of the group, channels here for each of its channels); more than one behind a flatten.
    """

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Widths) -> Count:
        """How many they are when the groups have these widths."""
        return sum((times * widths[leader] for leader, times in self.terms), start=self.constant)

    def times(self, factor: int) -> Channels:
        """As many of them, over and over."""
        return Channels(self.constant * factor, tuple((leader, each * factor) for leader, each in self.terms))


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer.

    Args:
        name: of the module.
        kind: what it is.
        inputs: its input channels or features.
        outputs: its output channels or features.
        kernel: sizes; empty for a linear layer.
        stride: as long as `kernel`.
        dilation: as long as `kernel`.
        padding: on either side, as long as `kernel`.
        groups: of a grouped convolution; 0 for a depthwise one, which has as many as channels.
        passes: every time it runs in one inference.
        bias: it has one.
        normalised: a batch normalisation that alone can be folded into it runs behind it.
    """

    name: str
    kind: Kind
    inputs: Channels
    outputs: Channels
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    passes: tuple[Pass, ...]
    bias: bool
    normalised: bool

    def weights(self, widths: Widths) -> Count:
        """Number of weights, bias not counted."""
        fan_in = 1 if self.groups == 0 else self.inputs.at(widths) // self.groups
        return self.outputs.at(widths) * fan_in * math.prod(self.kernel)

    def macs(self, widths: Widths) -> Count:
        """Multiply-accumulates of one inference."""
        return self.weights(widths) * sum(one.positions for one in self.passes)


@dataclass(frozen=True)
class Shapes:
    """Everything in a network that has a cost.

    Args:
        layers: convolutions and linear layers, in the network's own order.
        others: parameters of everything else (normalisations, PReLU, …) → how many numbers they hold.
        folded: those of them that become part of the layer before them when the network is exported.
        full: leader → width of the group before any cut.
    """

    layers: tuple[LayerShape, ...]
    others: Mapping[str, Channels]
    folded: frozenset[str]
    full: Mapping[str, int]


def find_shapes(network: nn.Module, groups: Sequence[Group], input_shape: Sequence[int]) -> Shapes:
    """Trace a network once.

    Args:
        network: traceable; left as it is, in evaluation mode.
        groups: of `find_groups`.
        input_shape: batch 1 included.
    """
    forms = _forms(network, groups, input_shape)
    seen = record_pass(network, input_shape)
    parts = {name: part for name, part in network.named_modules() if [*part.parameters(recurse=False)]}
    layers = {name: part for name, part in parts.items() if isinstance(part, (_ConvNd, nn.Linear))}
    others = {
        f"{name}.{own}" if name else own: _of_parameter(forms, name, own, values)
        for name, part in parts.items()
        if name not in layers
        for own, values in part.named_parameters(recurse=False)
    }
    folded = frozenset(
        f"{name}.{own}" for name in seen.normalised for own, _ in parts[name].named_parameters(recurse=False)
    )
    return Shapes(
        layers=tuple(
            _layer(name, part, forms, seen.passes.get(name, ()), name in seen.normalised.values())
            for name, part in layers.items()
        ),
        others=others,
        folded=folded,
        full={group.leader: group.width for group in groups},
    )


Forms = Mapping[tuple[str, str], Channels]


def _forms(network: nn.Module, groups: Sequence[Group], input_shape: Sequence[int]) -> Forms:
    """(module, side) → channels, for all that lose channels with a group."""
    graph = dependency_graph(network, input_shape)
    full = {group.leader: group.width for group in groups}
    terms: dict[tuple[str, str], list[tuple[str, int]]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for group in groups:
        for one in losses(graph, network.get_submodule(group.leader)):
            if one.name is None:
                continue
            key = (one.name, "inputs" if one.inputs else "outputs")
            terms.setdefault(key, []).append((group.leader, len(one.channels) // group.width))
            sizes[key] = _size(one.part, key[1])
    return {
        key: Channels(sizes[key] - sum(full[leader] * times for leader, times in own), tuple(own))
        for key, own in terms.items()
    }


def _size(part: nn.Module | Tensor, side: str) -> int:
    """Channels of a layer on one side; of anything else, of its parameters."""
    if isinstance(part, _ConvNd):
        return part.in_channels if side == "inputs" else part.out_channels
    if isinstance(part, nn.Linear):
        return part.in_features if side == "inputs" else part.out_features
    own = [part] if isinstance(part, Tensor) else part.parameters(recurse=False)
    return max(map(_channels_of, own), default=0)


def _of_parameter(forms: Forms, module: str, own: str, values: Tensor) -> Channels:
    """Numbers in a parameter of a normalisation, a PReLU, or one that belongs to no layer."""
    form = forms.get((module, "outputs"), forms.get((f"{module}.{own}" if module else own, "outputs")))
    size = _channels_of(values)
    return Channels(values.numel()) if form is None or size == 1 else form.times(values.numel() // size)


def _channels_of(values: Tensor) -> int:
    """Length of the last dimension that has one: where channels are cut from."""
    return next((length for length in reversed(values.shape) if length > 1), 1)


def _layer(
    name: str, layer: nn.Module, forms: Forms, passes: tuple[Pass, ...], normalised: bool
) -> LayerShape:
    assert isinstance(layer, (_ConvNd, nn.Linear)) and isinstance(layer.weight, Tensor)
    outputs = forms.get((name, "outputs"), Channels(_size(layer, "outputs")))
    inputs = forms.get((name, "inputs"), Channels(_size(layer, "inputs")))
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return LayerShape(name, "linear", inputs, outputs, (), (), (), (), 1, passes, bias, normalised)
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    return LayerShape(
        name=name,
        kind="transposed convolution" if isinstance(layer, _ConvTransposeNd) else "convolution",
        inputs=outputs if depthwise else inputs,
        outputs=outputs,
        kernel=layer.kernel_size,
        stride=layer.stride,
        dilation=layer.dilation,
        padding=_padding(layer),
        groups=0 if depthwise else layer.groups,
        passes=passes,
        bias=bias,
        normalised=normalised,
    )


def _padding(layer: _ConvNd) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        reach = zip(layer.kernel_size, layer.dilation, strict=True)
        return tuple((size - 1) * step // 2 if layer.padding == "same" else 0 for size, step in reach)
    return tuple(layer.padding)
