"""`edgewright sweep`: many builds from one build file, and what is worth choosing among them."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from pipeline.disk import explained, write_whole
from pipeline.report.sweep import render_sweep
from pipeline.run import Listener
from pipeline.sweep.document import Outcome, Sweep, to_json, with_fronts
from pipeline.sweep.executors import Cluster, Executor, Here
from pipeline.sweep.file import SweepFile, load_sweep
from pipeline.sweep.grid import Grid
from pipeline.sweep.point import Job, Point
from pipeline.sweep.search import Search
from pipeline.verbs.table import aligned
from targets.errors import ConfigError

Told = Callable[[Outcome, int, int], None]


class Source(Protocol):
    """Where points come from."""

    planned: int

    def finished(self) -> list[Outcome]:
        """What earlier runs found and this one need not do again."""
        ...

    def ask(self) -> Point | None:
        """The next point, None when there is none."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """What came of a point."""
        ...

    def place(self, name: str) -> int:
        """Where a point stands among all."""
        ...


@dataclass(frozen=True)
class Swept:
    """A finished sweep.

    Args:
        sweep: sweep.json.
        output: folder of sweep.html, sweep.json and the points.
    """

    sweep: Sweep
    output: Path


def run_sweep(
    path: Path,
    *,
    allow_code: bool = False,
    scheduler: str | None = None,
    listener: Listener | None = None,
    told: Told | None = None,
) -> Swept:
    """Build every point of a sweep file that is not built yet, and write sweep.json and sweep.html.

    sweep.json is whole after every point; a sweep that is stopped goes on from there.

    Args:
        path: the sweep file.
        allow_code: the build file may name Python code.
        scheduler: address of a Dask cluster's scheduler; None builds here, one point after the other.
        listener: told of stages that run here.
        told: called with every finished point, how many are, and how many there are to be.

    Raises:
        ConfigError: the sweep file is not valid, another sweep writes there, or no scheduler answers.
        ToolchainMissing: Optuna or Dask is wanted and not installed.
    """
    file = load_sweep(path)
    folder = path.resolve().parent
    build = (folder / Path(file.sweep.build).expanduser()).resolve()
    if not build.is_file():
        raise ConfigError("there is no such build file", where=str(build), mend="correct sweep.build")
    output = (folder / Path(file.sweep.output).expanduser()).resolve()
    with _alone(output):
        source = _source(file, output)
        executor: Executor = Cluster(scheduler) if scheduler else Here(listener)
        progress = _Progress(file, source, output, told)
        try:
            while True:
                while executor.free() > 0 and (point := source.ask()) is not None:
                    folder_of_point = output / "points" / point.name
                    executor.start(Job(point, build, file.sweep.name, folder_of_point, allow_code))
                done = executor.next()
                if done is None:
                    break
                source.tell(done)
                progress.add(done)
        finally:
            executor.close()
            progress.render()
    return Swept(progress.sweep(), output)


class _Progress:
    """What is finished so far, kept in sweep.json."""

    def __init__(self, file: SweepFile, source: Source, output: Path, told: Told | None) -> None:
        self._file, self._source, self._output, self._told = file, source, output, told
        self._points = source.finished()

    def add(self, outcome: Outcome) -> None:
        """Take in one more point."""
        self._points.append(outcome)
        self._write()
        if self._told is not None:
            self._told(outcome, len(self._points), self._source.planned)

    def render(self) -> None:
        """Write the page, if there is something to show."""
        if self._points:
            self._write()
            render_sweep(self.sweep(), self._output)

    def sweep(self) -> Sweep:
        """All of it, points in the order they were asked for."""
        section, search = self._file.sweep, self._file.search
        return Sweep(
            name=section.name,
            build=section.build,
            edgewright_version=importlib.metadata.version("edgewright"),
            finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            planned=self._source.planned,
            objectives=list(search.objectives) if search else [],
            points=with_fronts(sorted(self._points, key=lambda point: self._source.place(point.name))),
        )

    def _write(self) -> None:
        with explained(self._output):
            write_whole(self._output / "sweep.json", to_json(self.sweep()))


def _source(file: SweepFile, output: Path) -> Source:
    if file.search is None:
        return Grid(file.axes)
    return Search(file.sweep.name, file.search, file.axes, output)


def point_line(outcome: Outcome, done: int, planned: int) -> str:
    """One line a finished point, for people who watch."""
    mark = "✓" if outcome.state == "done" else "✗"
    reason = f": {outcome.reason}" if outcome.error else ""
    return f"{mark} {done}/{planned} {outcome.name}  {outcome.seconds:.0f} s{reason}"


def sweep_text(swept: Swept) -> str:
    """What is worth choosing among, target by target, then what failed."""
    sweep = swept.sweep
    lines = []
    everything = [(point, result) for point in sweep.points for result in point.results]
    for target in dict.fromkeys(result.target for _, result in everything):
        front = [(point, result) for point, result in everything if result.target == target and result.front]
        rows = [["point", "ships", "accuracy (select)", "median", "size"]]
        for point, result in sorted(front, key=lambda pair: -pair[1].accuracy):
            latency = "-" if result.latency_ms is None else f"{result.latency_ms:.3f} ms"
            size = "-" if result.size_bytes is None else f"{result.size_bytes / 1024:,.0f} KiB"
            rows.append([point.name, result.variant, f"{result.accuracy:.2%}", latency, size])
        lines += ["", f"{target}: no point is better in everything than one of these", *aligned(rows)]
    for point in sweep.points:
        if point.error:
            lines += ["", f"failed: {point.name}", *(f"  {line}" for line in point.error.splitlines())]
    failed = sum(point.state == "failed" for point in sweep.points)
    done = len(sweep.points) - failed
    counts = f"{done} of {sweep.planned} points are built" + (f", {failed} failed." if failed else ".")
    return "\n".join([*lines, "", counts, f"The report: {os.path.relpath(swept.output / 'sweep.html')}"])


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the output folder, so that two sweeps never write one.

    Raises:
        ConfigError: another one does.
    """
    with explained(output):
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(output / ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                "another sweep is writing here",
                where=str(output),
                mend="wait for it, or give this one another sweep.output",
            ) from error
    try:
        yield
    finally:
        lock.release()
