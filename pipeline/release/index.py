"""What a download page needs: a feed in JSON, and SHA256SUMS over it and all that was released, signed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.disk import write_whole
from pipeline.release.feed import Feed, FeedFile, feed_entry
from pipeline.release.keys import sign_file, signature_files
from pipeline.release.manifest import Manifest
from targets.toolchain import file_sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SUMS, FEED = "SHA256SUMS", "releases.json"


def write_index(
    folder: Path, released: Mapping[str, tuple[Manifest, Sequence[Path]]], key: Ed25519PrivateKey | None
) -> list[Path]:
    """Write both files for bundles in one folder.

    Args:
        folder: where the files lie.
        released: bundle → its manifest, and its forms; a folder counts as its manifest.
        key: signs the sums, and so the feed, too; without one no signature of an earlier index is left.

    Returns:
        the feed, the sums and their signatures.
    """
    feed, sums = folder / FEED, folder / SUMS
    for outdated in signature_files(sums):
        outdated.unlink(missing_ok=True)
    entries = [
        feed_entry(manifest, [_described(folder, form) for form in forms])
        for _, (manifest, forms) in sorted(released.items())
    ]
    described = Feed(releases=entries).model_dump(mode="json", by_alias=True)
    write_whole(feed, json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    files = sorted([feed, *(_file(form) for _, forms in released.values() for form in forms)])
    lines = [f"{file_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    write_whole(sums, "".join(lines))
    comment = ", ".join(sorted({f"{manifest.name} {manifest.version}" for manifest, _ in released.values()}))
    return [feed, sums, *(sign_file(sums, key, comment) if key else ())]


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
