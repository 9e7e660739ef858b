"""Files on the device under their sha256: sent once, in as many attempts as the link needs.

blobs/<sha256>        whole: checked, synced, then renamed to this name
blobs/<sha256>.part   what has come so far; the next attempt goes on behind it
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import IO, Iterator

from targets.errors import DeviceError
from targets.toolchain import file_sha256

KEPT_DAYS = 14
SPARE_BYTES = 16 << 20


class Blobs:
    """The files below one folder.

    Args:
        folder: made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self, sha256: str) -> Path | None:
        """Return a whole file, and mark it as used."""
        path = self.folder / sha256
        if not path.is_file():
            return None
        os.utime(path)
        return path

    def checked(self, sha256: str) -> Path:
        """Return a whole file after reading all of it again.

        Raises:
            DeviceError: it is not here or was damaged, in which case it is gone now.
        """
        path = self.find(sha256)
        if path is not None and file_sha256(path) == sha256:
            return path
        with contextlib.suppress(FileNotFoundError):
            (self.folder / sha256).unlink()
        raise DeviceError(
            "a file on the device is missing or was damaged", where=sha256, mend="run the same command again"
        )

    @contextlib.contextmanager
    def receiving(self, sha256: str, size: int) -> Iterator[IO[bytes]]:
        """Open what has come of a file so far, at its end; nobody else appends to it meanwhile.

        Raises:
            DeviceError: the disk has no room for the rest.
        """
        with (self.folder / f"{sha256}.part").open("ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            if part.tell() > size:
                part.truncate(0)
            self._make_room(size - part.tell())
            yield part

    def finish(self, part: IO[bytes], sha256: str) -> bool:
        """Check a file that has come as a whole and give it its name; a wrong one is removed."""
        part.flush()
        os.fsync(part.fileno())
        path = self.folder / f"{sha256}.part"
        whole = file_sha256(path) == sha256
        if whole:
            path.replace(self.folder / sha256)
        else:
            path.unlink()
        return whole

    def adopt(self, path: Path) -> dict[str, object]:
        """Take a file made on the device; it can then be fetched, in as many attempts as that needs.

        Returns:
            its "sha256" and "size".
        """
        digest = hashlib.sha256()
        beside = self.folder / f"adopted-{os.getpid()}"
        with path.open("rb") as source, beside.open("wb") as copy:
            for piece in iter(lambda: source.read(1 << 20), b""):
                digest.update(piece)
                copy.write(piece)
        beside.replace(self.folder / digest.hexdigest())
        return {"sha256": digest.hexdigest(), "size": path.stat().st_size}

    def forget_old(self, now: float | None = None) -> None:
        """Remove what was not used for two weeks."""
        oldest = (now or time.time()) - KEPT_DAYS * 86400
        for path in self.folder.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink()

    def _make_room(self, needed: int) -> None:
        """Remove the files that were not used for longest until there is room."""
        whole = [path for path in self.folder.iterdir() if path.suffix != ".part"]
        for path in sorted(whole, key=lambda path: path.stat().st_mtime):
            if self._free() >= needed + SPARE_BYTES:
                return
            path.unlink()
        if self._free() < needed + SPARE_BYTES:
            raise DeviceError(
                f"the device's disk has {self._free() >> 20} MiB left; {needed >> 20} MiB are to come",
                where=str(self.folder),
                mend="free some space on the device",
            )

    def _free(self) -> int:
        return shutil.disk_usage(str(self.folder)).free
