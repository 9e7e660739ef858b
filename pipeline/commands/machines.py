"""The verbs about devices, toolchains and the store. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from pipeline.commands.options import ALLOW_CODE, AS_JSON
from targets.errors import ConfigError


@click.command()
@AS_JSON
def doctor(as_json: bool) -> None:
    """Say which toolchains work here, in which versions, and what to install for the rest.

    Example: edgewright doctor
    """
    from pipeline.verbs.doctor import document
    from pipeline.verbs.summary import doctor_text

    findings = document()
    click.echo(json.dumps(findings, indent=1) if as_json else doctor_text(findings))


@click.group(invoke_without_command=True)
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


@click.group()
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


@device.command()
@click.argument("log", type=click.Path(path_type=Path))
@AS_JSON
def log(log: Path, as_json: bool) -> None:
    """Read a LOG of trtexec, of TensorRT 8.2 to 11: for devices on which nothing of edgewright runs.

    Exit code 1 if it failed.

    Example: edgewright device log trtexec.log
    """
    from pipeline.verbs.device import log_document, log_text, read_trtexec_log

    found = read_trtexec_log(log)
    click.echo(json.dumps(log_document(found), indent=1) if as_json else log_text(found))
    if not found.passed:
        click.get_current_context().exit(1)


@click.group()
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


@click.group()
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
