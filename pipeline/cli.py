"""The verbs of the `edgewright` command. No logic here, and nothing heavy imported before a verb needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.verbs.bundles import keys, release, selftest, verify
from pipeline.verbs.options import NUMBERS, SIZE, TIME
from targets.errors import ConfigError, EdgewrightError

BUILD_FILE = click.option(
    "--build",
    "build_file",
    type=click.Path(path_type=Path),
    default="build.toml",
    show_default=True,
    help="The build file.",
)
ALLOW_CODE = click.option(
    "--allow-code", is_flag=True, help="The build file may name Python code of its own (you trust it)."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class Verbs(click.Group):
    """Turns errors of the project into a message and an exit code; a traceback means a bug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except EdgewrightError as error:
            click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; finished stages are kept, the same command goes on from there", err=True)
            ctx.exit(130)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="edgewright")
def main() -> None:
    """From a trained network to verified, timed engines and a report.

    Exit codes: 0 done, 1 a gate failed, 2 something is wrong with the command, the build file or its inputs,
    3 a toolchain is missing.
    """


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
def init(folder: Path) -> None:
    """Write a commented build.toml.

    Example: edgewright init my-sorter
    """
    from pipeline.verbs.scaffold import write_build_file

    click.echo(f"wrote {write_build_file(folder)}")


@main.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@ALLOW_CODE
@AS_JSON
@click.option("--in-docker", is_flag=True, help="Build in the toolchain's image, by Docker or Podman.")
@click.pass_context
def build(ctx: click.Context, build_file: Path, allow_code: bool, as_json: bool, in_docker: bool) -> None:
    """Do everything BUILD_FILE asks for that is not done yet.

    Example: edgewright build examples/footwear/build.toml
    """
    if in_docker:
        from pipeline.verbs.container import build_in_container

        flags = ["--allow-code"] * allow_code + ["--json"] * as_json
        ctx.exit(build_in_container(build_file, flags, allow_code))
    from pipeline.session import Session
    from pipeline.verbs.console import listening
    from pipeline.verbs.summary import build_document, build_text

    with listening() as listener:
        session = Session(build_file, allow_code, listener)
        result = session.build()
    click.echo(json.dumps(build_document(result), indent=1) if as_json else build_text(result))


@main.command()
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@ALLOW_CODE
@AS_JSON
def explain(build_file: Path, allow_code: bool, as_json: bool) -> None:
    """Say for every stage what a build would do now, and which part of its key differs.

    Example: edgewright explain examples/footwear/build.toml
    """
    from dataclasses import asdict

    from pipeline.session import Session
    from pipeline.verbs.summary import decisions_text

    decisions = Session(build_file, allow_code).explain()
    if as_json:
        click.echo(json.dumps([asdict(decision) for decision in decisions], indent=1))
    else:
        click.echo(decisions_text(decisions))


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
@AS_JSON
def doctor(as_json: bool) -> None:
    """Say which toolchains work here, in which versions, and what to install for the rest.

    Example: edgewright doctor
    """
    from pipeline.verbs.doctor import document
    from pipeline.verbs.summary import doctor_text

    findings = document()
    click.echo(json.dumps(findings, indent=1) if as_json else doctor_text(findings))


@main.group()
def store() -> None:
    """Look after the folder in which finished stages are kept.

    Example: edgewright store verify examples/footwear/build.toml
    """


@store.command("verify")
@click.argument("build_file", type=click.Path(path_type=Path), default="build.toml")
@click.option("--remove", is_flag=True, help="Delete what is damaged; the next build makes it again.")
@ALLOW_CODE
@AS_JSON
def store_verify(build_file: Path, remove: bool, allow_code: bool, as_json: bool) -> None:
    """Read all of BUILD_FILE's store again and compare it with its digests; exit code 1 if something differs.

    Example: edgewright store verify examples/footwear/build.toml
    """
    from pipeline.verbs.console import progressing
    from pipeline.verbs.store import verify_store

    with progressing("verify") as progress:
        findings = verify_store(build_file, remove, allow_code, progress)
    nothing = "every output is what it was when it was made"
    click.echo(json.dumps(findings.document(), indent=1) if as_json else findings.text(nothing))
    if findings.found and not remove:
        click.get_current_context().exit(1)


@store.command()
@click.argument("build_files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Delete it; without this, it is only listed.")
@ALLOW_CODE
@AS_JSON
def gc(build_files: tuple[Path, ...], remove: bool, allow_code: bool, as_json: bool) -> None:
    """List, or remove, what none of BUILD_FILES use. Name all builds that share the store.

    Example: edgewright store gc examples/footwear/build.toml --remove
    """
    from pipeline.verbs.store import collect_garbage

    findings = collect_garbage(build_files, remove, allow_code)
    nothing = "these builds use all of it"
    click.echo(json.dumps(findings.document(), indent=1) if as_json else findings.text(nothing))


