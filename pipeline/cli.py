"""The `edgewright` command: its verbs put together, and how it ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipeline.commands import builds, bundles, machines, models, sweeps
from targets.errors import EdgewrightError


class Terminated(KeyboardInterrupt):
    """SIGTERM: a verb ends as tidily as after Ctrl-C."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM; only a process's main thread can, elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Verbs(click.Group):
    """Turns errors of the project into a message and an exit code; a traceback means a bug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb."""
        try:
            with terminable():
                return super().invoke(ctx)
        except EdgewrightError as error:
            click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            from pipeline.disk import trouble

            told = trouble(error, Path())
            if told is None:
                raise
            click.echo(click.style("error: ", fg="red", bold=True) + str(told), err=True)
            ctx.exit(told.exit_code)
        except KeyboardInterrupt as stop:
            click.echo("interrupted; finished stages are kept, the same command goes on from there", err=True)
            ctx.exit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgewright")
def main() -> None:
    """From a trained network to verified, timed engines and a report.

    Exit codes: 0 done, 1 a gate failed, 2 something is wrong with the command, the build file or its inputs,
    3 a toolchain is missing.
    """


VERBS = (
    *(builds.init, builds.build, builds.explain, builds.scores, builds.paths, builds.triage),
    *(builds.compare, builds.report, sweeps.sweep),
    *(models.check, models.quantize, models.unpack, models.compile, models.bench, models.evaluate),
    *(bundles.release, bundles.verify, bundles.selftest, bundles.keys),
    *(machines.doctor, machines.targets, machines.device, machines.toolchain, machines.store),
)
for verb in VERBS:
    main.add_command(verb)


if __name__ == "__main__":
    sys.exit(main())
