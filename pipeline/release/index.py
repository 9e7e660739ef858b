"""What a download page needs: SHA256SUMS over all that was released, and a feed in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.disk import write_whole
from pipeline.release.manifest import Manifest
from targets.toolchain import file_sha256

SUMS, FEED = "SHA256SUMS", "releases.json"
FEED_SCHEMA = "edgewright.releases/1"


def write_index(folder: Path, released: Mapping[str, tuple[Manifest, Sequence[Path]]]) -> list[Path]:
    """Write both files for bundles in one folder.

    Args:
        folder: where the files lie.
        released: bundle → its manifest, and its forms; a folder counts as its manifest.

    Returns:
        the two files.
    """
    files = sorted(_file(form) for _, forms in released.values() for form in forms)
    lines = [f"{file_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    write_whole(folder / SUMS, "".join(lines))
    feed = {
        "schema": FEED_SCHEMA,
        "releases": [_entry(folder, *found) for _, found in sorted(released.items())],
    }
    write_whole(folder / FEED, json.dumps(feed, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return [folder / SUMS, folder / FEED]


def _entry(folder: Path, manifest: Manifest, forms: Sequence[Path]) -> dict[str, object]:
    return {
        "bundle": manifest.bundle,
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "released_from": manifest.released_from,
        "target": manifest.target.name,
        "device": manifest.target.device,
        "architecture": manifest.target.architecture,
        "runtime": f"{manifest.target.toolchain} {manifest.target.runtime}",
        "accepted": [concern.kind for concern in manifest.accepted],
        "key": manifest.key.fingerprint if manifest.key else None,
        "products": [
            {
                "variant": product.variant,
                "top1": product.accuracy.top1,
                "median_ms": product.latency.median_ms,
                "promised_ms": product.latency.promised_ms,
            }
            for product in manifest.products
        ],
        "files": [
            {"path": form.relative_to(folder).as_posix()}
            | {"sha256": file_sha256(_file(form)), "size_bytes": _file(form).stat().st_size}
            for form in forms
        ],
    }


def _file(form: Path) -> Path:
    """The file whose digest stands for a form: of folders, what names all their files."""
    for inside in ("manifest.json", "index.json"):
        if (form / inside).is_file():
            return form / inside
    return form
