"""Which channels hang together: groups of layers that can only be cut as one, and layers that stay whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from pipeline.compress.tracing import Loss, dependency_graph, has_weight, losses, mixes, width
from pipeline.compress.trial import objection

__all__ = ["Group", "Survey", "Uncut", "dependency_graph", "find_groups", "find_uncut", "survey", "width"]

LEADING = (nn.Conv2d, nn.Linear)
LAYERS = (_ConvNd, nn.Linear)
# What computes every channel by itself, or mixes them by weights that can be cut.
SEPARABLE = (*LAYERS, _BatchNorm, _InstanceNorm, nn.PReLU)
TOGETHER = (nn.LayerNorm, nn.GroupNorm)

Losses = Mapping[str, Sequence[Loss]]


@dataclass(frozen=True)
class Group:
    """Layers whose output channels can only be cut together.

    Args:
        leader: name of the layer the group is known by.
        width: its output channels.
        members: names of the convolutions and linear layers with the same output channels, the leader among
            them.
    """

    leader: str
    width: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Uncut:
    """A layer that keeps all its output channels.

    Args:
        layer: its name.
        reason: why, to be read behind the name.
    """

    layer: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What of a network can be cut: every convolution and linear layer is in a group or uncut."""

    groups: list[Group]
    uncut: list[Uncut]


def find_groups(network: nn.Module, input_shape: Sequence[int]) -> list[Group]:
    """The groups of channels that can be cut, in the network's own order; see `survey`."""
    return survey(network, input_shape).groups


def find_uncut(network: nn.Module, input_shape: Sequence[int]) -> list[Uncut]:
    """The layers that keep all their channels, and why; see `survey`."""
    return survey(network, input_shape).uncut


def survey(network: nn.Module, input_shape: Sequence[int]) -> Survey:
    """Find what can be cut, and try it.

    What hangs together is taken from the dependency graph; a group is believed only if a network it is cut
    from obeys the law of `trial`, together with all other groups.

    Args:
        network: traceable, takes one tensor; left in evaluation mode. Its weights do not matter.
        input_shape: batch included.

    Raises:
        ModelError: the network does not run on such an input, or cannot be traced.
    """
    order = [name for name, part in network.named_modules() if isinstance(part, LAYERS)]
    found = _candidates(network, input_shape)
    doubts = {leader: _doubt(lost) for leader, lost in found.items()}
    sound = {leader: found[leader] for leader in order if leader in doubts and doubts[leader] is None}
    kept, failed = _tried(network, input_shape, {}, sound)
    cut = {name for lost in kept.values() for name in _writers(lost)}
    why = {
        name: reason
        for leader, reason in reversed((doubts | failed).items())
        if reason is not None
        for name in _writers(found[leader])
    }
    uncut = [Uncut(name, why.get(name, _unled(network, name))) for name in order if name not in cut]
    return Survey([_group(leader, lost) for leader, lost in kept.items()], uncut)


def _candidates(network: nn.Module, input_shape: Sequence[int]) -> dict[str, Sequence[Loss]]:
    """Leader → what goes with its channels. Of layers that hang together the widest leads, then the first."""
    graph = dependency_graph(network, input_shape)
    leading = [
        (name, part)
        for name, part in network.named_modules()
        if isinstance(part, LEADING) and part in graph.module2node
    ]
    found: dict[str, Sequence[Loss]] = {}
    met: set[str] = set()
    for name, part in sorted(leading, key=lambda one: -width(one[1])):
        if name not in met:
            found[name] = losses(graph, part)
            met.update(_writers(found[name]))
    return found


def _tried(
    network: nn.Module, input_shape: Sequence[int], sure: Losses, doubtful: Losses
) -> tuple[dict[str, Sequence[Loss]], dict[str, str]]:
    """The groups that can be cut together with those one is sure of, and what speaks against the others."""
    reason = objection(network, input_shape, {**sure, **doubtful}) if doubtful else None
    if reason is None:
        return {**sure, **doubtful}, {}
    if len(doubtful) == 1:
        return dict(sure), dict.fromkeys(doubtful, reason)
    half = len(doubtful) // 2
    some, failed = _tried(network, input_shape, sure, dict(list(doubtful.items())[:half]))
    more, failed_too = _tried(network, input_shape, some, dict(list(doubtful.items())[half:]))
    return more, failed | failed_too


def _doubt(lost: Sequence[Loss]) -> str | None:
    """What speaks against cutting a group before it is tried."""
    if any(one.last and not one.inputs for one in lost):
        return "gives the network's outputs"
    tied = next(filter(None, map(_tie, lost)), None)
    if tied is not None:
        return tied
    width = len(lost[0].channels)
    partly = next((one.name for one in lost if one.name is not None and one.columns(width) is None), None)
    if partly is not None:
        return f"{partly} has only some of its channels, so what a cut costs would depend on which of them go"
    if not any(one.inputs and mixes(one.part) for one in lost):
        return "no convolution or linear layer reads its channels, so what they are worth cannot be told"
    return None


def _tie(one: Loss) -> str | None:
    """Why a layer's channels cannot go one by one."""
    part, kind = one.part, type(one.part).__name__
    if one.available is not None and max(one.channels) >= one.available:
        return f"{one.name} has fewer channels, to which these are moved in a way that cannot be followed"
    if isinstance(part, LAYERS) and not has_weight(part):
        return f"the weight of {one.name} is computed from other parameters"
    if isinstance(part, _ConvNd) and part.groups > 1 and not _depthwise(part):
        return f"{one.name} is a convolution of {part.groups} groups, each of which needs as many channels"
    if isinstance(part, TOGETHER):
        return f"{one.name} ({kind}) normalises its channels together, so the others would change"
    if isinstance(part, nn.MultiheadAttention):
        return f"{one.name} divides its channels among {part.num_heads} heads"
    if one.name is not None and not isinstance(part, (*SEPARABLE, Tensor)):
        return f"{one.name} is a {kind}, which cannot be cut"
    return None


def _depthwise(part: _ConvNd) -> bool:
    return part.groups == part.in_channels == part.out_channels


def _group(leader: str, lost: Sequence[Loss]) -> Group:
    members = [
        one.name
        for one in lost
        if one.name is not None and isinstance(one.part, LEADING) and not one.inputs
        if one.channels == one.roots
    ]
    return Group(leader, len(lost[0].channels), tuple(dict.fromkeys(members)))


def _writers(lost: Sequence[Loss]) -> list[str]:
    return [
        one.name for one in lost if one.name is not None and isinstance(one.part, LAYERS) and not one.inputs
    ]


def _unled(network: nn.Module, name: str) -> str:
    """Why a layer that no group leads to stays whole."""
    part = network.get_submodule(name)
    if isinstance(part, LEADING):
        return "does not run, or is no module of its own in the forward pass"
    return f"is a {type(part).__name__}; only Conv2d and Linear layers lead a group"
