"""build.toml: typed and validated. Its JSON schema is published as docs/schema/build.schema.json."""

from pipeline.config.engines import GateKind, TargetSection
from pipeline.config.load import load_settings
from pipeline.config.networks import Criterion, PathsSection, StudentSection, TriageSection
from pipeline.config.settings import Settings, json_schema

__all__ = [
    "Criterion",
    "GateKind",
    "PathsSection",
    "Settings",
    "StudentSection",
    "TargetSection",
    "TriageSection",
    "json_schema",
    "load_settings",
]
