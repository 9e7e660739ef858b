"""Limits of the gates: what may be set, and the defaults. docs/gates.md defines the metrics."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Thresholds(BaseModel):
    """Limits of a gate; a metric without one is not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_abs: Annotated[float, Field(ge=0)] | None = None
    relative_l2: Annotated[float, Field(ge=0)] | None = None
    cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> Thresholds:
        if not self.model_dump(exclude_none=True):
            raise ValueError("a gate needs at least one limit")
        return self


DEFAULT_THRESHOLDS: dict[str, Thresholds] = {
    "export": Thresholds(max_abs=1e-3, cosine=0.9999, top1_agreement=0.999),
    "simplify": Thresholds(max_abs=1e-4, relative_l2=1e-4, cosine=0.99999, top1_agreement=0.999),
    "quantize": Thresholds(relative_l2=0.3, cosine=0.9, top1_agreement=0.97),
    "engine-fp32": Thresholds(relative_l2=1e-3, top1_agreement=0.999),
    "engine-half": Thresholds(relative_l2=5e-2, top1_agreement=0.99),
    "engine-int8": Thresholds(relative_l2=0.1, top1_agreement=0.98),
}
