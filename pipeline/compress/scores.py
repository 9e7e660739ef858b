"""What scoring found: for every group of channels the order they can go in; printable JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.compress.discriminant import Removal
from pipeline.compress.groups import Group

SCORES_SCHEMA = "edgewright.scores/1"


class GroupScores(BaseModel):
    """One group of layers whose channels can only be cut together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    leader: str = Field(description="layer the group is known by")
    members: list[str] = Field(description="all layers that lose output channels with it")
    order: list[int] = Field(description="all channels, the one to go first in front")
    lost: list[float] = Field(description="what is lost in all after each removal, in the criterion's unit")
    total: float = Field(description="the criterion's value with all channels")

    @classmethod
    def of(cls, group: Group, removal: Removal) -> GroupScores:
        """A group and the order a criterion gave it."""
        return cls(
            leader=group.leader,
            members=list(group.members),
            order=list(removal.order),
            lost=list(removal.lost),
            total=removal.total,
        )

    def removal(self) -> Removal:
        """The order as criteria give it."""
        return Removal(tuple(self.order), tuple(self.lost), self.total)


class UncutLayer(BaseModel):
    """A layer that is left whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: str
    reason: str


class Scores(BaseModel):
    """All groups of a network."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: str = Field(default=SCORES_SCHEMA, alias="schema")
    criterion: str
    groups: list[GroupScores]
    uncut: list[UncutLayer] = Field(default=[], description="layers that are left whole, and why")
    warnings: list[str] = Field(default=[], description="what makes the order less sure")

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
