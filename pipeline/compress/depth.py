"""Depth beside width: blocks that one layer can stand for are replaced before widths are chosen."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pipeline.compress.blocks import OneLayer, put
from pipeline.compress.scatter import Batches
from pipeline.compress.standins import Site, start, train_locally
from pipeline.fit import Examples, accuracy

DEPTH_SCHEMA = "edgewright.depth/1"


class Tried(BaseModel):
    """One block in its turn, all accepted before it replaced already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: str
    accuracy: float = Field(description="on the select split, with this block replaced as well")
    accepted: bool


class Depth(BaseModel):
    """Which blocks are replaced; printable JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(default=DEPTH_SCHEMA, alias="schema")
    replaced: dict[str, OneLayer] = Field(description="name of a block → what stands in for it")
    accuracy: float = Field(description="of the network as it was, on the select split")
    tried: list[Tried] = Field(description="in the order they were tried, least critical first")

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Depth:
        """Read what `save` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def choose_depth(
    network: nn.Module,
    blocks: Mapping[str, OneLayer],
    order: Sequence[str],
    recorded: Batches,
    local: Batches,
    select: Examples,
    *,
    tolerance: float,
    seed: int = 0,
) -> tuple[nn.Module, Depth]:
    """Replace blocks one after another, as long as all together lose no more than is allowed.

    Replacements do not add up, so each is fitted on what the network with all those before it gives, against
    what the block gave in the network as it was, and measured with them. One that loses too much is left out,
    and the next is tried.

    Args:
        network: as it is; left so.
        blocks: what could take the place of each.
        order: blocks, the least critical first (`triage.by_price`).
        recorded: batches that least squares looks at.
        local: batches of the local training, each one step.
        select: images accuracies are measured on.
        tolerance: accuracy that may be lost in all.
        seed: of all draws.

    Returns:
        the network with what was accepted, and what that was.
    """
    whole = accuracy(network, select)
    shallow, replaced, tried = copy.deepcopy(network), {}, []
    for name in order:
        layer = blocks[name].build()
        site = Site(network, name, before=shallow)
        start(layer, "least-squares", site, recorded, seed)
        train_locally([layer], site, local)
        trial = copy.deepcopy(shallow)
        put(trial, name, layer)
        reached = accuracy(trial, select)
        accepted = whole - reached <= tolerance
        tried.append(Tried(block=name, accuracy=reached, accepted=accepted))
        if accepted:
            shallow, replaced[name] = trial, blocks[name]
    return shallow, Depth(replaced=replaced, accuracy=whole, tried=tried)
