"""Bundles as .tar.gz or .zip: read piece by piece, nothing written before the whole archive is known good.

Only what edgewright writes is accepted: one folder of regular files, the manifest first, then its signature.
No member is read further than the manifest says it is long, so an archive cannot be a bomb.
"""

from __future__ import annotations

import gzip
import hashlib
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Callable, Iterator, NamedTuple, Union

from targets.bundle.listing import (
    LARGEST_MANIFEST,
    MANIFEST,
    MINISIGNATURE,
    SIGNATURE,
    FileEntry,
    Listing,
    check_minisignature,
    read_listing,
)
from targets.errors import BundleError

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
PIECE = 1 << 20
AGAIN = "get the bundle again from who made it"
TAR_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device node",
    tarfile.BLKTYPE: "a device node",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder of its own",
}
BROKEN = (
    EOFError,
    OSError,
    ValueError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    RuntimeError,
    struct.error,
)
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


Readable = Union[IO[bytes], gzip.GzipFile]


class Member(NamedTuple):
    """One file of an archive.

    Args:
        path: as the archive has it.
        size: bytes it claims to have.
        executable: its mode says so.
        read: returns at most so many of its next bytes.
    """

    path: str
    size: int
    executable: bool
    read: Callable[[int], bytes]


def is_archive(path: Path) -> bool:
    """Say whether a file begins as an archive that a bundle can come in."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return start.startswith(GZIP) or start == ZIP


def verify_archive(path: Path, key: bytes, out: Path | None = None) -> Listing:
    """Check a bundle's archive, all of it, and unpack it when it is whole.

    Args:
        path: .tar.gz or .zip.
        key: public key of whoever is trusted.
        out: folder to make with the bundle's content; None unpacks nothing.

    Raises:
        BundleError: anything that is not just as it was signed; says which. Nothing is left in `out`.
    """
    listing = _pass(path, key, None)
    if out is not None:
        # Read and checked once more while it is written: the archive may have changed in between.
        _pass(path, key, out)
    return listing


def _pass(path: Path, key: bytes, out: Path | None) -> Listing:
    try:
        with _members(path) as members:
            return _check(members, key, out)
    except BundleError:
        raise
    except BROKEN as error:
        reason = "it ends too early" if isinstance(error, EOFError) else str(error)
        raise BundleError(f"the archive is damaged: {reason}", where=str(path), mend=AGAIN) from error


def _check(members: Iterator[Member], key: bytes, out: Path | None) -> Listing:
    top, manifest = _head(members, MANIFEST)
    again, signature = _head(members, SIGNATURE)
    listing = read_listing(manifest, signature, key)
    if not top == again == listing.name:
        raise BundleError(
            f"its folder is {top!r}, the bundle's name is {listing.name!r}", where=top, mend=AGAIN
        )
    heads = {MANIFEST: manifest, SIGNATURE: signature}
    if MINISIGNATURE in listing.heads:
        again, heads[MINISIGNATURE] = _head(members, MINISIGNATURE)
        check_minisignature(listing, manifest, heads[MINISIGNATURE], key)
    for name, content in heads.items():
        if out is not None:
            (out / name).write_bytes(content)
    seen: set[str] = set()
    for member in members:
        folder, _, path = member.path.partition("/")
        entry = listing.files.get(path)
        if folder != top or entry is None or path in seen:
            what = "is there twice" if path in seen else "is not in the manifest"
            raise BundleError(f"{member.path!r} {what}", where=member.path, mend=AGAIN)
        seen.add(path)
        _check_member(member, entry, out and out / path)
    missing = sorted(listing.files.keys() - seen)
    if missing:
        raise BundleError(f"{', '.join(missing)} is missing", where=missing[0], mend=AGAIN)
    return listing


def _head(members: Iterator[Member], name: str) -> tuple[str, bytes]:
    """Read one of the small files that come first; return its folder and content."""
    member = next(members, None)
    if member is None or member.path.partition("/")[2] != name:
        found = "nothing" if member is None else repr(member.path)
        raise BundleError(f"{found} is where {name} should be", where=name, mend=AGAIN)
    if member.size > LARGEST_MANIFEST:
        raise BundleError(f"{name} claims {member.size} bytes", where=name, mend=AGAIN)
    return member.path.partition("/")[0], b"".join(_content(member))


def _check_member(member: Member, entry: FileEntry, out: Path | None) -> None:
    if member.size != entry.size_bytes:
        what = f"{member.path} has {member.size} bytes, not {entry.size_bytes}"
        raise BundleError(what, where=member.path, mend=AGAIN)
    if member.executable != entry.executable:
        raise BundleError(f"the mode of {member.path} was changed", where=member.path, mend=AGAIN)
    digest = hashlib.sha256()
    with _written(out, entry.executable) as write:
        for piece in _content(member):
            digest.update(piece)
            write(piece)
    if digest.hexdigest() != entry.sha256:
        raise BundleError(f"{member.path} was changed", where=member.path, mend=AGAIN)


@contextmanager
def _written(path: Path | None, executable: bool) -> Iterator[Callable[[bytes], object]]:
    if path is None:
        yield lambda _: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        yield stream.write
    path.chmod(0o755 if executable else 0o644)


def _content(member: Member) -> Iterator[bytes]:
    left = member.size
    while left:
        piece = member.read(min(left, PIECE))
        if not piece:
            raise EOFError
        left -= len(piece)
        yield piece


@contextmanager
def _members(path: Path) -> Iterator[Iterator[Member]]:
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == ZIP and not zipfile.is_zipfile(file):
            raise EOFError
        if start == ZIP:
            with zipfile.ZipFile(file) as archive:
                yield _zip_members(archive)
        elif start.startswith(GZIP):
            with gzip.GzipFile(fileobj=file) as stream:
                yield _tar_members(stream)
        else:
            raise BundleError("neither a .tar.gz nor a .zip", where=str(path), mend="give a bundle")


def _tar_members(stream: Readable) -> Iterator[Member]:
    """Read plain ustar, header by header: extended headers, which may be of any length, are refused."""
    for block in iter(lambda: _exactly(stream, tarfile.BLOCKSIZE), bytes(tarfile.BLOCKSIZE)):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        if info.type != tarfile.REGTYPE or info.size < 0:
            kind = TAR_KINDS.get(info.type, "no regular file")
            raise BundleError(f"{info.name!r} is {kind}", where=info.name, mend=AGAIN)
        yield Member(info.name, info.size, bool(info.mode & 0o111), stream.read)
        if any(_exactly(stream, -info.size % tarfile.BLOCKSIZE)):
            raise BundleError(f"there is something behind {info.name!r}", where=info.name, mend=AGAIN)
    rest = stream.read(tarfile.RECORDSIZE + 1)
    if any(rest) or len(rest) > tarfile.RECORDSIZE:
        raise BundleError("there is something behind the archive's end", mend=AGAIN)


def _exactly(stream: Readable, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = stream.read(count - len(content))
        if not piece:
            raise EOFError
        content += piece
    return content


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    infos: list[zipfile.ZipInfo] = archive.infolist()
    if archive.comment or sum(info.compress_size for info in infos) > _file_size(archive):
        raise BundleError("the archive holds more than its members", mend=AGAIN)
    for info in infos:
        mode = info.external_attr >> 16
        if not info.filename or info.is_dir() or not stat.S_ISREG(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
            raise BundleError(f"{info.filename!r} is {kind}", where=info.filename, mend=AGAIN)
        if info.compress_type not in PACKED:
            what = f"{info.filename!r} is packed in a way bundles are not"
            raise BundleError(what, where=info.filename, mend=AGAIN)
        with archive.open(info) as stream:
            yield Member(info.filename, info.file_size, bool(mode & 0o111), stream.read)
            if stream.read(1):
                what = f"{info.filename} is longer than it says"
                raise BundleError(what, where=info.filename, mend=AGAIN)


def _file_size(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None
    return archive.fp.seek(0, 2)
