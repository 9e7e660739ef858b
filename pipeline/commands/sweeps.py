"""The verb about many builds. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.options import ALLOW_CODE, AS_JSON

if TYPE_CHECKING:
    from pipeline.sweep.document import Outcome


@click.command()
@click.argument("sweep_file", type=click.Path(path_type=Path), default="sweep.toml")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Of a Dask cluster that builds the points, as in tcp://host:8786."
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of sweep.json instead.")
@ALLOW_CODE
@AS_JSON
@click.pass_context
def sweep(
    ctx: click.Context,
    sweep_file: Path,
    scheduler: str | None,
    schema: bool,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Build every point of SWEEP_FILE, a grid or a search, and say which are worth choosing among.

    Points share one store. What is done is kept however the sweep ends; the same command goes on from there.

    Example: edgewright sweep examples/footwear/sweep.toml
    """
    from pipeline.sweep.document import json_schema, to_json

    if schema:
        click.echo(json.dumps(json_schema(), indent=1, sort_keys=True))
        return
    from pipeline.verbs.console import console, listening
    from pipeline.verbs.sweep import point_line, run_sweep, sweep_text

    def tell(outcome: Outcome, done: int, planned: int) -> None:
        console.print(point_line(outcome, done, planned), markup=False, soft_wrap=True)

    with listening() as listener:
        swept = run_sweep(
            sweep_file,
            allow_code=allow_code,
            scheduler=scheduler,
            listener=listener,
            told=tell,
        )
    click.echo(to_json(swept.sweep), nl=False) if as_json else click.echo(sweep_text(swept))
    ctx.exit(0 if any(point.state == "done" for point in swept.sweep.points) else 1)
