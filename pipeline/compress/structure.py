"""Which channels stay: what must be cut together, how many for a budget, and the cut itself.

Three things that never mix: *importance* gives every channel a number, *allocation* turns a budget into a
plan, *application* cuts a network by a plan and never looks at importance again. What must be cut together
(residual sums, depthwise pairs, flatten → linear) is Torch-Pruning's dependency graph (Fang et al. 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_pruning
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.compress.cost import count_macs
from targets.errors import ConfigError

PLAN_SCHEMA = "edgewright.plan/1"


class Plan(BaseModel):
    """Which channels stay, layer by layer; printable JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(default=PLAN_SCHEMA, alias="schema")
    keep: dict[str, list[int]] = Field(description="layer that leads a group → output channels that stay")
    widths: dict[str, int] = Field(description="layer that leads a group → output channels before")
    macs_before: int
    macs_after: int

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what `save` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


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
        groups.append(Group(leader, _width(network.get_submodule(leader)), tuple(dict.fromkeys(members))))
    return sorted(groups, key=lambda group: list(names.values()).index(group.leader))


def l1_importance(network: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Importance of every channel: L1 norm of its filters, summed over the group (Li et al. 2017)."""
    scores = {}
    for group in groups:
        weights = [network.get_submodule(name).weight for name in group.members]
        scores[group.leader] = torch.stack(
            [weight.detach().abs().flatten(1).sum(1) for weight in weights if isinstance(weight, Tensor)]
        ).sum(0)
    return scores


def plan_uniform(
    network: nn.Module,
    input_shape: Sequence[int],
    importance: Mapping[str, Tensor],
    groups: Sequence[Group],
    *,
    macs: int,
    alignment: int,
    minimum: int,
) -> Plan:
    """Cut every group to about the same share of its width, as wide as the budget allows.

    All groups start at their narrowest; again and again the one that has the least share of its width
    gets one more step, until no step fits.

    Args:
        network: the network to be cut; left as it is.
        input_shape: batch 1 included.
        importance: leader → one number a channel; the highest stay.
        groups: of `find_groups`.
        macs: multiply-accumulates the cut network may cost.
        alignment: widths are multiples of it where the layer is wide enough.
        minimum: channels no group goes below.

    Raises:
        ConfigError: even the narrowest network costs more; the message says how much.
    """

    def cost(widths: Mapping[str, int]) -> int:
        keep = {leader: list(range(width)) for leader, width in widths.items()}
        return count_macs(_cut(copy.deepcopy(network), keep, input_shape), input_shape)

    full = {group.leader: group.width for group in groups}
    floor = -(-max(alignment, minimum) // alignment) * alignment
    widths = {leader: min(width, floor) for leader, width in full.items()}
    before, spent = count_macs(network, input_shape), cost(widths)
    if spent > macs:
        raise ConfigError(
            f"no network this small exists: the smallest reachable costs {spent:,} multiply-accumulates, "
            f"{spent / before:.1%} of the teacher's {before:,}",
            where="student.macs",
            mend=f"set student.macs to at least {spent / before:.4f}, or lower student.minimum_width",
        )
    growing = {leader for leader in full if widths[leader] < full[leader]}
    while growing:
        leader = min(sorted(growing), key=lambda name: widths[name] / full[name])
        wider = widths | {leader: min(full[leader], widths[leader] + alignment)}
        wider_cost = cost(wider)
        if wider_cost <= macs:
            widths, spent = wider, wider_cost
        if wider_cost > macs or widths[leader] == full[leader]:
            growing.remove(leader)
    keep = {leader: _top(importance[leader], width) for leader, width in widths.items()}
    return Plan(keep=keep, widths=full, macs_before=before, macs_after=spent)


def apply(network: nn.Module, plan: Plan, input_shape: Sequence[int]) -> nn.Module:
    """Cut a network in place: layers become physically narrower, no masks stay behind.

    Args:
        network: of the structure the plan was made for.
        plan: which channels stay.
        input_shape: batch included.
    """
    return _cut(network, plan.keep, input_shape)


def _cut(network: nn.Module, keep: Mapping[str, list[int]], input_shape: Sequence[int]) -> nn.Module:
    graph = dependency_graph(network, input_shape)
    for leader, channels in keep.items():
        layer = network.get_submodule(leader)
        gone = sorted(set(range(_width(layer))) - set(channels))
        if gone:
            graph.get_pruning_group(layer, _cutting(layer), gone).prune()
    return network


def _ties_channels(layer: nn.Module) -> bool:
    """Grouped convolutions need the same number of channels in every group; only depthwise ones are cut."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.out_channels


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


def _cutting(layer: nn.Module) -> object:
    linear = isinstance(layer, nn.Linear)
    return torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def last_layer(network: nn.Module) -> nn.Module:
    """The layer that gives the outputs and is never cut."""
    return [part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Linear))][-1]


def _width(layer: nn.Module) -> int:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.shape[0]


def _top(scores: Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())
