"""A bundle's folder as .tar.gz or .zip: the manifest first, then its signatures, then files by name.

Owners, dates and order are fixed, so equal folders give equal bytes; targets/bundle/archive.py reads them.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

from targets.bundle.listing import MANIFEST, MINISIGNATURE, SIGNATURE

# The first moment a zip file can name.
ZIP_BEGINS = datetime(1980, 1, 1, tzinfo=timezone.utc)


def write_tar_gz(folder: Path, out: Path, name: str, date: datetime) -> None:
    """Write a .tar.gz (plain ustar, no extended headers).

    Args:
        folder: the bundle.
        out: the archive.
        name: of the folder inside.
        date: of all files.
    """
    with (
        out.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=9, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in members(folder):
            add_file(archive, f"{name}/{path}", folder / path, int(date.timestamp()))


def write_zip(folder: Path, out: Path, name: str, date: datetime) -> None:
    """Write a .zip; arguments as of `write_tar_gz`."""
    moment = max(date.astimezone(timezone.utc), ZIP_BEGINS).timetuple()[:6]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in members(folder):
            info = zipfile.ZipInfo(f"{name}/{path}", moment)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (0o100000 | mode_of(folder / path)) << 16
            with (folder / path).open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def members(folder: Path) -> list[str]:
    """Paths of a bundle's files in the order archives have them."""
    first = [name for name in (MANIFEST, SIGNATURE, MINISIGNATURE) if (folder / name).exists()]
    rest = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return first + [path for path in rest if path not in first]


def add_file(archive: tarfile.TarFile, name: str, path: Path, seconds: int) -> None:
    """Add a file that belongs to root."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = path.stat().st_size, seconds, mode_of(path)
    info.uname = info.gname = "root"
    with path.open("rb") as stream:
        archive.addfile(info, stream)


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes, seconds: int, mode: int = 0o644) -> None:
    """Add bytes as a file that belongs to root."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(content), seconds, mode
    info.uname = info.gname = "root"
    archive.addfile(info, io.BytesIO(content))


def mode_of(path: Path) -> int:
    """0755 for what can be run, 0644 for all else."""
    return 0o755 if path.stat().st_mode & 0o100 else 0o644
