"""What the terminal shows while a build runs; nothing when nobody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.run import Listener, Outcome
from pipeline.stage import Progress as ProgressCall
from pipeline.stage import Stage
from pipeline.store import Entry

console = Console(stderr=True, highlight=False)


class ConsoleListener(Listener):
    """One line a finished stage, a bar for the running one; silent when output is piped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None

    def started(self, stage: Stage) -> None:
        """Open a bar."""
        self._bar = self._progress.add_task(escape(stage.name), total=None, what="")

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total, what=escape(what))

    def waiting(self, stage: Stage) -> None:
        """Say who is waited for."""
        self._print(f"  [yellow]waiting[/] {escape(stage.name)}: another build makes it")

    def queued(self, stage: Stage, holder: str) -> None:
        """Say on the bar who measures on this machine."""
        self.progress(f"{stage.name} waits for {holder}", 0, 1)

    def finished(self, stage: Stage, entry: Entry, outcome: Outcome) -> None:
        """Close the bar; reused stages are only counted, at the end."""
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
        if outcome == "ran":
            self._print(f"  [green]✓[/] {escape(stage.name)}  [dim]{entry.seconds:.1f} s[/]")

    def _print(self, line: str) -> None:
        if self._progress.console.is_terminal:
            self._progress.console.print(line)


class Waiting:
    """Says once who has the machine that a measurement waits for; call it with them."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, holder: str) -> None:
        """Somebody measures on this machine."""
        if not self._told:
            console.print(f"waiting: {holder} measures on this machine", markup=False)
        self._told = True


@contextmanager
def listening() -> Iterator[ConsoleListener]:
    """A listener that draws on the terminal as long as it is open."""
    with _bars() as progress:
        listener = ConsoleListener(progress)
        try:
            yield listener
        finally:
            if listener._bar is not None:
                progress.remove_task(listener._bar)


@contextmanager
def progressing(name: str) -> Iterator[ProgressCall]:
    """One bar for one job outside of a build: call it with what is done, how much, and how much there is."""
    with _bars() as progress:
        bar = progress.add_task(name, total=None, what="")
        yield lambda what, done, total: progress.update(bar, completed=done, total=total, what=escape(what))


def _bars() -> Progress:
    columns = (
        TextColumn("  [bold]{task.description}[/]"),
        BarColumn(bar_width=24),
        TextColumn("[dim]{task.fields[what]}[/]"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
