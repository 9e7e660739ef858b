"""A bundle's folder against its manifest: every file there is, and nothing else."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Iterator

from targets.bundle.listing import (
    LARGEST_MANIFEST,
    MANIFEST,
    MINISIGNATURE,
    SIGNATURE,
    FileEntry,
    Listing,
    check_minisignature,
    is_safe,
    parents,
    read_listing,
)
from targets.errors import BundleError

MOST_SHOWN = 12
KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFBLK: "a device node",
    stat.S_IFCHR: "a device node",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def verify_folder(folder: Path, key: bytes | None) -> Listing:
    """Check a bundle's folder, all of it.

    Args:
        folder: the bundle.
        key: public key of whoever is trusted; None checks the digests alone.

    Raises:
        BundleError: anything changed, missing, added, renamed, or that is no regular file; says which.
    """
    content = _small_file(folder, MANIFEST)
    if content is None:
        raise BundleError("there is no manifest", where=str(folder / MANIFEST), mend="get the bundle again")
    listing = read_listing(content, _small_file(folder, SIGNATURE), key)
    check_minisignature(listing, content, _small_file(folder, MINISIGNATURE), key)
    try:
        faults = _faults(folder, listing)
    except OSError as error:
        what = f"the bundle cannot be read: {error.strerror}"
        raise BundleError(what, where=str(error.filename or folder)) from error
    if faults:
        shown = faults[:MOST_SHOWN]
        if len(faults) > MOST_SHOWN:
            shown.append(f"and {len(faults) - MOST_SHOWN} more")
        raise BundleError(
            f"the bundle is not what its manifest says: {'; '.join(shown)}",
            where=str(folder),
            mend="get the bundle again from who made it",
        )
    return listing


def digest_of(path: Path) -> tuple[int, str]:
    """Return size and sha256 of a regular file; a link is not followed.

    Raises:
        OSError: it is a link, or cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _faults(folder: Path, listing: Listing) -> list[str]:
    folders = parents(listing.files)
    found: dict[str, int] = dict(_walk(folder, "", folders))
    faults, added = [], []
    for path, kind in found.items():
        if path in listing.heads:
            continue
        if kind in KINDS:
            faults.append(f"{_shown(path)} is {KINDS[kind]}")
        elif kind == stat.S_IFDIR:
            faults += [] if path in folders else [f"the folder {_shown(path)} was added"]
        elif path in listing.files:
            faults += _changed(folder / path, path, listing.files[path])
        else:
            added.append(path)
    missing = [path for path in listing.files if path not in found]
    return faults + _absent_and_new(folder, listing, missing, added)


def _changed(path: Path, name: str, entry: FileEntry) -> list[str]:
    try:
        size, digest = digest_of(path)
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror}"]
    if size != entry.size_bytes:
        return [f"{name} has {size} bytes, not {entry.size_bytes}"]
    return [] if digest == entry.sha256 else [f"{name} was changed"]


def _absent_and_new(folder: Path, listing: Listing, missing: list[str], added: list[str]) -> list[str]:
    """Name files that are gone or came; one that only moved is said to have been renamed."""
    digests = {listing.files[path].sha256: path for path in missing}
    faults = []
    for path in added:
        before = digests.get(digest_of(folder / path)[1]) if digests else None
        if before in missing:
            missing.remove(before)
            faults.append(f"{before} was renamed to {_shown(path)}")
        else:
            faults.append(f"{_shown(path)} was added")
    return faults + [f"{path} is missing" for path in missing]


def _shown(path: str) -> str:
    """A path for a terminal: one of no bundle's kind may hold anything."""
    return path if is_safe(path) else ascii(path)


def _walk(folder: Path, below: str, folders: set[str]) -> Iterator[tuple[str, int]]:
    """Yield path and file type of everything, links not followed; only what lies in `folders` is entered."""
    with os.scandir(str(folder / below)) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        path = f"{below}/{entry.name}".lstrip("/")
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        yield path, kind
        if kind == stat.S_IFDIR and path in folders:
            yield from _walk(folder, path, folders)


def _small_file(folder: Path, name: str) -> bytes | None:
    """Return the content of the manifest or its signature, None where there is none."""
    path = folder / name
    try:
        kind = stat.S_IFMT(os.lstat(str(path)).st_mode)
    except OSError:
        return None
    if kind != stat.S_IFREG:
        raise BundleError(f"{name} is {KINDS.get(kind, 'no file')}", where=str(path))
    with os.fdopen(os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
        content = stream.read(LARGEST_MANIFEST + 1)
    if len(content) > LARGEST_MANIFEST:
        raise BundleError(f"{name} is larger than any manifest", where=str(path))
    return content
