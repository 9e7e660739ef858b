"""A bundle as an OCI image layout: a folder that registry clients push as an artifact (image spec 1.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.release.archives import write_tar_gz
from pipeline.release.manifest import Manifest
from targets.bundle.listing import MANIFEST, MINISIGNATURE, SIGNATURE

ARTIFACT = "application/vnd.edgewright.bundle.v1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
LAYERS = {
    MANIFEST: "application/vnd.edgewright.manifest.v1+json",
    SIGNATURE: "application/vnd.edgewright.signature.v1",
    MINISIGNATURE: "application/vnd.edgewright.minisignature.v1",
}
TITLE = "org.opencontainers.image.title"


def write_oci(folder: Path, out: Path, manifest: Manifest, date: datetime) -> None:
    """Write an OCI layout: the bundle as .tar.gz, and beside it the manifest and its signatures.

    Args:
        folder: the bundle.
        out: folder to make.
        manifest: of the bundle.
        date: of all files in the archive.
    """
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    archive = out / "bundle.tar.gz"
    write_tar_gz(folder, archive, manifest.bundle, date)
    layers = [_blob(blobs, archive.read_bytes(), ARTIFACT + "+tar.gzip", f"{manifest.bundle}.tar.gz")]
    archive.unlink()
    for name, media_type in LAYERS.items():
        if (folder / name).exists():
            layers.append(_blob(blobs, (folder / name).read_bytes(), media_type, name))
    image = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT,
        "config": _blob(blobs, b"{}", EMPTY_TYPE),
        "layers": layers,
        "annotations": _annotations(manifest),
    }
    described = _blob(blobs, _json(image), MANIFEST_TYPE) | {"artifactType": ARTIFACT}
    described["annotations"] = {"org.opencontainers.image.ref.name": manifest.version}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [described]}
    (out / "index.json").write_bytes(_json(index))
    (out / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _annotations(manifest: Manifest) -> dict[str, str]:
    known = {
        "created": manifest.released_from,
        "title": manifest.bundle,
        "version": manifest.version,
        "description": manifest.description,
        "vendor": manifest.publisher,
    }
    return {f"org.opencontainers.image.{name}": value for name, value in known.items() if value}


def _blob(blobs: Path, content: bytes, media_type: str, title: str | None = None) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    found: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}
    return found | ({"annotations": {TITLE: title}} if title else {})


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
