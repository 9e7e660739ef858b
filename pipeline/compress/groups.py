"""Which channels hang together: groups of layers that can only be cut as one.

What must be cut together (residual sums, depthwise pairs, flatten → linear) is Torch-Pruning's dependency
graph (Fang et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Layers whose output channels can only be cut together.

    Args:
        leader: name of the layer the group is known by.
        width: its output channels.
        members: names of all layers that lose output channels with it.
    """

    leader: str
    width: int
    members: tuple[str, ...]


def find_groups(network: nn.Module, input_shape: Sequence[int]) -> list[Group]:
    """The groups of channels that can be cut, in the network's own order.

    Channels that a grouped convolution ties together stay whole.

    Args:
        network: traceable; its last layer, which gives the outputs, is never cut.
        input_shape: batch included.
    """
    names = {module: name for name, module in network.named_modules()}
    groups = []
    for group in dependency_graph(network, input_shape).get_all_groups(
        ignored_layers=[last_layer(network)], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        if any(_ties_channels(item.dep.target.module) for item in group):
            continue
        members = [
            names[item.dep.target.module]
            for item in group
            if item.dep.handler.__name__ == "prune_out_channels"
            and isinstance(item.dep.target.module, (nn.Conv2d, nn.Linear))
        ]
        leader = min(members, key=list(names.values()).index)
        groups.append(Group(leader, width(network.get_submodule(leader)), tuple(dict.fromkeys(members))))
    return sorted(groups, key=lambda group: list(names.values()).index(group.leader))


def dependency_graph(network: nn.Module, input_shape: Sequence[int]) -> torch_pruning.DependencyGraph:
    """Which layers' channels hang together; the network is left in evaluation mode."""
    network.eval()
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    # The graph is read off autograd's: a frozen network would seem to have no channels that can be cut.
    with torch.enable_grad():
        for parameter in frozen:
            parameter.requires_grad_()
        graph = torch_pruning.DependencyGraph().build_dependency(
            network, example_inputs=torch.zeros(tuple(input_shape), device=_device(network))
        )
    for parameter in frozen:
        parameter.requires_grad_(False)
    return graph


def last_layer(network: nn.Module) -> nn.Module:
    """The layer that gives the outputs and is never cut."""
    return [part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Linear))][-1]


def width(layer: nn.Module) -> int:
    """Output channels of a convolution or linear layer."""
    assert isinstance(layer.weight, Tensor)
    return layer.weight.shape[0]


def _ties_channels(layer: nn.Module) -> bool:
    """Grouped convolutions need the same number of channels in every group; only depthwise ones are cut."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.out_channels


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
