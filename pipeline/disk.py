"""Files and folders that are there whole or not at all, and what to say when a disk does not play along."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targets.errors import StoreError

FULL = "free some space, then run the same command again"
ELSEWHERE = "choose another folder, or change its permissions"
IN_THE_WAY = "move it away, or choose another folder"
GONE = "bring it back, then run the same command again: what was finished is kept"

REASONS = {
    errno.ENOSPC: ("the disk is full", FULL),
    errno.EDQUOT: ("the disk quota is used up", FULL),
    errno.EFBIG: ("a file is larger than a limit allows", "raise the limit (ulimit -f), or use another disk"),
    errno.EROFS: ("the file system is read-only", "choose another folder (project.store in build.toml)"),
    errno.EACCES: ("no permission to write", ELSEWHERE),
    errno.EPERM: ("no permission to write", ELSEWHERE),
    errno.ENOTDIR: ("a file is where a folder should be", IN_THE_WAY),
    errno.EEXIST: ("a file is where a folder should be", IN_THE_WAY),
    errno.EIO: ("the disk cannot be read or written", "check the disk, then run the same command again"),
    errno.ESTALE: ("the file system is gone", GONE),
    errno.ENOTCONN: ("the file system is gone", GONE),
    errno.ETIMEDOUT: ("the file system does not answer", GONE),
}


def trouble(error: OSError, where: Path) -> StoreError | None:
    """What an error of the operating system says of the disk; None when it is about something else.

    Args:
        error: as it was raised.
        where: the folder that was worked in, named unless the error names a file.
    """
    if error.errno == errno.ENOENT and not where.exists():
        return StoreError("the folder is gone", where=str(where), mend=GONE)
    if error.errno not in REASONS:
        return None
    what, mend = REASONS[error.errno]
    return StoreError(what, where=str(error.filename or where), mend=mend)


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Turn what the operating system says about a disk into a StoreError that says how to mend it."""
    try:
        yield
    except OSError as error:
        told = trouble(error, where)
        if told is None:
            raise
        raise told from error


def beside(path: Path) -> Path:
    """A name beside a path for what takes its place when it is whole; what killed processes left is removed.

    Such names are the hidden name of the path with the number of the process that writes.
    """
    if path.parent.is_dir():
        for left in path.parent.iterdir():
            name, _, process = left.name.rpartition(".")
            if name == f".{path.name}" and process.isdecimal() and not _alive(int(process)):
                _remove(left)
    return path.with_name(f".{path.name}.{os.getpid()}")


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it, so that nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = beside(path)
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
