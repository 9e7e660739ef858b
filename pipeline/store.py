"""Content-addressed stage outputs: written beside, renamed when whole, shared by builds that run at once.

A store is a folder:

    objects/ab/abcd…/entry.json     what the entry is, what its key was made of, size and sha256 of every file
    objects/ab/abcd…/out/…          the artefacts: every top-level file or folder here is one
    work/abcd…/                     an output being made; worthless after a crash, removed by the next run
    locks/abcd….lock                held while the output of that key is being made
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.disk import explained
from targets.toolchain import file_sha256

ENTRY_SCHEMA = "edgewright.entry/1"

KeyParts = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One finished stage output.

    Args:
        folder: where it lies in the store.
        stage: name of the stage that made it first.
        key: digest of `parts`.
        parts: everything the output depends on.
        files: path inside out/ → (size in bytes, sha256).
        seconds: wall time of the run that made it.
        peak_memory_bytes: of the child process that made it.
        finished_at: UTC, ISO 8601.
    """

    folder: Path
    stage: str
    key: str
    parts: KeyParts
    files: Mapping[str, tuple[int, str]]
    seconds: float
    peak_memory_bytes: int
    finished_at: str

    @property
    def out(self) -> Path:
        """The folder of artefacts."""
        return self.folder / "out"

    def digest(self, artefact: str | None = None) -> str:
        """Digest of one artefact, or of the whole output: of names and contents, not of dates.

        Raises:
            KeyError: the stage made no such artefact.
        """
        lines = [
            f"{sha} {name}"
            for name, (_, sha) in sorted(self.files.items())
            if artefact is None or name == artefact or name.startswith(artefact + "/")
        ]
        if not lines:
            raise KeyError(f"stage {self.stage!r} made no artefact {artefact!r}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def key_of(parts: KeyParts) -> str:
    """Return the key of an output: sha256 of its parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """The stage outputs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the folders and make sure they can be written.

        Raises:
            StoreError: no permission, a read-only or full disk, or a file in the way.
        """
        with explained(self.root):
            for name in ("objects", "work", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=".probe-", dir=self.root / "work") as probe:
                probe.write(b"x")
                probe.flush()

    def find(self, key: str) -> Entry | None:
        """Return the entry of that key, or None when it is missing or not whole."""
        folder = self._folder(key)
        try:
            document = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            if document.pop("schema") != ENTRY_SCHEMA or document["key"] != key:
                return None
            document["files"] = {name: (size, sha) for name, (size, sha) in document["files"].items()}
            entry = Entry(folder=folder, **document)
            whole = all(_is_there(entry.out, name, size) for name, (size, _) in entry.files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return entry if whole else None

    @contextmanager
    def making(self, key: str, waiting: Any = None) -> Iterator[Path]:
        """Hold the lock of a key and give an empty folder to make its output in.

        The lock is the kernel's: it is gone when the process is, however it died. `waiting()` is called
        once when another build holds it. The folder is removed on the way out unless it was committed.
        """
        work = self.root / "work" / key
        with explained(self.root):
            # A lock makes the folders it needs: where a disk went away, in the place it was mounted on.
            (self.root / "locks").stat()
            lock = FileLock(str(self.root / "locks" / f"{key}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if waiting is not None:
                    waiting()
                lock.acquire()
            try:
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                (work / "out").mkdir()
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
                lock.release()

    def commit(
        self, work: Path, *, stage: str, key: str, parts: KeyParts, seconds: float, memory: int, now: str
    ) -> Entry:
        """Turn a finished work folder into the entry of its key, all or nothing.

        Args:
            work: the folder `making` gave; everything below work/out is kept.
            stage: the stage's name.
            key: what `find` will look for.
            parts: what the key was made of.
            seconds: wall time of the stage.
            memory: peak resident bytes of the stage.
            now: UTC, ISO 8601.
        """
        with explained(self.root):
            files = {
                path.relative_to(work / "out").as_posix(): (path.stat().st_size, file_sha256(path))
                for path in sorted((work / "out").rglob("*"))
                if path.is_file()
            }
            entry = Entry(self._folder(key), stage, key, parts, files, seconds, memory, now)
            document = asdict(entry) | {"schema": ENTRY_SCHEMA}
            del document["folder"]
            (work / "entry.json").write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")
            _sync_all(work)
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            # Something is there only when it was found damaged: whoever holds the lock replaces it.
            shutil.rmtree(entry.folder, ignore_errors=True)
            work.rename(entry.folder)
            _sync(entry.folder.parent)
        return entry

    def _folder(self, key: str) -> Path:
        return self.root / "objects" / key[:2] / key


def _is_there(out: Path, name: str, size: int) -> bool:
    """Whether an entry's file has its size; one that an entry claims outside of its folder never has."""
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    return inside and (out / name).stat().st_size == size


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """A file's contents, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
