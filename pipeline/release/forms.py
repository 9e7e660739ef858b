"""The forms a bundle comes in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pipeline.release.archives import write_tar_gz, write_zip
from pipeline.release.deb import deb_name, write_deb
from pipeline.release.manifest import Manifest
from pipeline.release.oci import write_oci

Named = Callable[[Manifest], str]
Writer = Callable[[Path, Path, Manifest, datetime], None]

# form → what its file or folder is called, and what writes it from the bundle's folder.
FORMS: dict[str, tuple[Named, Writer]] = {
    "tar.gz": (
        lambda manifest: f"{manifest.bundle}.tar.gz",
        lambda folder, out, manifest, date: write_tar_gz(folder, out, manifest.bundle, date),
    ),
    "zip": (
        lambda manifest: f"{manifest.bundle}.zip",
        lambda folder, out, manifest, date: write_zip(folder, out, manifest.bundle, date),
    ),
    "deb": (deb_name, write_deb),
    "oci": (lambda manifest: f"{manifest.bundle}.oci", write_oci),
}


def write_form(form: str, folder: Path, beside: Path, manifest: Manifest, date: datetime) -> Path:
    """Write one form of a bundle.

    Args:
        form: of `FORMS`, or "folder".
        folder: the bundle.
        beside: folder to write into.
        manifest: of the bundle.
        date: of all files.

    Returns:
        what was written.
    """
    if form == "folder":
        return folder
    name, write = FORMS[form]
    path = beside / name(manifest)
    write(folder, path, manifest, date)
    return path
