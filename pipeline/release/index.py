"""What a download page needs: SHA256SUMS over all that was released, and a feed in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.disk import write_whole
from pipeline.release.feed import Feed, FeedFile, feed_entry
from pipeline.release.manifest import Manifest
from targets.toolchain import file_sha256

SUMS, FEED = "SHA256SUMS", "releases.json"


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
    entries = [
        feed_entry(manifest, [_described(folder, form) for form in forms])
        for _, (manifest, forms) in sorted(released.items())
    ]
    feed = Feed(releases=entries).model_dump(mode="json", by_alias=True)
    write_whole(folder / FEED, json.dumps(feed, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return [folder / SUMS, folder / FEED]


def _described(folder: Path, form: Path) -> FeedFile:
    file = _file(form)
    return FeedFile(
        path=form.relative_to(folder).as_posix(),
        sha256=file_sha256(file),
        size_bytes=file.stat().st_size,
    )


def _file(form: Path) -> Path:
    """The file whose digest stands for a form: of folders, what names all their files."""
    for inside in ("manifest.json", "index.json"):
        if (form / inside).is_file():
            return form / inside
    return form
