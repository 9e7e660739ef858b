"""A plan says which channels stay; applying it cuts a network, and never looks at importance again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pipeline.compress.blocks import OneLayer, replace_blocks
from pipeline.compress.tracing import dependency_graph, remove, width

PLAN_SCHEMA = "edgewright.plan/1"


class PlannedCost(BaseModel):
    """What was budgeted, in the unit of its kind: counts, bytes or milliseconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["macs", "parameters", "bytes", "latency_ms"]
    limit: float = Field(description="the budget")
    before: float = Field(description="of the network uncut")
    predicted: float = Field(description="of the network cut")


class Plan(BaseModel):
    """Which channels stay, layer by layer; printable JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(default=PLAN_SCHEMA, alias="schema")
    keep: dict[str, list[int]] = Field(description="layer that leads a group → output channels that stay")
    widths: dict[str, int] = Field(description="layer that leads a group → output channels before")
    macs_before: int
    macs_after: int
    allocation: Literal["uniform", "information"] = "uniform"
    cost: PlannedCost | None = Field(default=None, description="none in a plan made by hand")
    replaced: dict[str, OneLayer] = Field(
        default_factory=dict, description="blocks that one layer stands for, before anything is cut"
    )
    lost: dict[str, float] = Field(
        default_factory=dict, description="leader → share of the criterion the group loses"
    )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what `save` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def apply(network: nn.Module, plan: Plan, input_shape: Sequence[int]) -> nn.Module:
    """Cut a network in place: blocks give way to their stand-ins, layers become physically narrower.

    Args:
        network: of the structure the plan was made for.
        plan: which channels stay.
        input_shape: batch included.
    """
    return cut(replace_blocks(network, plan.replaced), plan.keep, input_shape)


def cut(network: nn.Module, keep: Mapping[str, list[int]], input_shape: Sequence[int]) -> nn.Module:
    """Cut a network in place to the channels named, leader → channels that stay."""
    graph = dependency_graph(network, input_shape)
    for leader, channels in keep.items():
        layer = network.get_submodule(leader)
        gone = sorted(set(range(width(layer))) - set(channels))
        if gone:
            remove(graph, layer, gone)
    return network
