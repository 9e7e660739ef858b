"""Make releases: the call behind `edgewright release`, for build scripts as well."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from pipeline.disk import explained
from pipeline.products import BuildTarget
from pipeline.release.bundle import Wish, bundle_name, refuse_strange_name, write_bundle
from pipeline.release.concerns import concerns_of, require_accepted
from pipeline.release.forms import write_form
from pipeline.release.index import write_index
from pipeline.release.keys import read_secret_key
from pipeline.release.manifest import Manifest
from pipeline.release.openssf import require_key, sign_folder, signature_name
from pipeline.release.source import Build, open_build
from pipeline.run import Decision
from pipeline.session import Session
from targets.bundle.listing import MANIFEST
from targets.errors import ConfigError


@dataclass(frozen=True)
class Order:
    """What is to be released, and how.

    Args:
        build_file: of the finished build.
        out: folder for the releases.
        target: name of one target; None stands for the only one.
        everything: a bundle for every target, with a feed and SHA256SUMS, which is signed, too.
        key: file of the secret key; None makes bundles that are not signed.
        forms: "folder", and those of `pipeline.release.forms`.
        accept: kinds of concerns to release in spite of: dirty, failed, unstable, unmeasured.
        previous: folder of earlier releases, or of one bundle, to tell what changed.
        allow_code: the build file may name Python code of its own.
        openssf_key: file of an elliptic-curve key; None makes no signature of OpenSSF's.
    """

    build_file: Path
    out: Path
    target: str | None = None
    everything: bool = False
    key: Path | None = None
    forms: tuple[str, ...] = ("folder",)
    accept: tuple[str, ...] = ()
    previous: Path | None = None
    allow_code: bool = False
    openssf_key: Path | None = None


@dataclass(frozen=True)
class Released:
    """One bundle: what it says, and the paths of its forms and of OpenSSF's signature."""

    manifest: Manifest
    forms: list[Path]


def release(order: Order, tell: Callable[[str], None] = lambda _: None) -> list[Released]:
    """Make bundles from a finished build.

    Args:
        order: what, and how.
        tell: given a line for every target that "everything" leaves out: those that were run nowhere.

    Raises:
        ReleaseRefused: the build is dirty, failed, unstable or unmeasured, and that was not accepted.
        ConfigError: there is no finished build, no such target, or something lies where a bundle should.
        BundleError: the key cannot be used.
    """
    session = Session(order.build_file, order.allow_code)
    build = open_build(session.output, session.folder)
    chosen = everything(build, order.accept, tell) if order.everything else [build.target(order.target)]
    return release_build(build, chosen, session.explain(), order)


def everything(build: Build, accept: Sequence[str], tell: Callable[[str], None]) -> list[BuildTarget]:
    """Every target that was run; and those that were not, where that is accepted or there are no others.

    Args:
        build: with the targets.
        accept: kinds of concerns to release in spite of.
        tell: given a line for every target that is left out.
    """
    run = [target for target in build.targets if not build.not_run(target.name)]
    if not run or "unmeasured" in accept:
        return build.targets
    for target in build.targets:
        for obstacle in dict.fromkeys(each.obstacle for each in build.not_run(target.name)):
            tell(f"{target.name} is left out, it was run nowhere: {obstacle} (--accept unmeasured)")
    return run


def release_build(
    build: Build, chosen: Sequence[BuildTarget], decisions: Sequence[Decision], order: Order
) -> list[Released]:
    """Make bundles of some targets, when none of them is refused.

    Args:
        build: what they are made from.
        chosen: the targets.
        decisions: what building again would do.
        order: all else.

    Raises:
        EdgewrightError: as `release` does.
    """
    key = read_secret_key(order.key) if order.key else None
    if order.openssf_key:
        require_key(order.openssf_key)
    concerns = {each.name: concerns_of(build, each.name, decisions) for each in chosen}
    require_accepted(itertools.chain(*concerns.values()), order.accept)
    with explained(order.out):
        order.out.mkdir(parents=True, exist_ok=True)
        found = [_release_target(Wish(build, concerns[target.name], key), target, order) for target in chosen]
        if order.everything:
            forms = {each.manifest.bundle: (each.manifest, each.forms) for each in found}
            write_index(order.out, forms, key)
    return found


def _release_target(wish: Wish, target: BuildTarget, order: Order) -> Released:
    name = bundle_name(wish.build, target)
    refuse_strange_name(name)
    wish = replace(wish, previous=_previous(order.previous, target))
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=order.out) as work:
        folder = Path(work) / name
        folder.mkdir()
        manifest = write_bundle(wish, target, folder)
        date = wish.build.finished
        made = [write_form(form, folder, Path(work), manifest, date) for form in dict.fromkeys(order.forms)]
        if order.openssf_key:
            made.append(Path(work) / signature_name(name))
            sign_folder(folder, order.openssf_key, made[-1])
        # Shown only when all of them are whole.
        return Released(manifest, [_moved(path, order.out / path.name) for path in made])


def _moved(path: Path, place: Path) -> Path:
    """Move to its place; what an earlier release put there is replaced."""
    if place.is_dir() and not place.is_symlink():
        _refuse_foreign(place)
        shutil.rmtree(place)
    path.replace(place)
    return place


def _refuse_foreign(folder: Path) -> None:
    if any(folder.iterdir()) and not any((folder / name).is_file() for name in (MANIFEST, "oci-layout")):
        raise ConfigError("there is something else already", where=str(folder), mend="name another --out")


def _previous(place: Path | None, target: BuildTarget) -> Manifest | None:
    """The manifest to compare with: of a bundle's folder, or the newest of the target's among several."""
    if place is None:
        return None
    single = (place / MANIFEST).is_file()
    manifests = map(_read, [place / MANIFEST] if single else sorted(place.glob(f"*/{MANIFEST}")))
    found = [manifest for manifest in manifests if manifest.target.name == target.name]
    if not found:
        raise ConfigError(
            f"there is no earlier bundle for {target.name}",
            where=str(place),
            mend="give the folder of a bundle, or one that holds such folders",
        )
    return max(found, key=lambda manifest: manifest.released_from)


def _read(path: Path) -> Manifest:
    try:
        return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"not a manifest: {error}", where=str(path)) from error
