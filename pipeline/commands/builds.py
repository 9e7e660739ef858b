"""The verbs about whole builds. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import ALLOW_CODE, AS_JSON, OVERRIDES


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
def init(folder: Path) -> None:
    """Write a commented build.toml.

    Example: edgewright init my-sorter
    """
    from pipeline.verbs.scaffold import write_build_file

    click.echo(f"wrote {write_build_file(folder)}")


@click.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@OVERRIDES
@ALLOW_CODE
@AS_JSON
@click.option("--in-docker", is_flag=True, help="Build in the toolchain's image, by Docker or Podman.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Of a Dask cluster that takes statistics over many images."
)
@click.pass_context
def build(
    ctx: click.Context,
    build_file: Path,
    overrides: tuple[str, ...],
    allow_code: bool,
    as_json: bool,
    in_docker: bool,
    scheduler: str | None,
) -> None:
    """Do everything BUILD_FILE asks for that is not done yet.

    Example: edgewright build examples/footwear/build.toml
    """
    if in_docker:
        from pipeline.verbs.container import build_in_container

        flags = ["--allow-code"] * allow_code + ["--json"] * as_json
        flags += [flag for each in overrides for flag in ("--set", each)]
        ctx.exit(build_in_container(build_file, flags, allow_code))
    if scheduler:
        from pipeline.cluster import join_cluster

        join_cluster(scheduler)
    from pipeline.config.overrides import parse_overrides
    from pipeline.session import Session
    from pipeline.verbs.console import listening
    from pipeline.verbs.summary import build_document, build_text

    with listening() as listener:
        session = Session(build_file, allow_code, listener, parse_overrides(overrides))
        result = session.build()
    click.echo(json.dumps(build_document(result), indent=1) if as_json else build_text(result))


@click.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@OVERRIDES
@ALLOW_CODE
@AS_JSON
def explain(build_file: Path, overrides: tuple[str, ...], allow_code: bool, as_json: bool) -> None:
    """Say for every stage what a build would do now, and which part of its key differs.

    Example: edgewright explain examples/footwear/build.toml
    """
    from dataclasses import asdict

    from pipeline.config.overrides import parse_overrides
    from pipeline.session import Session
    from pipeline.verbs.summary import decisions_text

    decisions = Session(build_file, allow_code, overrides=parse_overrides(overrides)).explain()
    if as_json:
        click.echo(json.dumps([asdict(decision) for decision in decisions], indent=1))
    else:
        click.echo(decisions_text(decisions))


@click.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for scores.json, plans and scores.html.")
@ALLOW_CODE
@AS_JSON
def scores(build_file: Path, out: Path | None, allow_code: bool, as_json: bool) -> None:
    """Say which channels the students of BUILD_FILE would keep, and what is lost with the others.

    Runs what this takes and is not done yet, up to each student's structure; trains no student.

    Example: edgewright scores examples/footwear/build.toml --out scores
    """
    from pipeline.verbs.console import listening
    from pipeline.verbs.scores import score_build, scores_text, write_scores

    with listening() as listener:
        found = score_build(build_file, allow_code, listener)
    if out:
        write_scores(found, out)
    click.echo(json.dumps(found.document(), indent=1) if as_json else scores_text(found.structure))
    if out and not as_json:
        click.echo(f"wrote {out / 'scores.html'}")


@click.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@click.option("--class", "classes", multiple=True, help="Cut a network to this class; once for each class.")
@click.option("--other", is_flag=True, help="Everything else becomes one more output.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), help="Of a class's mass on its path.")
@click.option("--macs", type=click.FloatRange(0, 1, min_open=True), help="Share of the operations to keep.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for paths.html, scores and the network.")
@ALLOW_CODE
@AS_JSON
def paths(
    build_file: Path,
    classes: tuple[str, ...],
    other: bool,
    share: float | None,
    macs: float | None,
    out: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Say which channels of BUILD_FILE's teacher serve which class, and cut it to some classes.

    Channels are scored once; after that every set of classes is cut and repaired in seconds, untrained.

    Example: edgewright paths examples/footwear/build.toml --class Sandal --class Sneaker --out sandals
    """
    from pipeline.verbs.console import listening
    from pipeline.verbs.paths import Wanted, paths_text, trace_build, write_paths

    with listening() as listener:
        found = trace_build(build_file, Wanted(classes, other, share, macs), allow_code, listener)
    if out:
        write_paths(found, out)
    click.echo(json.dumps(found.document(), indent=1) if as_json else paths_text(found))
    if out and not as_json:
        click.echo(f"wrote {out / 'paths.html'}")


