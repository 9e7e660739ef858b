"""Folders of very many files: walked in a fixed order, and held in few bytes a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray


def entries_below(folder: Path, name: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder that is no folder, in the order of its path's parts; links are not followed.

    Of no more than one folder a level all names are held at a time.

    Args:
        folder: where to look.
        name: put before the names of what is found there, a slash included.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from entries_below(folder / entry.name, f"{name}{entry.name}/")
        else:
            yield name + entry.name, entry


class FileList(Sequence[Path]):
    """Paths below a folder: their names in one piece of memory, made into a path when asked for.

    Args:
        folder: that all lie below.
        names: as they are called there, encoded, one after the other.
        ends: where each of them ends, rising.
    """

    def __init__(self, folder: Path, names: bytes, ends: NDArray[np.int64]) -> None:
        self._folder, self._names, self._ends = folder, names, ends

    @classmethod
    def below(
        cls, folder: Path, within: Sequence[str], wanted: Callable[[str], bool]
    ) -> tuple[FileList, list[int]]:
        """Every file of some folders whose name is wanted.

        Args:
            folder: that they lie in.
            within: their names there, in the order of their files; "." is the folder itself, and one that is
                not there has no files.
            wanted: whether a file's name is.

        Returns:
            The files, and how many there are of each folder.
        """
        names = bytearray()
        counts = [0] * len(within)

        def ends() -> Iterator[int]:
            for place, name in enumerate(within):
                there = folder / name
                for path, entry in entries_below(there, f"{name}/") if there.is_dir() else ():
                    if wanted(entry.name):
                        names.extend(os.fsencode(path))
                        counts[place] += 1
                        yield len(names)

        found = np.fromiter(ends(), np.int64)
        return cls(folder, bytes(names), found), counts

    def __len__(self) -> int:
        """Number of files."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """One path, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = self._ends[place - 1] if place else 0
        return self._folder / os.fsdecode(self._names[start : self._ends[place]])
