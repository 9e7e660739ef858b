"""Artefacts that are JSON, all written alike; part of the key of every stage that writes one."""

from __future__ import annotations

import json
from pathlib import Path


def write_json(folder: Path, name: str, document: object) -> None:
    """Write `name`.json, indented, into a folder."""
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
