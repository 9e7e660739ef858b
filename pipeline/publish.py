"""Hand over what a build made: copies in the output folder, each whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.disk import beside, explained, write_whole
from pipeline.stage import Ref
from pipeline.store import Entry
from targets.errors import ConfigError
from targets.toolchain import file_sha256

LIST_FILE = ".published.json"


def publish(output: Path, wanted: Mapping[str, Ref], entries: Mapping[str, Entry]) -> list[str]:
    """Copy artefacts to the output folder and remove those an earlier build put there and this one did not.

    Files that are already there and equal are left alone, so a build that did nothing changes nothing.

    Args:
        output: the folder.
        wanted: path below it → artefact; folders are copied file by file.
        entries: stage name → its finished output.

    Returns:
        paths that changed, relative to the folder.

    Raises:
        StoreError: the folder cannot be written.
    """
    with explained(output):
        changed = []
        current: dict[str, str] = {}
        for path, source, digest in _files(wanted, entries):
            current[path] = digest
            if file_sha256(output / path) != digest:
                _copy(source, output / path)
                changed.append(path)
        published = _published(output)
        gone = [path for path in published if path not in current]
        for path in gone:
            _remove(output, path)
        if published != current:
            write_whole(output / LIST_FILE, json.dumps(current, indent=1, sort_keys=True) + "\n")
    return changed + gone


def _files(wanted: Mapping[str, Ref], entries: Mapping[str, Entry]) -> Iterator[tuple[str, Path, str]]:
    for path, ref in wanted.items():
        entry = entries[ref.stage]
        for name, (_, digest) in entry.files.items():
            if name == ref.artefact:
                yield path, entry.out / name, digest
            elif name.startswith(ref.artefact + "/"):
                yield f"{path}/{name.removeprefix(ref.artefact + '/')}", entry.out / name, digest


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = beside(target)
    try:
        shutil.copyfile(source, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _published(output: Path) -> dict[str, str]:
    """What an earlier build put there, path → digest; nothing of a list that is missing or damaged."""
    try:
        document = json.loads((output / LIST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _remove(output: Path, path: str) -> None:
    """Remove a file this project once put there, and folders that are empty then."""
    target = (output / path).resolve()
    if not target.is_relative_to(output.resolve()):
        return
    target.unlink(missing_ok=True)
    for folder in target.parents:
        # One that is gone already was removed by a build that was killed before it could say so.
        if folder == output.resolve() or (folder.exists() and any(folder.iterdir())):
            break
        if folder.exists():
            folder.rmdir()


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all went well, so that nobody finds half of one.

    Raises:
        ConfigError: there is something already.
    """
    refuse_existing(out)
    unfinished = beside(out)
    with explained(out):
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            if out.exists():
                out.rmdir()
            unfinished.rename(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Refuse to write over anything but an empty folder.

    Raises:
        ConfigError: there is something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            "there is something already", where=str(out), mend="remove it, or name another --out"
        )
