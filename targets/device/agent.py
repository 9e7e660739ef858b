"""The device's end of a session: answers the build machine over SSH, one request after the other.

It ends, and leaves nothing behind but files worth keeping, when its input ends or when nothing has come for
`SILENCE_S`: a build machine that was cut off cannot say so.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Iterator

from targets.device.blobs import Blobs
from targets.device.children import Child
from targets.device.claims import DeviceLock, WorkFolder
from targets.device.frames import PIECE, PROTOCOL, Frame, pieces, read_frame, write_frame
from targets.device.trouble import from_system
from targets.errors import DeviceError, EdgewrightError, described

if TYPE_CHECKING:
    from pathlib import Path

SILENCE_S = 30.0
OPERATIONS = ("put", "get", "place", "keep", "command", "open", "infer", "shut", "claim")


class Agent:
    """One session.

    Args:
        inbox, outbox: messages of `targets.device.frames`.
        folder: files are kept below it.
        program: the .pyz this runs from.
    """

    def __init__(self, inbox: IO[bytes], outbox: IO[bytes], folder: Path, program: str) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._program = program
        self._waiting: queue.Queue[Frame | None] = queue.Queue()
        self._heard = time.monotonic()
        self._speaking = threading.Lock()
        self._blobs = Blobs(folder / "blobs")
        self._blobs.forget_old()
        self._work = WorkFolder(folder / "work")
        self._lock = DeviceLock()
        self._running: Child | None = None
        self._opened: dict[int, Child] = {}

    def serve(self) -> None:
        """Answer until the other side is gone."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._say({"hello": PROTOCOL, "python": platform.python_version()})
            for frame in self._frames():
                # What is left of content that was refused half-way is no request.
                if frame.header["op"] not in ("piece", "end"):
                    self._say({"reply": self._answer(frame.header)})
        except BrokenPipeError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """End what was started and remove what nobody needs any more."""
        for child in (self._running, *self._opened.values()):
            if child is not None:
                child.kill()
        self._work.remove()

    def _listen(self) -> None:
        """Read on while requests are worked on, so that the other side hears that this one is alive."""
        try:
            for frame in iter(lambda: read_frame(self._inbox), None):
                self._heard = time.monotonic()
                if frame.header.get("op") == "ping":
                    self._say({"pong": True})
                else:
                    self._waiting.put(frame)
        except (OSError, ValueError):
            pass
        self._leave()

    def _watch(self) -> None:
        while time.monotonic() - self._heard < SILENCE_S:
            time.sleep(1.0)
        self._leave()

    def _leave(self) -> None:
        """End at once, whatever the main thread is doing."""
        self.close()
        os._exit(0)

    def _frames(self) -> Iterator[Frame]:
        return iter(self._waiting.get, None)

    def _say(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._speaking:
            write_frame(self._outbox, header, payload)

    def _answer(self, header: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; a failure is an answer too."""
        operation = header.pop("op")
        try:
            if operation not in OPERATIONS:
                raise DeviceError(f"the device knows no operation {operation!r}")
            answer: dict[str, Any] = getattr(self, operation)(**header)
        except BrokenPipeError:
            raise
        except EdgewrightError as error:
            return {"error": described(error)}
        except OSError as error:
            return {"error": described(from_system(error))}
        return answer

    def _content(self) -> Iterator[bytes]:
        """The pieces that follow a request; each is acknowledged when it has been dealt with."""
        for frame in self._frames():
            if frame.header.get("op") == "end":
                return
            yield frame.payload
            self._say({"ack": True})

    def put(self, sha256: str, size: int) -> dict[str, Any]:
        """Receive a file's missing end."""
        if self._blobs.find(sha256):
            return {"whole": True, "offset": size}
        with self._blobs.receiving(sha256, size) as part:
            self._say({"offset": part.tell()})
            for piece in self._content():
                part.write(piece)
                part.flush()
            return {"whole": self._blobs.finish(part, sha256)}

    def get(self, sha256: str, offset: int) -> dict[str, Any]:
        """Send a file from an offset on."""
        with self._blobs.checked(sha256).open("rb") as stream:
            stream.seek(offset)
            for piece in iter(lambda: stream.read(PIECE), b""):
                self._say({"data": True}, piece)
        return {}

    def place(self, sha256: str, path: str) -> dict[str, Any]:
        """Put a file that was received where a command will look for it."""
        place = self._inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(str(self._blobs.checked(sha256)), str(place))
        return {}

    def keep(self, path: str) -> dict[str, Any]:
        """Keep all files of a folder, to be fetched; name → sha256 and size."""
        files = sorted(item for item in self._inside(path).iterdir() if item.is_file())
        return {"files": {item.name: self._blobs.adopt(item) for item in files}}

    def command(self, arguments: list[str], limit_s: float) -> dict[str, Any]:
        """Run a command of edgewright-device.pyz to its end."""
        self._running = self._start(arguments)
        try:
            return self._running.finish(limit_s)
        finally:
            self._running.kill()
            self._running = None

    def open(self, arguments: list[str]) -> dict[str, Any]:
        """Start a command that answers arrays with arrays."""
        child = self._start(arguments)
        number = 1 + max(self._opened, default=0)
        self._opened[number] = child
        answer: dict[str, Any] = json.loads(child.receive().decode())
        return {"number": number, **answer}

    def infer(self, number: int) -> dict[str, Any]:
        """Hand a command that `open` started what follows, and its answer back."""
        self._say({"offset": 0})
        content = b"".join(self._content())
        if number not in self._opened:
            raise DeviceError(
                "this engine is no longer open on the device", mend="run the same command again"
            )
        for piece in pieces(self._opened[number].exchange(content)):
            self._say({"data": True}, piece)
        return {}

    def shut(self, number: int) -> dict[str, Any]:
        """End a command that `open` started."""
        child = self._opened.pop(number, None)
        if child is not None:
            child.kill()
        return {}

    def claim(self, who: str, wait_s: float) -> dict[str, Any]:
        """Take the device for this session, until its end."""
        self._lock.take(
            who, wait_s, lambda holder: self._progress(f"waiting for {holder} on the device", 0.0)
        )
        return {}

    def _inside(self, path: str) -> Path:
        place = (self._work.path / path).resolve()
        if self._work.path.resolve() not in place.parents:
            raise DeviceError("a path outside of the session's folder", where=path)
        return place

    def _progress(self, what: str, share: float) -> None:
        self._say({"progress": [what, share]})

    def _start(self, arguments: list[str]) -> Child:
        return Child(self._program, arguments, self._work.path, self._progress)
