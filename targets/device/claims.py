"""Who uses the device: a working folder for each session, and one lock for the machine.

Both are held by locks of the kernel, which end with their process: nothing here can be left behind by a
session that was killed, and no lock has to be judged by its age.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Callable

from targets.errors import DeviceBusy

POLL_S = 0.5
LOCK_NAME = "edgewright-device.lock"


class WorkFolder:
    """A folder of one session's own, removed at its end; those of dead sessions are removed as well.

    Args:
        folder: that holds all of them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / ".lock").open("a") as everyone:
            fcntl.flock(everyone, fcntl.LOCK_EX)
            self._sweep(folder)
            self.path = Path(tempfile.mkdtemp(dir=str(folder)))
            self._owner = (self.path / ".owner").open("a")
            fcntl.flock(self._owner, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(str(self.path), ignore_errors=True)
        self._owner.close()

    @staticmethod
    def _sweep(folder: Path) -> None:
        for session in folder.iterdir():
            if session.is_dir() and not _held(session / ".owner"):
                shutil.rmtree(str(session), ignore_errors=True)


def _held(path: Path) -> bool:
    try:
        with path.open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class DeviceLock:
    """One session at a time builds, runs and measures on a machine, whoever it belongs to.

    Args:
        folder: of the lock file; the machine's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or Path(tempfile.gettempdir())) / LOCK_NAME
        self._descriptor: int | None = None

    def take(self, who: str, wait_s: float, waiting: Callable[[str], None]) -> None:
        """Wait for the device, unless this session has it already.

        Args:
            who: is named to those who wait.
            wait_s: at most so long.
            waiting: called with who has it, now and then.

        Raises:
            DeviceBusy: somebody else still has it then.
        """
        if self._descriptor is not None:
            return
        deadline = time.monotonic() + wait_s
        descriptor = _open_shared(self._path)
        while not _locked(descriptor):
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "somebody"
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise DeviceBusy(
                    f"the device is in use by {holder}", mend="run the same command again when it is free"
                )
            waiting(holder)
            time.sleep(POLL_S)
        self._descriptor = descriptor
        # Another user's lock file may not be writable; then nobody is named.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{who}, since {time.strftime('%H:%M:%S')}\n".encode(), 0)

    def release(self) -> None:
        """Give the device back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open_shared(path: Path) -> int:
    """Open the lock file for every user of the machine.

    Linux refuses to open somebody else's file in /tmp with O_CREAT (fs.protected_regular), so that it is
    tried without first. A link is never followed.
    """
    for flags in (os.O_RDWR, os.O_RDONLY):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            return os.open(str(path), flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
