"""Looking after a store: is everything in it what it was when it was made, and what is no longer needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.disk import explained
from pipeline.store import Entry, Store
from targets.errors import StoreError
from targets.toolchain import file_sha256

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Finding:
    """One thing in a store that is not as it should be, or no longer of use.

    Args:
        folder: where it lies.
        what: in words.
        size_bytes: of all its files.
    """

    folder: Path
    what: str
    size_bytes: int

    def remove(self) -> None:
        """Delete it; the next build makes it again if it is needed."""
        with explained(self.folder):
            shutil.rmtree(self.folder)


def damaged(store: Store, progress: Progress) -> list[Finding]:
    """Read every file of every output again and compare it with its digest.

    Outputs that are being made while this runs are left alone.

    Raises:
        StoreError: there is no store.
    """
    folders = _objects(store)
    found = []
    for done, folder in enumerate(folders):
        progress("reading outputs", done, len(folders))
        entry = store.find(folder.name)
        what = _wrong(entry) if entry else "entry.json is missing or damaged, or a file's size is wrong"
        if what:
            found.append(Finding(folder, what, _size(folder)))
    return found + _leftovers(store)


def unneeded(store: Store, kept: Sequence[Entry]) -> list[Finding]:
    """Outputs that none of some builds use, and what dead processes left.

    Args:
        store: that all these builds use.
        kept: the outputs they use.

    Raises:
        StoreError: there is no store.
    """
    wanted = {entry.key for entry in kept}
    rest = [folder for folder in _objects(store) if folder.name not in wanted]
    return [Finding(folder, _described(store, folder.name), _size(folder)) for folder in rest] + _leftovers(
        store
    )


def _objects(store: Store) -> list[Path]:
    objects = store.root / "objects"
    if not objects.is_dir():
        raise StoreError(
            "there is no store here", where=str(store.root), mend="name the build file whose store is meant"
        )
    return sorted(folder for part in objects.iterdir() if part.is_dir() for folder in part.iterdir())


def _wrong(entry: Entry) -> str | None:
    there = {path.relative_to(entry.out).as_posix() for path in entry.out.rglob("*") if path.is_file()}
    if there != set(entry.files):
        return f"files it was not made with: {', '.join(sorted(there ^ set(entry.files)))}"
    changed = [name for name, (_, sha) in entry.files.items() if file_sha256(entry.out / name) != sha]
    return f"changed since it was made: {', '.join(changed)}" if changed else None


def _described(store: Store, key: str) -> str:
    entry = store.find(key)
    return f"{entry.stage}, made {entry.finished_at}" if entry else "damaged"


def _leftovers(store: Store) -> list[Finding]:
    """Work folders of processes that are gone: nobody holds their lock."""
    return [
        Finding(folder, "half-made, its process is gone", _size(folder))
        for folder in sorted((store.root / "work").glob("*"))
        if folder.is_dir() and not _held(store, folder.name)
    ]


def _held(store: Store, key: str) -> bool:
    lock = FileLock(str(store.root / "locks" / f"{key}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
