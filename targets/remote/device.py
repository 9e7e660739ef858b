"""A device to work with: connects when needed, and files get across however often the link breaks."""

from __future__ import annotations

import contextlib
import getpass
import platform
import time
import weakref
from typing import TYPE_CHECKING, Any, Iterator

from targets.device.frames import PIECE
from targets.errors import DeviceError, LinkLost
from targets.remote.connection import Connection, Patience, Progress
from targets.toolchain import file_sha256
from targets.zipapp import device_zipapp

if TYPE_CHECKING:
    from pathlib import Path

    from targets.remote.ssh import Host

BUSY_WAIT_S = 1800.0
# A transfer goes on after the link broke, until it broke so often with nothing new across.
ATTEMPTS = 6
FIRST_PAUSE_S = 0.5


class Device:
    """What can be done with a device; connects when needed, again where the link broke.

    Args:
        host: its address.
        progress: told what is being done and the fraction done, 0 to 1.
        patience: when the device is taken for gone.
        busy_wait_s: how long to wait while somebody else uses it.
    """

    def __init__(
        self,
        host: Host,
        progress: Progress | None = None,
        patience: Patience | None = None,
        busy_wait_s: float = BUSY_WAIT_S,
    ) -> None:
        self.host = host
        self._progress = progress or _silent
        self._patience = patience or Patience()
        self._busy_wait_s = busy_wait_s
        self._open: list[Connection] = []
        self._close = weakref.finalize(self, _close_all, self._open)

    def close(self) -> None:
        """End the session; the next request starts another."""
        _close_all(self._open)

    @property
    def connected(self) -> bool:
        """Whether a session is open."""
        return bool(self._open)

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Have the device's agent do something.

        Raises:
            EdgewrightError: as `Connection.ask`, and what keeps one from being made.
        """
        if not self._open:
            self._open.append(Connection(self.host, device_zipapp(), self._patience))
        try:
            return self._open[0].ask(operation, progress=self._progress, **arguments)
        except LinkLost:
            self.close()
            raise

    def claim(self) -> None:
        """Have the device to oneself until the session ends.

        Raises:
            DeviceBusy: somebody else still had it after the wait.
        """
        who = f"{getpass.getuser()} on {platform.node()}"
        self.ask("claim", who=who, wait_s=self._busy_wait_s)

    def command(self, *arguments: str, limit_s: float) -> dict[str, Any]:
        """Run a command of edgewright-device.pyz there and return what it printed.

        Raises:
            EdgewrightError: what the command refused, or a DeviceError when it died or took too long.
        """
        return self.ask("command", arguments=list(arguments), limit_s=limit_s)

    def push(self, path: Path) -> str:
        """Make sure a file is on the device, sending only what is missing; return its sha256.

        Raises:
            LinkLost: the link broke again and again.
            DeviceError: no room there, or what arrives is not what was sent.
        """
        sha256, size = file_sha256(path), path.stat().st_size
        sent = _Attempts()

        def content(offset: int) -> Iterator[bytes]:
            with path.open("rb") as stream:
                stream.seek(offset)
                for piece in iter(lambda: stream.read(PIECE), b""):
                    yield piece
                    sent.reached(stream.tell())
                    self._progress(f"sending {path.name}", stream.tell() / max(1, size))

        for _ in sent:
            with sent.tolerating():
                if self.ask("put", sha256=sha256, size=size, content=content)["whole"]:
                    return sha256
                sent.count(DeviceError("what arrives on the device is not what was sent", where=str(path)))
        raise AssertionError("attempts end with an error")

    def pull(self, sha256: str, size: int, path: Path) -> None:
        """Fetch a file of the device; at `path` it is there whole or not at all.

        Raises:
            LinkLost: the link broke again and again.
            DeviceError: what arrives is not what was sent.
        """
        part = path.with_name(f".{path.name}.part")
        sent = _Attempts()
        for _ in sent:
            with sent.tolerating(), part.open("ab") as stream:

                def take(piece: bytes, stream: Any = stream) -> None:
                    stream.write(piece)
                    sent.reached(stream.tell())
                    self._progress(f"fetching {path.name}", stream.tell() / max(1, size))

                self.ask("get", sha256=sha256, offset=stream.tell(), take=take)
                stream.flush()
                if file_sha256(part) == sha256:
                    part.replace(path)
                    return
                stream.truncate(0)
                sent.count(DeviceError("what arrives from the device is not what was sent", where=str(path)))
        raise AssertionError("attempts end with an error")


class _Attempts:
    """How often a transfer may be begun again: any number of times as long as it gets on."""

    def __init__(self) -> None:
        self._furthest = 0
        self._begun_at = 0
        self._left = ATTEMPTS

    def __iter__(self) -> Iterator[None]:
        while True:
            if self._furthest > self._begun_at:
                self._left = ATTEMPTS
            self._begun_at = self._furthest
            yield

    def reached(self, offset: int) -> None:
        self._furthest = max(self._furthest, offset)

    def count(self, error: DeviceError) -> None:
        """One attempt less; the last one's error is raised."""
        self._left -= 1
        if self._left <= 0:
            raise error

    @contextlib.contextmanager
    def tolerating(self) -> Iterator[None]:
        try:
            yield
        except LinkLost as lost:
            if self._furthest <= self._begun_at:
                self.count(lost)
            time.sleep(FIRST_PAUSE_S * 2 ** (ATTEMPTS - self._left))


def _close_all(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()


def _silent(_what: str, _share: float) -> None:
    """Report to nobody."""
