"""A sweep on one page: what every point came to, and which of them nothing else beats."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.report.canvas import (
    FAINT,
    INK,
    MARKERS,
    SERIES,
    Mark,
    Naming,
    element,
    frame,
    new_figure,
    scale,
    style,
)
from pipeline.report.numbers import NOTHING, Measured, Unit, byte_unit, measured, measured_column
from pipeline.report.page import render_alone
from pipeline.report.provenance import moment
from pipeline.sweep.document import Outcome, PointResult, Sweep, costs, dominates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# (value, low, high) of both axes
Spot = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Row:
    """One engine that a point ships, in the units of the table's columns."""

    number: int
    point: Outcome
    result: PointResult
    mark: Mark
    accuracy: Measured
    latency: Measured | None
    size: str
    test: Measured

    @property
    def stable(self) -> bool:
        """Whether its timing can be trusted, as far as is known."""
        return self.result.verdict in (None, "stable")


@dataclass(frozen=True)
class Key:
    """What a colour or a shape stands for."""

    mark: Mark
    name: str


@dataclass(frozen=True)
class TargetView:
    """All points on one target, the fastest first."""

    name: str
    rows: list[Row]
    size_unit: str
    plots: list[str]
    machines: list[str]


@dataclass(frozen=True)
class Command:
    """How one point is built by hand: the command, then its options."""

    name: str
    parts: list[str]


@dataclass(frozen=True)
class SweepView:
    """What the page shows."""

    sweep: Sweep
    axes: list[str]
    targets: list[TargetView]
    keys: list[Key]
    failed: list[Outcome]
    commands: list[Command]
    finished: str


def render_sweep(sweep: Sweep, folder: Path) -> None:
    """Write sweep.html.

    Args:
        sweep: all that is shown.
        folder: where the file goes; made when missing.

    Raises:
        StoreError: the folder cannot be written.
    """
    render_alone("sweep", folder, {"view": view(sweep), "edgewright_version": sweep.edgewright_version})


def view(sweep: Sweep) -> SweepView:
    """What the page shows of a sweep."""
    axes = list(dict.fromkeys(axis for point in sweep.points for axis in point.labels))
    marks = _Marks(axes, sweep.points)
    names = dict.fromkeys(result.target for point in sweep.points for result in point.results)
    return SweepView(
        sweep=sweep,
        axes=axes,
        targets=[_target(name, place, sweep.points, marks) for place, name in enumerate(names, 1)],
        keys=marks.keys(),
        failed=[point for point in sweep.points if point.state == "failed"],
        commands=[Command(point.name, _command(sweep, point)) for point in sweep.points],
        finished=moment(sweep.finished_at),
    )


class _Marks:
    """A colour for each choice along one axis, a shape for each along another."""

    def __init__(self, axes: Sequence[str], points: Sequence[Outcome]) -> None:
        choices = {axis: list(dict.fromkeys(point.labels[axis] for point in points)) for axis in axes}
        shown = [axis for axis in axes if 1 < len(choices[axis]) <= len(SERIES)][:2]
        self._axes = [(axis, choices[axis]) for axis in shown]

    def of(self, point: Outcome) -> Mark:
        """The mark of a point."""
        places = [choices.index(point.labels[axis]) for axis, choices in self._axes]
        return Mark.numbered(*(*places, 0, 0)[:2])

    def keys(self) -> list[Key]:
        """What they stand for."""
        found = []
        for place, (axis, choices) in enumerate(self._axes):
            for number, choice in enumerate(choices):
                mark = Mark.numbered(number, 0) if place == 0 else Mark.numbered(0, number)
                found.append(Key(mark, f"{axis} {choice}"))
        return found


def _target(name: str, place: int, points: Sequence[Outcome], marks: _Marks) -> TargetView:
    found = [
        (number, point, result)
        for number, point in enumerate(points, 1)
        for result in point.results
        if result.target == name
    ]
    found.sort(key=lambda each: (costs(each[2])[1], costs(each[2])[0]))
    unit = byte_unit(result.size_bytes or 0 for _, _, result in found)
    columns = [
        measured_column([(result.accuracy, *result.accuracy_interval) for _, _, result in found], 100),
        measured_column([(r.test_accuracy, *r.test_accuracy_interval) for _, _, r in found], 100),
    ]
    rows = [
        Row(
            number=number,
            point=point,
            result=result,
            mark=marks.of(point),
            accuracy=accuracy,
            latency=_latency(result),
            size=NOTHING if result.size_bytes is None else unit.write(result.size_bytes),
            test=test,
        )
        for (number, point, result), accuracy, test in zip(found, *columns, strict=True)
    ]
    machines = [result.machine for _, _, result in found if result.machine]
    return TargetView(name, rows, unit.name, _plots(rows, name, place, unit), list(dict.fromkeys(machines)))


