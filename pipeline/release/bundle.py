"""A bundle as a folder: products, what explains them, what tries them out; then manifest and signature."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.products import BuildTarget
from pipeline.release.changes import changes_text
from pipeline.release.describe import gates_of, pixels_of, product_of, target_of
from pipeline.release.keys import sign_file, signing_key
from pipeline.release.manifest import Accepted, FileInfo, Manifest
from pipeline.release.papers import licences_text, readme_text
from pipeline.release.runner import runner_files
from pipeline.release.sbom import sbom_text
from pipeline.release.source import Build, bundle_paths
from targets.bundle.folder import digest_of
from targets.bundle.listing import MANIFEST, PART
from targets.errors import ConfigError
from targets.zipapp import FILE_NAME, device_zipapp

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SUMS = "SHA256SUMS"
INSTALL = """\
#!/bin/sh
# Verifies this bundle, builds engines on this device where those that came do not fit, and tries them out.
# Usage: ./install.sh [--key NAME.pub] [--no-bench]
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/edgewright-device.pyz" selftest "$here" "$@"
"""
EXECUTABLE = (FILE_NAME, "install.sh")


@dataclass(frozen=True)
class Wish:
    """What a release is to be.

    Args:
        build: what it is made from.
        accepted: concerns it is released in spite of.
        key: to sign with; None leaves it unsigned.
        previous: manifest of the release before, for CHANGES.md.
    """

    build: Build
    accepted: Sequence[Accepted]
    key: Ed25519PrivateKey | None
    previous: Manifest | None = None


def bundle_name(build: Build, target: BuildTarget) -> str:
    """Name, version and target."""
    return f"{build.record.project.name}-{build.record.project.version}-{target.name}"


def write_bundle(wish: Wish, target: BuildTarget, folder: Path) -> Manifest:
    """Fill an empty folder with one device's bundle; equal builds and wishes give equal bytes.

    Raises:
        ReleaseRefused: a file of the build was changed.
        ConfigError: a name that bundles cannot have.
    """
    _copy_products(wish.build, target, folder)
    draft = _manifest(wish, target, [])
    _write_papers(wish, draft, folder)
    _write(folder / SUMS, "".join(f"{each.sha256}  {each.path}\n" for each in _files(folder)))
    manifest = draft.model_copy(update={"files": _files(folder)})
    (folder / MANIFEST).write_bytes(manifest.text().encode())
    if wish.key is not None:
        sign_file(folder / MANIFEST, wish.key, manifest.bundle)
    return manifest


def _copy_products(build: Build, target: BuildTarget, folder: Path) -> None:
    for variant in build.products(target):
        for source, inside in bundle_paths(target, variant).items():
            for path, file in build.files(source).items():
                copy = folder / (inside + path.removeprefix(source))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    shutil.copyfile(build.files("report.html")["report.html"], folder / "report.html")


def _write_papers(wish: Wish, draft: Manifest, folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(device_zipapp())
    texts = {
        "install.sh": INSTALL,
        "README.md": readme_text(draft),
        "LICENCES.md": licences_text(draft),
        "CHANGES.md": changes_text(draft, wish.previous),
        "labels.txt": "".join(f"{label}\n" for label in draft.labels),
        "sbom.cdx.json": sbom_text(draft, _files(folder), wish.build.finished),
        **runner_files(draft, folder),
    }
    for path, text in texts.items():
        _write(folder / path, text)
    for each in folder.rglob("*"):
        each.chmod(0o755 if each.is_dir() or each.name in EXECUTABLE else 0o644)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    path.chmod(0o755 if path.name in EXECUTABLE else 0o644)


def _files(folder: Path) -> list[FileInfo]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            size, digest = digest_of(path)
            name = path.relative_to(folder).as_posix()
            found.append(
                FileInfo(path=name, size_bytes=size, sha256=digest, executable=path.name in EXECUTABLE)
            )
    return sorted(found, key=lambda each: each.path)


def _manifest(wish: Wish, target: BuildTarget, files: list[FileInfo]) -> Manifest:
    build, project = wish.build, wish.build.record.project
    data = build.record.data
    document: dict[str, Any] = {
        "bundle": bundle_name(build, target),
        "name": project.name,
        "version": project.version,
        "description": project.description,
        "publisher": build.settings.release.publisher,
        "released_from": project.finished_at,
        "edgewright_version": project.edgewright_version,
        "target": target_of(build, target),
        "pixels": pixels_of(build, target),
        "labels": build.record.task.outputs,
        "products": [product_of(build, target, variant) for variant in build.products(target)],
        "gates": gates_of(build, target),
        "model_licence": build.settings.release.licence or "not stated",
        "data": {
            "name": data.name,
            "source": data.source,
            "licence": data.licence,
            "sha256": data.sha256,
            "split_sizes": data.split_sizes,
        },
        "record_sha256": build.record_sha256,
        "packages": build.record.packages,
        "accepted": list(wish.accepted),
        "key": None if wish.key is None else signing_key(wish.key),
        "files": files,
    }
    return Manifest.model_validate(document)


def refuse_strange_name(name: str) -> None:
    """Refuse names that mean something to a shell or a file system.

    Raises:
        ConfigError: it is such a name.
    """
    if not PART.fullmatch(name) or len(name) > 100:
        raise ConfigError(
            f"{name!r} is no name for a bundle",
            where="project.name, project.version, targets.name",
            mend="use letters, digits and . _ + - up to 100 of them",
        )
