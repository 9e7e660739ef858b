"""What all tables of build.toml have in common, and the types of their values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def refuse_repeated(classes: list[str]) -> None:
    """Raise ValueError for names that occur twice."""
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ValueError(f"classes named twice: {', '.join(repeated)}")


Shares = Annotated[
    list[Share], Field(min_length=1), BeforeValidator(_as_list, json_schema_input_type=Share | list[Share])
]
Counts = Annotated[
    list[Count], Field(min_length=1), BeforeValidator(_as_list, json_schema_input_type=Count | list[Count])
]
Milliseconds = Annotated[float, Field(gt=0)]
Times = Annotated[
    list[Milliseconds],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=Milliseconds | list[Milliseconds]),
]


class Section(BaseModel):
    """A table of build.toml: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
