"""Commands of edgewright-device.pyz in processes of their own: a crash or lack of memory costs them alone."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Callable, Sequence

from targets.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

    Progress = Callable[[str, float], None]

PR_SET_PDEATHSIG = 1
LENGTH = struct.Struct(">Q")
PROGRESS = b"progress "
KEPT_LINES = 20


class Child:
    """A running command.

    Args:
        program: the .pyz, or whatever this Python can run.
        arguments: of the command.
        folder: it runs in.
        progress: told what the command tells.
    """

    def __init__(self, program: str, arguments: Sequence[str], folder: Path, progress: Progress) -> None:
        self._what = arguments[0]
        self._progress = progress
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._process = subprocess.Popen(
            [sys.executable, program, *arguments],
            cwd=str(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def finish(self, limit_s: float) -> dict[str, Any]:
        """Wait for the command's end and return the JSON it printed, {"error": …} where it refused.

        Raises:
            DeviceError: it died, printed something else, or took longer than `limit_s`.
        """
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.kill()

        timer = threading.Timer(limit_s, expire)
        timer.start()
        try:
            assert self._process.stdout is not None
            printed = self._process.stdout.read()
            self._process.wait()
        finally:
            timer.cancel()
        if expired.is_set():
            raise DeviceError(
                f"{self._what} took longer than {limit_s:g} s on the device and was stopped",
                mend="use a smaller network, or see what else the device is doing",
            )
        return self._document(printed)

    def exchange(self, content: bytes) -> bytes:
        """Hand bytes to the command and return the bytes it answers with.

        Raises:
            DeviceError: it died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(LENGTH.pack(len(content)) + content)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self.receive()

    def receive(self) -> bytes:
        """Return the next bytes the command gives.

        Raises:
            DeviceError: it died.
        """
        assert self._process.stdout is not None
        answer = receive(self._process.stdout)
        if answer is None:
            raise self._died()
        return answer

    def kill(self) -> None:
        """End it and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _document(self, printed: bytes) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads(printed.decode())
        except ValueError:
            raise self._died() from None
        return document

    def _died(self) -> DeviceError:
        """What to say of a command that ended without an answer."""
        code = self._process.wait()
        self._listener.join(1.0)
        if code == -signal.SIGKILL:
            return DeviceError(
                f"the device ran out of memory during {self._what}",
                mend="end other programs on the device, or use a smaller network",
            )
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        said = "\n    ".join(self._said) or "nothing"
        return DeviceError(f"{self._what} {how} on the device; it said:\n    {said}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.startswith(PROGRESS):
                what, share = json.loads(line[len(PROGRESS) :].decode())
                self._progress(what, share)
            else:
                self._said.append(line.decode(errors="replace").rstrip())


def send(stream: IO[bytes], content: bytes) -> None:
    """Write bytes with their length before them."""
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read what `send` wrote; None at the end."""
    length = stream.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    size = LENGTH.unpack(length)[0]
    content = stream.read(size)
    return content if len(content) == size else None


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