@main.group()
def device() -> None:
    """Devices over SSH, and the one file that goes to them.

    Example: edgewright device probe ssh://user@jetson
    """


@device.command()
@click.option("--out", type=click.Path(path_type=Path), default="edgewright-device.pyz", show_default=True)
def app(out: Path) -> None:
    """Write the program for devices: one file, for Python 3.8, numpy and a runtime.

    Example: edgewright device app
    """
    from pipeline.verbs.device import write_program

    write_program(out)
    click.echo(f"wrote {out}")


@device.command()
@click.argument("url")
@click.option("--python", default="python3", show_default=True, help="The Python there.")
def probe(url: str, python: str) -> None:
    """Print what the device at URL is, and which toolchains work there, as JSON.

    Example: edgewright device probe ssh://nvidia@192.168.55.1
    """
    from pipeline.verbs.device import probe_device

    click.echo(json.dumps(probe_device(url, python), indent=1))


@main.group()
def toolchain() -> None:
    """Install toolchains that come as no part of edgewright, apart from everything else.

    Example: edgewright toolchain install tensorrt_rtx
    """


@toolchain.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def install(name: str, yes: bool) -> None:
    """Say what installing NAME would fetch and where it would put it, ask, and do it.

    Example: edgewright toolchain install openvino
    """
    from pipeline.toolchains.install import install as do
    from pipeline.toolchains.install import plan
    from pipeline.toolchains.pins import pinned
    from pipeline.verbs.summary import plan_text

    found = plan(name, pinned(name))
    click.echo(plan_text(found))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("there is nobody to ask", mend="give --yes if this is what you want")
        if not click.confirm("Go on?"):
            return
    do(found)
    click.echo(f"installed into {found.folder}")
    if found.next_step:
        click.echo(f"still to be done, {found.next_step}")


@main.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def targets(ctx: click.Context, as_json: bool) -> None:
    """List the devices edgewright knows and what they can do.

    Example: edgewright targets show x86-vnni
    """
    if ctx.invoked_subcommand is None:
        from pipeline.verbs.devices import devices_document, devices_text

        click.echo(json.dumps(devices_document(), indent=1) if as_json else devices_text())


@targets.command()
@click.argument("name")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Print all that is known of one device, and where it is known from.

    Example: edgewright targets show this-machine
    """
    from pipeline.verbs.devices import device_text
    from targets.capability import load_device

    device = load_device(name)
    click.echo(device.model_dump_json(indent=1, by_alias=True) if as_json else device_text(device))


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", default="this-machine", show_default=True, help="A name from `edgewright targets`.")
@click.option("--toolchain", default=None, help="Default: the device's first.")
@click.option("--preflight", is_flag=True, help="For TensorRT: ask NVIDIA's parser and builder as well.")
@AS_JSON
@click.pass_context
def check(
    ctx: click.Context, model: Path, device: str, toolchain: str | None, preflight: bool, as_json: bool
) -> None:
    """List all that keeps an ONNX MODEL from running on a device; exit code 1 if there is something.

    Example: edgewright check model.onnx --device jetson-orin-nano
    """
    from pipeline.verbs.devices import check as check_device

    found = check_device(model, device, toolchain, preflight)
    click.echo(json.dumps(found.document(), indent=1) if as_json else found.text())
    ctx.exit(0 if found.passed else 1)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder of images, or .npz of inputs."
)
@click.option("--device", default="this-machine", show_default=True, help="A name from `edgewright targets`.")
@click.option("--toolchain", default=None, help="Default: the device's first.")
@click.option(
    "--thorough/--plain", default=True, show_default=True, help="Try repairs, or take ranges alone (seconds)."
)
@click.option("--bits", type=float, help="Weights of 2 to 8 bits: so many on average …")
@click.option("--size", type=SIZE, help="… a packed file of so much, as 2MB.")
@click.option("--max-drop", type=float, help="… the fewest that change at most so many percent of answers.")
@click.option("--latency", type=TIME, help="… float where time is left, as 3ms.")
@click.option("--threads", default=1, show_default=True, help="CPU threads, for --latency; 0 for all.")
@click.option("--ignore", multiple=True, help="Node, operator type or regular expression that stays float.")
@click.option("--samples", default=512, show_default=True, help="At most so many inputs.")
@click.option("--scale", default=1 / 255, show_default="1/255", help="Images: factor on pixels of 0…255.")
@click.option("--mean", type=NUMBERS, default="0", help="Images: per channel, after scaling, as 0.5,0.4,0.4")
@click.option("--std", type=NUMBERS, default="1", help="Images: per channel, after scaling.")
@click.option("--bgr", is_flag=True, help="Images: the model takes BGR.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@AS_JSON
def quantize(
    model: Path,
    data: Path,
    device: str,
    toolchain: str | None,
    thorough: bool,
    bits: float | None,
    size: float | None,
    max_drop: float | None,
    latency: float | None,
    threads: int,
    ignore: tuple[str, ...],
    samples: int,
    scale: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bgr: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Quantize a float ONNX MODEL to INT8, or to a mix of fewer bits inside INT8, as a device wants it.

    Every fifth batch of the data is kept apart: the figures printed are of those.

    Example: edgewright quantize model.onnx --data images --device x86-vnni --out model-int8
    """
    from pipeline.datasets.model_inputs import ImageOptions
    from pipeline.verbs.console import progressing
    from pipeline.verbs.quantize import Order, quantize_model, quantized_text

    given = {"bits": bits, "size_bytes": size, "max_drop": max_drop, "latency_ms": latency}
    budgets = [(kind, limit) for kind, limit in given.items() if limit is not None]
    if len(budgets) > 1:
        raise click.UsageError("give one of --bits, --size, --max-drop and --latency")
    images = ImageOptions(scale, mean, std, bgr)
    budget = budgets[0] if budgets else None
    order = Order(model, data, device, toolchain, out, samples, thorough, ignore, budget, threads, images)
    with progressing("quantize") as progress:
        found = quantize_model(order, progress)
    click.echo(json.dumps(found.document(), indent=1) if as_json else quantized_text(found))