@click.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for triage.html and triage.json.")
@ALLOW_CODE
@AS_JSON
def triage(build_file: Path, out: Path | None, allow_code: bool, as_json: bool) -> None:
    """Say which blocks of BUILD_FILE's teacher one layer could stand for, and what that would save.

    Example: edgewright triage examples/footwear/build.toml --out triage
    """
    from pipeline.verbs.console import listening
    from pipeline.verbs.triage import triage_build, triage_text, write_triage

    with listening() as listener:
        found = triage_build(build_file, allow_code, listener)
    if out:
        write_triage(found, out)
    click.echo(json.dumps(found.triage, indent=1) if as_json else triage_text(found.triage))
    if out and not as_json:
        click.echo(f"wrote {out / 'triage.html'}")


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path, exists=True))
@click.argument("build", type=click.Path(path_type=Path, exists=True))
@click.option("--build-file", type=click.Path(path_type=Path), help="Limits from its [compare].")
@click.option(
    "--without",
    type=click.Choice(["accuracy", "latency", "size"]),
    multiple=True,
    help="Leave this out; may be given several times.",
)
@click.option("--recorded", is_flag=True, help="Compare the records' samples; time nothing.")
@click.option("--inputs", type=click.Path(path_type=Path), help=".npz to time with; random without it.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write a summary for pull requests here.")
@ALLOW_CODE
@AS_JSON
@click.pass_context
def compare(
    ctx: click.Context,
    baseline: Path,
    build: Path,
    build_file: Path | None,
    without: tuple[Any, ...],
    recorded: bool,
    inputs: Path | None,
    junit: Path | None,
    markdown: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Hold BUILD against BASELINE: output folders or report.json files. Exit code 1 past the limits.

    Example: edgewright compare baseline/report.json out --junit junit.xml
    """
    from pipeline.verbs import compare as verb

    found = verb.compare_builds(
        baseline,
        build,
        build_file=build_file,
        allow_code=allow_code,
        without=without,
        recorded=recorded,
        inputs=inputs,
    )
    if junit:
        verb.write_text(junit, verb.comparison_junit(found))
    if markdown:
        verb.write_text(markdown, verb.comparison_markdown(found))
    click.echo(json.dumps(found.document(), indent=1) if as_json else verb.comparison_text(found))
    ctx.exit(0 if found.passed else 1)


@click.command()
@click.argument("record", type=click.Path(path_type=Path), default="out/report.json")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: where the record lies.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of report.json instead.")
@click.option(
    "--trend",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Plot the series of builds whose records lie in this folder instead.",
)
def report(record: Path, out: Path | None, schema: bool, trend: Path | None) -> None:
    """Render a build's record, report.json, as HTML and Markdown.

    Example: edgewright report out/report.json --out page
    """
    if trend:
        from importlib.metadata import version

        from pipeline.report import render_trend

        render_trend(trend, out or trend, version("edgewright"))
        click.echo(f"wrote {(out or trend) / 'trend.html'}")
        return
    from pipeline.record import Record

    if schema:
        click.echo(json.dumps(Record.model_json_schema(by_alias=True), indent=1, sort_keys=True))
        return
    from pipeline.report import load, render

    folder = out or record.parent
    render(load(record), folder)
    click.echo(f"wrote {folder / 'report.html'}")