def _latency(result: PointResult) -> Measured | None:
    if result.latency_ms is None or result.latency_interval_ms is None:
        return None
    return measured(result.latency_ms, *result.latency_interval_ms)


def _plots(rows: Sequence[Row], target: str, place: int, unit: Unit) -> list[str]:
    """Accuracy against latency and against size, as far as they are known."""
    panels = []
    timed = [row for row in rows if row.latency is not None]
    if timed:
        panels.append(("Median latency, ms", timed, [_spot(row, _times(row)) for row in timed]))
    sized = [row for row in rows if row.result.size_bytes is not None]
    if sized:
        sizes = [(row.result.size_bytes or 0) / unit.size for row in sized]
        spots = [_spot(row, (size, size, size)) for row, size in zip(sized, sizes, strict=True)]
        panels.append((f"Engine, {unit.name}", sized, spots))
    return [
        _plot(
            own,
            spots,
            what,
            Naming(
                f"sweep-{place}-{number}",
                f"Accuracy on the select split against {what}, on {target}",
                _said(own),
            ),
        )
        for number, (what, own, spots) in enumerate(panels, 1)
    ]


def _times(row: Row) -> tuple[float, float, float]:
    assert row.result.latency_ms is not None and row.result.latency_interval_ms is not None
    return row.result.latency_ms, *row.result.latency_interval_ms


def _spot(row: Row, across: tuple[float, float, float]) -> Spot:
    result = row.result
    low, high = result.accuracy_interval
    return across, (100 * result.accuracy, 100 * low, 100 * high)


def _said(rows: Sequence[Row]) -> str:
    return "; ".join(
        f"point {row.number}, {row.result.variant}: {row.accuracy} %, {row.latency or 'not run'}, {row.size}"
        for row in rows
    )


def _plot(rows: Sequence[Row], spots: Sequence[Spot], what: str, naming: Naming) -> str:
    """Draw all points, the best joined and numbered as in the table."""
    from matplotlib.ticker import MaxNLocator

    with style(naming):
        figure = new_figure(400, 300)
        axes = figure.add_subplot()
        frame(axes)
        axes.grid(True, color=FAINT, linewidth=0.7)
        best = [spot for spot in spots if not any(dominates(_worse(each), _worse(spot)) for each in spots)]
        line = sorted({(across[0], up[0]) for across, up in best})
        axes.plot(
            *zip(*line, strict=True), color=INK, linewidth=1.2, linestyle=(0, (4, 3)), alpha=0.6, zorder=1
        )
        for row, spot in zip(rows, spots, strict=True):
            _draw(axes, row, spot, best=spot in best)
        axes.set_xlabel(what)
        axes.set_ylabel("Accuracy (select), %")
        ends = [end for across, _ in spots for end in across]
        scale(axes, "x", min(ends), max(ends), padding=0.2)
        axes.margins(y=0.18)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return element(figure, naming)


def _worse(spot: Spot) -> tuple[float, float]:
    """What is to be small."""
    return spot[0][0], -spot[1][0]


def _draw(axes: Axes, row: Row, spot: Spot, best: bool) -> None:
    (x, *x_ends), (y, *y_ends) = spot
    axes.errorbar(
        x,
        y,
        xerr=[[max(x - x_ends[0], 0.0)], [max(x_ends[1] - x, 0.0)]] if best else None,
        yerr=[[max(y - y_ends[0], 0.0)], [max(y_ends[1] - y, 0.0)]] if best else None,
        fmt=MARKERS[row.mark.shape],
        color=SERIES[row.mark.colour],
        markerfacecolor=SERIES[row.mark.colour] if best else "none",
        markersize=7,
        elinewidth=1.2,
    )
    if best:
        axes.annotate(
            str(row.number), (x, y), xytext=(6, 5), textcoords="offset points", color=SERIES[row.mark.colour]
        )


def _command(sweep: Sweep, point: Outcome) -> list[str]:
    """How the point is built by hand, beside the sweep file."""
    options = [["--set", f"{key}={_toml(value)}"] for key, value in point.overrides.items()]
    return [shlex.join(words) for words in (["edgewright", "build", sweep.build], *options)]


def _toml(value: object) -> str:
    """A value as TOML has it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)
