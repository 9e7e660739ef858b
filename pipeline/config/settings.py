"""All of build.toml as one value, and its JSON schema."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from pipeline.config.data import DataSection, ProjectSection, TaskSection
from pipeline.config.engines import (
    CompareSection,
    ExportSection,
    GatesSection,
    MeasureSection,
    PaysSection,
    QuantizeSection,
    ReleaseSection,
    ReportSection,
    TargetSection,
)
from pipeline.config.networks import ModelSection, PathsSection, StudentSection, TriageSection
from pipeline.config.section import Section


class Settings(Section):
    """All of build.toml."""

    project: ProjectSection
    data: DataSection
    task: TaskSection = TaskSection()
    model: ModelSection
    student: StudentSection | None = None
    paths: PathsSection | None = None
    triage: TriageSection | None = None
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    targets: list[TargetSection] = Field(min_length=1)
    measure: MeasureSection = MeasureSection()
    pays: PaysSection = PaysSection()
    compare: CompareSection = CompareSection()
    gates: GatesSection = GatesSection()
    report: ReportSection = ReportSection()
    release: ReleaseSection = ReleaseSection()

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.model.onnx and self.student:
            raise ValueError("student needs a torch model: remove [student], or give model.factory")
        if self.model.onnx and (self.paths or self.triage):
            raise ValueError("paths and triage need a torch model: remove them, or give model.factory")
        if not (self.data.labelled or self.model.checkpoint or self.model.onnx):
            raise ValueError(
                "images without labels cannot train the network they are labelled by: "
                "give model.checkpoint or model.onnx, or data with labels"
            )
        return self

    @model_validator(mode="after")
    def _mixed(self) -> Settings:
        mixed = any("mixed" in (target.precisions or []) for target in self.targets)
        if mixed and self.quantize.mixed is None:
            raise ValueError('precision "mixed" needs [quantize.mixed], as in: bits = 5.0')
        if self.quantize.mixed and not mixed:
            raise ValueError('no target\'s precisions have "mixed": add it, or remove [quantize.mixed]')
        return self


def json_schema() -> dict[str, Any]:
    """The JSON schema of build files, published as docs/schema/build.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
