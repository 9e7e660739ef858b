"""sweep.toml: typed and validated. Its JSON schema is published as docs/schema/sweep-file.schema.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from pipeline.config.load import explain, read_toml
from pipeline.config.section import Count, Section

Objective = Literal["accuracy", "latency_ms", "size_bytes"]
Overrides = dict[str, Any]
# A point's own name and folder; a sweep gives them.
OWN = ("project.name", "project.output")


class SweepSection(Section):
    """What is swept."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="lower case, used in file names")
    build: str = Field(default="build.toml", description="the build file every point starts from")
    output: str = Field(default="out-sweep", description="folder for the report and each point's results")


class Axis(Section):
    """One thing that differs between points: values of one key, named sets of keys, or a range to search."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="as in the report's table")
    key: str | None = Field(default=None, description='dotted key of build.toml, as in "student.macs"')
    values: list[Any] | None = Field(default=None, min_length=1, description="of the key")
    choices: dict[str, Overrides] | None = Field(
        default=None, min_length=1, description="name → dotted keys and their values"
    )
    low: FiniteFloat | None = Field(default=None, description="of the key; only in a search")
    high: FiniteFloat | None = Field(default=None, description="of the key; only in a search")
    log: bool = Field(default=False, description="search the range on a logarithmic scale")
    integer: bool = Field(default=False, description="the range holds whole numbers alone")

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        ranged = self.low is not None or self.high is not None
        if (self.values is not None) + (self.choices is not None) + ranged != 1:
            raise ValueError("give either values, choices, or low and high")
        if (self.choices is None) != (self.key is not None):
            raise ValueError("key goes with values, or with low and high; choices name their own keys")
        if ranged and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("low and high go together, low below high")
        if (self.log or self.integer) and not ranged:
            raise ValueError("log and integer go with low and high")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError("a logarithmic range starts above 0")
        return self

    @model_validator(mode="after")
    def _labels(self) -> Axis:
        if self.values is not None and len(self.labelled) < len(self.values):
            raise ValueError("values that are written alike: name them by choices instead")
        for key in (self.key, *(key for each in (self.choices or {}).values() for key in each)):
            if key in OWN:
                raise ValueError(f"{key} is the sweep's own to set")
        return self

    @property
    def ranged(self) -> bool:
        """Whether it is a range, which only a search can draw from."""
        return self.low is not None

    @property
    def labelled(self) -> dict[str, Overrides]:
        """Label → what it sets; nothing for a range."""
        if self.choices is not None:
            return dict(self.choices)
        return {label_of(value): {self.key or "": value} for value in self.values or ()}


class SearchSection(Section):
    """A search for the best trade-offs in place of the whole grid."""

    trials: Count = Field(description="points in all; raise it to go on")
    objectives: list[Objective] = Field(
        default=["accuracy", "latency_ms", "size_bytes"], min_length=1, description="what is traded off"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the search")
    storage: str = Field(
        default="search.journal",
        description="a file below the output folder, or sqlite:///… or another database's address",
    )

    @model_validator(mode="after")
    def _distinct(self) -> SearchSection:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("an objective is named twice")
        return self


class SweepFile(Section):
    """All of sweep.toml."""

    sweep: SweepSection
    axes: list[Axis] = Field(min_length=1)
    search: SearchSection | None = None

    @model_validator(mode="after")
    def _together(self) -> SweepFile:
        names = [axis.name for axis in self.axes]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"axes named twice: {', '.join(repeated)}")
        ranges = [axis.name for axis in self.axes if axis.ranged]
        if ranges and self.search is None:
            raise ValueError(
                f"a grid has no end along {', '.join(ranges)}: give values, or add [search] with trials = …"
            )
        return self


def load_sweep(path: Path) -> SweepFile:
    """Read and validate a sweep file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key or a wrong value.
    """
    document = read_toml(path, "sweep file", "docs/sweep.md shows how to write one")
    try:
        return SweepFile.model_validate(document)
    except ValidationError as error:
        raise explain(
            error, path, SweepFile, "sweep file", "correct these keys; docs/sweep.md lists every key"
        ) from error


def json_schema() -> Mapping[str, Any]:
    """The JSON schema of sweep files."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **SweepFile.model_json_schema()}


def label_of(value: Any) -> str:
    """A value as a part of a name: `fp32-int8` for a list, `0.25` for a number."""
    if isinstance(value, Mapping):
        value = [f"{key}-{label_of(each)}" for key, each in value.items()]
    if isinstance(value, list):
        return "-".join(label_of(each) for each in value)
    text = f"{value:.6g}" if isinstance(value, float) else str(value).lower()
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.") or "none"
