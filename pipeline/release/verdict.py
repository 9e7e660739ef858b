"""What a self-test says: the JSON document of `selftest` on this machine and of edgewright-device.pyz.

Its JSON schema is published as docs/schema/selftest.schema.json. targets/bundle/selftest.py writes it, with
numpy alone at hand; the models here are for those who read it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.measured import Interval, Part


class Step(Part):
    """One thing that was tried; those after the first that failed were not."""

    step: str = Field(description="verify, manifest, device; then open, golden and latency of each product")
    passed: bool
    detail: str = Field(description="for people")
    figures: dict[str, float] | None = Field(
        default=None, description="golden: metric → how the outputs found differ from those expected"
    )
    tolerance: dict[str, float] | None = Field(
        default=None, description="golden: metric → its limit; of cosine and top1_agreement the least"
    )
    median_ms: float | None = Field(default=None, description="latency: as measured here")
    median_interval_ms: Interval | None = Field(default=None, description="latency: 95 %")
    promised_ms: float | None = Field(
        default=None, description="latency: fails where all of it is above; absent where none was promised"
    )


class Verdict(Part):
    """What came of a self-test."""

    schema_: Literal["edgewright.selftest/1"] = Field(alias="schema")
    bundle: str = Field(description="its name; the folder's, where the manifest could not be trusted")
    passed: bool = Field(description="no step failed")
    signature: Literal["verified", "not verified"] = Field(
        description="not verified: no key was given, or it is not the key's"
    )
    steps: list[Step] = Field(min_length=1)
    device: dict[str, str] = Field(description="fact → value, of the machine it ran on")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a verdict."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Verdict.model_json_schema(by_alias=True),
    }
