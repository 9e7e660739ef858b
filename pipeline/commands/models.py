"""The verbs about single models and engines. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.commands.options import (
    ALLOW_CODE,
    AS_JSON,
    BUILD_FILE,
    HOST,
    NUMBERS,
    PYTHON,
    SIZE,
    TIME,
    Assignment,
)
from targets.typed import HINTS, PROVIDERS


@click.command()
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
    from pipeline.verbs.check import check as check_device

    found = check_device(model, device, toolchain, preflight)
    click.echo(json.dumps(found.document(), indent=1) if as_json else found.text())
    ctx.exit(0 if found.passed else 1)


@click.command()
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


@click.command()
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", default="this-machine", show_default=True, help="A name from `edgewright targets`.")
@click.option("--toolchain", default=None, help="Default: the device's first.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), default=None)
@click.option("--threads", default=1, show_default=True, help="CPU threads of one inference; 0 for all.")
@click.option("--hint", type=click.Choice(HINTS), help="OpenVINO: what it arranges threads for.")
@click.option("--streams", type=click.IntRange(1), help="OpenVINO: inferences at once; default 1.")
@click.option("--provider", type=click.Choice(PROVIDERS), help="ONNX Runtime: default cpu.")
@click.option("--raw", multiple=True, type=Assignment(), help="An option for the runtime, passed as it is.")
@HOST
@PYTHON
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the engine.")
@AS_JSON
def compile(  # the verb's name; the builtin is not used here
    model: Path,
    device: str,
    toolchain: str | None,
    precision: str | None,
    threads: int,
    hint: str | None,
    streams: int | None,
    provider: str | None,
    raw: tuple[tuple[str, str], ...],
    host: str | None,
    python: str,
    out: Path,
    as_json: bool,
) -> None:
    """Compile an ONNX MODEL for a device, here or on it.

    Example: edgewright compile model.onnx --device x86-vnni --toolchain openvino --out engine
    """
    from pipeline.verbs.console import progressing
    from pipeline.verbs.standalone import CompileOrder, compile_model, place_of
    from pipeline.verbs.summary import engine_document, engine_text

    typed = {"hint": hint, "streams": streams, "provider": provider}
    place = place_of(host, python)
    order = CompileOrder(model, device, toolchain, precision, threads, out, typed, dict(raw), place)
    with progressing("compile") as progress:
        engine = compile_model(order, progress)
    click.echo(json.dumps(engine_document(engine), indent=1) if as_json else engine_text(engine))


@click.command()
@click.argument("engines", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--inputs", type=click.Path(path_type=Path), help=".npz with one array [N, …] an input.")
@click.option("--samples", default=200, show_default=True, help="At least so many of each engine.")
@click.option("--seconds", default=2.0, show_default=True, help="At least so long, all engines together.")
@click.option("--apart", is_flag=True, help="Each engine in a process of its own.")
@HOST
@PYTHON
@AS_JSON
def bench(
    engines: tuple[Path, ...],
    inputs: Path | None,
    samples: int,
    seconds: float,
    apart: bool,
    host: str | None,
    python: str,
    as_json: bool,
) -> None:
    """Time ENGINES against each other, interleaved, and judge whether the timings can be trusted.

    Example: edgewright bench out/engines/x86-avx2-openvino/*
    """
    from pipeline.verbs.console import progressing
    from pipeline.verbs.standalone import bench_engines, bench_there, place_of
    from pipeline.verbs.summary import timings_document, timings_text

    place = place_of(host, python)
    if place and apart:
        raise click.UsageError("--apart is for this machine: on a host engines share a process")
    if place:
        with progressing("bench") as progress:
            benched = bench_there(list(engines), inputs, samples, seconds, place, progress)
    else:
        benched = bench_engines(list(engines), inputs, samples, seconds, apart)
    click.echo(json.dumps(timings_document(benched), indent=1) if as_json else timings_text(benched))


@click.command()
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
@HOST
@PYTHON
@AS_JSON
def evaluate(
    engine: Path,
    build_file: Path,
    split: str,
    allow_code: bool,
    host: str | None,
    python: str,
    as_json: bool,
) -> None:
    """Score an ENGINE on the data and task of a build file, here or on a device.

    Example: edgewright evaluate engine --build build.toml --split select
    """
    from pipeline.verbs.console import listening
    from pipeline.verbs.standalone import evaluate_engine, place_of
    from pipeline.verbs.summary import evaluation_document, evaluation_text

    with listening() as listener:
        found = evaluate_engine(engine, build_file, split, allow_code, listener, place_of(host, python))
    click.echo(json.dumps(evaluation_document(found), indent=1) if as_json else evaluation_text(found))