@main.command()
@click.argument("packed", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The ONNX file to write.")
def unpack(packed: Path, out: Path) -> None:
    """Restore the exact INT8 ONNX file from a PACKED one.

    Example: edgewright unpack model-int8/model.packed --out model.onnx
    """
    from pipeline.publish import refuse_existing
    from targets.packed import unpack_file

    refuse_existing(out)
    unpack_file(packed, out)
    click.echo(f"wrote {out}")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", default="this-machine", show_default=True, help="A name from `edgewright targets`.")
@click.option("--toolchain", default=None, help="Default: the device's first.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), default=None)
@click.option("--threads", default=1, show_default=True, help="CPU threads of one inference; 0 for all.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the engine.")
@AS_JSON
def compile(  # the verb's name; the builtin is not used here
    model: Path,
    device: str,
    toolchain: str | None,
    precision: str | None,
    threads: int,
    out: Path,
    as_json: bool,
) -> None:
    """Compile an ONNX MODEL for a device.

    Example: edgewright compile model.onnx --device x86-vnni --toolchain openvino --out engine
    """
    from pipeline.verbs.standalone import compile_model
    from pipeline.verbs.summary import engine_document, engine_text

    engine = compile_model(model, device, toolchain, precision, threads, out)
    click.echo(json.dumps(engine_document(engine), indent=1) if as_json else engine_text(engine))


@main.command()
@click.argument("engines", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--inputs", type=click.Path(path_type=Path), help=".npz with one array [N, …] an input.")
@click.option("--samples", default=200, show_default=True, help="At least so many of each engine.")
@click.option("--seconds", default=2.0, show_default=True, help="At least so long, all engines together.")
@click.option("--apart", is_flag=True, help="Each engine in a process of its own.")
@AS_JSON
def bench(
    engines: tuple[Path, ...],
    inputs: Path | None,
    samples: int,
    seconds: float,
    apart: bool,
    as_json: bool,
) -> None:
    """Time ENGINES against each other, interleaved, and judge whether the timings can be trusted.

    Example: edgewright bench out/engines/x86-avx2-openvino/*
    """
    from pipeline.verbs.standalone import bench_engines
    from pipeline.verbs.summary import timings_document, timings_text

    benched = bench_engines(list(engines), inputs, samples, seconds, apart)
    click.echo(json.dumps(timings_document(benched), indent=1) if as_json else timings_text(benched))


@main.command()
@click.argument("engine", type=click.Path(path_type=Path))
@BUILD_FILE
@click.option(
    "--split",
    type=click.Choice(["select", "test"]),
    default="select",
    show_default=True,
    help="Choose between engines by `select`; open `test` once, at the end.",
)
@ALLOW_CODE
@AS_JSON
def evaluate(engine: Path, build_file: Path, split: str, allow_code: bool, as_json: bool) -> None:
    """Score an ENGINE on the data and task of a build file.

    Example: edgewright evaluate engine --build build.toml --split select
    """
    from pipeline.verbs.console import listening
    from pipeline.verbs.standalone import evaluate_engine
    from pipeline.verbs.summary import evaluation_document, evaluation_text

    with listening() as listener:
        found = evaluate_engine(engine, build_file, split, allow_code, listener)
    click.echo(json.dumps(evaluation_document(found), indent=1) if as_json else evaluation_text(found))


@main.command()
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


@main.command()
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


for verb in (release, verify, selftest, keys):
    main.add_command(verb)


if __name__ == "__main__":
    sys.exit(main())
