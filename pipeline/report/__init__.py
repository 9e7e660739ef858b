"""From a build record to a report: HTML for people, JSON for programs, Markdown for a pull request."""

from pipeline.report.document import json_schema, load
from pipeline.report.page import render, render_paths, render_scores, render_trend, render_triage

__all__ = [
    "json_schema",
    "load",
    "render",
    "render_paths",
    "render_scores",
    "render_trend",
    "render_triage",
]
