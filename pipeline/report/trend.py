"""A series of builds: what became of accuracy, latency and size from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.record import Record, Result
from pipeline.report.canvas import FAINT, MARKERS, SERIES, Mark, Naming, element, frame, new_figure, style
from pipeline.report.document import load
from pipeline.report.numbers import Measured, byte_unit, measured, measured_column
from pipeline.report.provenance import moment
from pipeline.report.wording import Wording, wording
from targets.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST = 2
Figures = Callable[[Result], tuple[float, float, float]]


@dataclass(frozen=True)
class LeftOut:
    """A file that is no record of the series, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Build:
    """One build of the series."""

    name: str
    record: Record

    @property
    def title(self) -> str:
        """Version and moment, as the table names it."""
        return f"{self.record.project.version}, {moment(self.record.project.finished_at)}"


@dataclass(frozen=True)
class Row:
    """One build on one target, in the units of the table's columns."""

    build: Build
    number: int
    variant: str
    mark: Mark
    result: Result
    accuracy: Measured
    median: Measured
    size: str
    machine: str

    @property
    def stable(self) -> bool:
        """Whether its timing can be trusted, as far as the record says."""
        return self.result.latency.verdict in (None, "stable")


@dataclass(frozen=True)
class TargetTrend:
    """The series of one target.

    Args:
        name: of the target.
        rows: builds in order of time, variants that ship.
        size_unit: of the sizes.
        plots: SVG elements: accuracy, latency, size.
        machines: CPUs the timings were taken on; with more than one, latencies cannot be compared.
    """

    name: str
    rows: list[Row]
    size_unit: str
    plots: list[str]
    machines: list[str]


@dataclass(frozen=True)
class Trend:
    """A series of builds of one project."""

    project: str
    builds: list[Build]
    targets: list[TargetTrend]
    left_out: list[LeftOut]
    words: Wording


def collect(folder: Path) -> tuple[list[Build], list[LeftOut]]:
    """Read the records of a folder: its .json files, and the report.json of each folder in it.

    Returns:
        Builds in order of time, and files that are no record of this schema version.

    Raises:
        ConfigError: fewer than two records, or records of more than one project.
    """
    builds, left_out = [], []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/report.json")]):
        name = path.relative_to(folder).as_posix()
        try:
            builds.append(Build(name, load(path)))
        except ConfigError as error:
            left_out.append(LeftOut(name, error.what))
    if len(builds) < FEWEST:
        said = "".join(f"\n    {each.name}: {each.reason}" for each in left_out)
        raise ConfigError(
            f"{len(builds)} build records make no series{said}",
            where=str(folder),
            mend="put the report.json of at least two builds there, as NAME.json or NAME/report.json",
        )
    projects = sorted({build.record.project.name for build in builds})
    if len(projects) > 1:
        raise ConfigError(
            f"records of different projects make no series: {', '.join(projects)}",
            where=str(folder),
            mend="keep a folder for each project",
        )
    return sorted(builds, key=lambda build: build.record.project.finished_at), left_out


def view(folder: Path) -> Trend:
    """Return the series of a folder as a page shows it.

    Raises:
        ConfigError: as `collect`.
    """
    builds, left_out = collect(folder)
    names = list(dict.fromkeys(target.name for build in builds for target in build.record.targets))
    words = wording(builds[-1].record.data.labels)
    return Trend(
        project=builds[0].record.project.name,
        builds=builds,
        targets=[_target(name, number, builds, words) for number, name in enumerate(names, 1)],
        left_out=left_out,
        words=words,
    )


def _target(name: str, number: int, builds: Sequence[Build], words: Wording) -> TargetTrend:
    found = [
        (place, build, result)
        for place, build in enumerate(builds, 1)
        for result in build.record.results
        if result.target == name and result.role == "product"
    ]
    variants = list(dict.fromkeys(result.variant for _, _, result in found))
    unit = byte_unit(result.engine.size_bytes for _, _, result in found)
    shares = [(result.accuracy.top1, *result.accuracy.top1_interval) for _, _, result in found]
    accuracies = measured_column(shares, 100)
    rows = [
        Row(
            build=build,
            number=place,
            variant=result.variant,
            mark=Mark.numbered(variants.index(result.variant), variants.index(result.variant)),
            result=result,
            accuracy=accuracy,
            median=measured(result.latency.median_ms, *result.latency.median_interval_ms),
            size=unit.write(result.engine.size_bytes),
            machine=_machine(build.record, name),
        )
        for (place, build, result), accuracy in zip(found, accuracies, strict=True)
    ]
    panels: dict[str, Figures] = {
        f"{words.short.capitalize()}, %": _percent,
        "Median latency, ms": _times,
        f"Engine, {unit.name}": lambda result: _point(result.engine.size_bytes / unit.size),
    }
    plots = [
        _plot(rows, figure, title, Naming(f"trend-{number}-{place}", f"{title}, on {name}", _said(rows)))
        for place, (title, figure) in enumerate(panels.items(), 1)
    ]
    return TargetTrend(name, rows, unit.name, plots, list(dict.fromkeys(row.machine for row in rows)))


def _machine(record: Record, target: str) -> str:
    found = record.environments.get(target)
    return found.facts.get("cpu_model", "unknown") if found else "unknown"


def _said(rows: Sequence[Row]) -> str:
    return "; ".join(
        f"build {row.number}, {row.variant}: {row.accuracy} %, {row.median} ms, {row.size}" for row in rows
    )


def _plot(rows: Sequence[Row], figure_of: Figures, title: str, naming: Naming) -> str:
    """Draw one figure over the builds; latencies that were not stable are hollow."""
    with style(naming):
        figure = new_figure(310, 215)
        axes = figure.add_subplot()
        frame(axes)
        axes.grid(True, color=FAINT, linewidth=0.7)
        axes.set_title(title, loc="left")
        axes.set_xlabel("build")
        for variant in dict.fromkeys(row.variant for row in rows):
            own = [row for row in rows if row.variant == variant]
            _draw(axes, own, [figure_of(row.result) for row in own], hollow=figure_of is _times)
        _finish(axes, max(row.number for row in rows))
        return element(figure, naming)


def _percent(result: Result) -> tuple[float, float, float]:
    low, high = result.accuracy.top1_interval
    return 100 * result.accuracy.top1, 100 * low, 100 * high


def _point(value: float) -> tuple[float, float, float]:
    return value, value, value


def _times(result: Result) -> tuple[float, float, float]:
    return result.latency.median_ms, *result.latency.median_interval_ms


def _draw(
    axes: Axes, rows: Sequence[Row], figures: Sequence[tuple[float, float, float]], hollow: bool
) -> None:
    mark = rows[0].mark
    colour = SERIES[mark.colour]
    numbers = [row.number for row in rows]
    axes.plot(numbers, [value for value, _, _ in figures], color=colour, linewidth=1.2)
    for row, (value, low, high) in zip(rows, figures, strict=True):
        axes.errorbar(
            row.number,
            value,
            yerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]],
            fmt=MARKERS[mark.shape],
            color=colour,
            markerfacecolor="none" if hollow and not row.stable else colour,
            markersize=6,
            elinewidth=1.2,
        )


def _finish(axes: Axes, builds: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, builds + 0.5)
    axes.margins(y=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(min(builds, 8), integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
