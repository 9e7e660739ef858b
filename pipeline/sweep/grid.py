"""Every combination of the axes, the last one changing fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.sweep.document import Outcome
from pipeline.sweep.file import Axis, label_of
from pipeline.sweep.point import Point
from targets.errors import ConfigError

# Beyond this nobody waits for a grid's end.
MOST_POINTS = 10_000


class Grid:
    """The points of a grid, each asked for once."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._points = grid_points(axes)
        self.planned = len(self._points)
        self._waiting = iter(self._points)
        self._places = {point.name: place for place, point in enumerate(self._points)}

    def finished(self) -> list[Outcome]:
        """What is known before anything runs: nothing. The store knows what is built already."""
        return []

    def ask(self) -> Point | None:
        """The next point, None after the last."""
        return next(self._waiting, None)

    def tell(self, outcome: Outcome) -> None:
        """A grid learns nothing from its points."""

    def place(self, name: str) -> int:
        """Where a point stands among all."""
        return self._places[name]


def grid_points(axes: Sequence[Axis]) -> list[Point]:
    """Every combination of labelled axes.

    Raises:
        ConfigError: two combinations would have one name, or there are too many.
    """
    count = math.prod(len(axis.labelled) for axis in axes)
    if count > MOST_POINTS:
        raise ConfigError(
            f"a grid of {count:,} points; {MOST_POINTS:,} are the most",
            where="axes",
            mend="take fewer values, or search among them: [search] with trials = …",
        )
    chosen = itertools.product(*(axis.labelled for axis in axes))
    points = [point_of("_".join(label_of(label) for label in labels), axes, labels) for labels in chosen]
    repeated = _repeated(point.name for point in points)
    if repeated:
        raise ConfigError(
            f"two points would be called {repeated!r}", where="axes", mend="give their choices other names"
        )
    return points


def point_of(name: str, axes: Sequence[Axis], labels: Sequence[str]) -> Point:
    """The point with one choice along each labelled axis; what a later axis sets wins."""
    overrides: dict[str, Any] = {}
    for axis, label in zip(axes, labels, strict=True):
        put_last(overrides, axis.labelled[label])
    return Point(name, {axis.name: label for axis, label in zip(axes, labels, strict=True)}, overrides)


def put_last(overrides: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add keys at the end, so that they are put in after those that are there."""
    for key, value in more.items():
        overrides.pop(key, None)
        overrides[key] = value


def _repeated(names: Iterator[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
