"""One session with a device's agent, through one ssh process.

Both ends hear from each other every few seconds, so that a dead link is noticed however the connection was
made (through jump hosts, or a master connection that the user's configuration shares).
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Callable, Iterable, Iterator

import targets.device
from targets.device.frames import MARK, PROTOCOL, Frame, read_frame, write_frame
from targets.device.trouble import from_system
from targets.errors import DeviceError, EdgewrightError, LinkLost, ToolchainMissing, revived
from targets.remote.ssh import Host, failure, python_command

Progress = Callable[[str, float], None]

# Pieces on their way that were not acknowledged: enough to fill a link of 50 ms at 5 MB/s.
WINDOW = 4
BOOTSTRAP = Path(targets.device.__file__).with_name("arrive.py")
LONGEST_GREETING = 1 << 20


@dataclass(frozen=True)
class Patience:
    """When the other end is taken for gone, in seconds.

    Args:
        connect_s: until the agent answers, jump hosts and a first upload of the .pyz included.
        ping_s: between signs of life.
        dead_s: without any.
    """

    connect_s: float = 60.0
    ping_s: float = 3.0
    dead_s: float = 15.0


class Connection:
    """A running session; the agent ends with it.

    Args:
        host: of the device.
        program: content of edgewright-device.pyz.
        patience: when to give up.

    Raises:
        DeviceError: no connection, for a reason the message gives.
        ToolchainMissing: no Python there, or one that is too old.
        LinkLost: it broke off.
    """

    def __init__(self, host: Host, program: bytes, patience: Patience | None = None) -> None:
        self.host = host
        self._patience = patience or Patience()
        self._heard = time.monotonic()
        self._allowed = self._patience.connect_s
        self._silent = False
        self._speaking = threading.Lock()
        self._waiting: queue.Queue[Frame | None] = queue.Queue()
        self._said = TemporaryFile()  # noqa: SIM115 — open as long as the process that writes it
        source, digest = BOOTSTRAP.read_text(encoding="utf-8"), hashlib.sha256(program).hexdigest()
        command = host.command(python_command(host, source, digest, str(len(program))))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
            )
        except FileNotFoundError as error:
            raise ToolchainMissing(
                f"there is no {command[0]!r} on this machine", mend="install OpenSSH's client: openssh-client"
            ) from error
        assert self._process.stdin and self._process.stdout
        self._inbox: IO[bytes] = self._process.stdout
        self._outbox: IO[bytes] = self._process.stdin
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._greet(program)
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        operation: str,
        *,
        content: Callable[[int], Iterable[bytes]] | None = None,
        take: Callable[[bytes], object] | None = None,
        progress: Progress | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Have the agent do something and return its reply.

        Args:
            operation: one of `targets.device.agent.OPERATIONS`.
            content: from the offset the agent names to the pieces it is sent.
            take: called with each piece the agent sends.
            progress: told what the agent tells.
            arguments: of the operation.

        Raises:
            LinkLost: the connection broke off.
            EdgewrightError: what went wrong on the device.
        """
        self._say({"op": operation, **arguments})
        for frame in self._frames():
            header = frame.header
            if "offset" in header and content is not None:
                early = self._stream(content(header["offset"]))
                if early is None:
                    continue
                header = early
            if "reply" in header:
                return self._checked(header["reply"])
            if "data" in header and take is not None:
                take(frame.payload)
            if "progress" in header and progress is not None:
                progress(*header["progress"])
        raise AssertionError("the frames end with an error")

    def close(self) -> None:
        """End the session; the agent then ends what it runs and removes what nobody needs."""
        with contextlib.suppress(OSError):
            self._outbox.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _greet(self, program: bytes) -> None:
        word = self._word()
        if word == "send":
            with contextlib.suppress(OSError):
                self._outbox.write(program)
                self._outbox.flush()
            word = self._word()
        if word != "ready":
            raise self._refused(word)
        hello = read_frame(self._inbox)
        if hello is None or hello.header.get("hello") != PROTOCOL:
            raise self._lost()
        self._allowed = self._patience.dead_s
        self._heard = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._ping, daemon=True).start()

    def _word(self) -> str:
        """What the bootstrap says next; a login shell may have greeted before it."""
        read = 0
        for line in iter(lambda: self._inbox.readline(LONGEST_GREETING), b""):
            read += len(line)
            if line.startswith(MARK):
                return line[len(MARK) :].decode(errors="replace").strip()
            if read > LONGEST_GREETING:
                raise DeviceError(
                    "the device's shell talks without end before it does anything",
                    where=str(self.host),
                    mend="print nothing in ~/.bashrc when there is no terminal",
                )
        raise self._lost()

    def _refused(self, word: str) -> EdgewrightError:
        kind, _, rest = word.partition(" ")
        if kind == "old":
            return ToolchainMissing(
                f"the device's Python is {rest}; 3.8 or newer is needed",
                where=str(self.host),
                mend="install a newer one there and name it in build.toml: python = …",
            )
        if kind == "failed":
            code, _, name = rest.partition(" ")
            error = from_system(OSError(int(code), "cannot be used", name))
            error.where = f"{self.host}: {name}"
            return error
        return LinkLost(f"the device says {word!r}", where=str(self.host), mend="run the same command again")

    def _listen(self) -> None:
        try:
            for frame in iter(lambda: read_frame(self._inbox), None):
                self._heard = time.monotonic()
                if "pong" not in frame.header:
                    self._waiting.put(frame)
        except (OSError, ValueError):
            self._process.kill()
        self._waiting.put(None)

    def _ping(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self._process.poll() is None:
                self._write({"op": "ping"})
                time.sleep(self._patience.ping_s)

    def _watch(self) -> None:
        """Writes nothing itself: a write to a dead link is what it has to end."""
        while self._process.poll() is None:
            if time.monotonic() - self._heard > self._allowed:
                self._silent = True
                self._process.kill()
                return
            time.sleep(min(0.2, self._allowed / 4))

    def _say(self, header: dict[str, Any], payload: bytes = b"") -> None:
        try:
            self._write(header, payload)
        except (OSError, ValueError):
            raise self._lost() from None

    def _write(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._speaking:
            write_frame(self._outbox, header, payload)

    def _frames(self) -> Iterator[Frame]:
        yield from iter(self._waiting.get, None)
        raise self._lost()

    def _stream(self, content: Iterable[bytes]) -> dict[str, Any] | None:
        """Send pieces, a few ahead of their acknowledgements; return a reply that came too early."""
        early = None
        ahead: deque[None] = deque()
        for piece in content:
            self._say({"op": "piece"}, piece)
            ahead.append(None)
            while len(ahead) >= WINDOW and early is None:
                header = next(self._frames()).header
                if "ack" in header:
                    ahead.popleft()
                elif "reply" in header:
                    early = header
            if early is not None:
                break
        self._say({"op": "end"})
        return early

    def _checked(self, reply: dict[str, Any]) -> dict[str, Any]:
        if "error" not in reply:
            return reply
        error = revived(reply["error"])
        error.where = f"{self.host}: {error.where}" if error.where else str(self.host)
        raise error

    def _lost(self) -> EdgewrightError:
        """What to say when the other end is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._patience.dead_s)
        if self._silent:
            return LinkLost(
                f"nothing came from the device for {self._allowed:g} s",
                where=str(self.host),
                mend="see that it is on and on the network, then run the same command again",
            )
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")
        return failure(self.host, self._process.returncode or 0, said)
