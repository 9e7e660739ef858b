"""The verbs about releases; nothing heavy is imported before one of them runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.commands.options import AS_JSON

PATH = click.Path(path_type=Path)
FORMS = ("folder", "tar.gz", "zip", "deb", "oci")


@click.command()
@click.argument("build_file", type=PATH, default="build.toml")
@click.option("--target", help="Name of one target; may be left out where there is only one.")
@click.option("--all", "everything", is_flag=True, help="Every target, with SHA256SUMS and releases.json.")
@click.option("--key", type=PATH, help="Secret key to sign with, of `keys new`.")
@click.option(
    "--openssf-key",
    type=PATH,
    help="Elliptic-curve key: a second signature beside the bundle, as OpenSSF's model-signing checks it.",
)
@click.option("--unsigned", is_flag=True, help="Without a key: bundles that nobody vouches for.")
@click.option(
    "--form",
    "forms",
    type=click.Choice(FORMS),
    multiple=True,
    default=FORMS[:1],
    show_default=True,
    help="Of the bundle; may be given several times.",
)
@click.option(
    "--accept",
    type=click.Choice(["dirty", "failed", "unstable", "unmeasured"]),
    multiple=True,
    help="Release such a build all the same; the bundle says so.",
)
@click.option("--previous", type=PATH, help="Earlier bundle, or a folder of them, for CHANGES.md.")
@click.option("--out", type=PATH, default="releases", show_default=True, help="Folder for the bundles.")
@click.option("--allow-code", is_flag=True, help="The build file may name Python code of its own.")
@AS_JSON
def release(
    build_file: Path,
    target: str | None,
    everything: bool,
    key: Path | None,
    openssf_key: Path | None,
    unsigned: bool,
    forms: tuple[str, ...],
    accept: tuple[str, ...],
    previous: Path | None,
    out: Path,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Turn a finished build into one signed, self-testing bundle for each device.

    Refused, with exit code 1, where a build would run something again (dirty), a gate did not pass (failed),
    a measurement is not stable, or engines were made and run nowhere (unmeasured; --all leaves these out).

    Example: edgewright release build.toml --all --key release.key --form tar.gz
    """
    if (key is None) != unsigned:
        raise click.UsageError("give --key, or --unsigned")
    if everything and target:
        raise click.UsageError("give --target or --all")
    from pipeline.release.make import Order
    from pipeline.release.make import release as make
    from pipeline.verbs.release import released_document, released_text

    order = Order(build_file, out, target, everything, key, forms, accept, previous, allow_code, openssf_key)
    found = make(order, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(released_document(found), indent=1) if as_json else released_text(found))


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--key", type=PATH, required=True, help="Public key of who made it.")
@click.option("--unpack", type=PATH, help="An archive that is good: into this new folder.")
def verify(bundle: Path, key: Path, unpack: Path | None) -> None:
    """Check a BUNDLE, a folder, .tar.gz or .zip, against its signed manifest; exit code 1 if it is not good.

    Example: edgewright verify sorter-1.0.0-x86-avx2.tar.gz --key release.pub
    """
    from targets.bundle.verify import unpack as unpack_bundle
    from targets.bundle.verify import verify as verify_bundle

    listing = unpack_bundle(bundle, key, unpack) if unpack else verify_bundle(bundle, key)
    click.echo(f"{listing.name}: {len(listing.files)} files are as they were signed")


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--key", type=PATH, help="Public key of who made it; archives are opened with one only.")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Time it against the promise.")
@AS_JSON
@click.pass_context
def selftest(ctx: click.Context, bundle: Path, key: Path | None, bench: bool, as_json: bool) -> None:
    """Try a BUNDLE out here: verify, open, golden outputs, latency; exit code 1 if it fails.

    `edgewright-device.pyz selftest` does the same on a device.

    Example: edgewright selftest sorter-1.0.0-x86-avx2 --key release.pub
    """
    from pipeline.verbs.release import try_bundle
    from targets.bundle.selftest import text_of

    document = try_bundle(bundle, key, bench)
    click.echo(json.dumps(document, indent=1) if as_json else text_of(document))
    ctx.exit(0 if document["passed"] else 1)


@click.group()
def keys() -> None:
    """Keys that releases are signed with.

    Example: edgewright keys new release
    """


@keys.command()
@click.argument("name", type=PATH)
def new(name: Path) -> None:
    """Make an Ed25519 key: NAME.key, which is secret, and NAME.pub, for those who verify.

    Example: edgewright keys new release
    """
    from pipeline.release.keys import new_key

    secret, public = new_key(name)
    click.echo(f"wrote {secret} (keep it secret) and {public} (give it away)")


@keys.command()
@click.argument("public", type=PATH)
def show(public: Path) -> None:
    """Say what a PUBLIC key, a .pub file, is known by: its fingerprint, and how minisign writes it.

    Example: edgewright keys show release.pub
    """
    from pipeline.release.keys import known_by
    from targets.bundle.keys import read_public_key

    key = known_by(read_public_key(public))
    click.echo(f"fingerprint {key.fingerprint}\nminisign    {key.minisign}")
