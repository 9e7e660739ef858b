"""releases.json: what a download page shows of the bundles beside it.

Its JSON schema is published as docs/schema/releases.schema.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from pipeline.measured import Fraction, Part
from pipeline.release.manifest import Manifest, ProductInfo, Sha256

FEED_SCHEMA: Literal["edgewright.releases/1"] = "edgewright.releases/1"


class FeedProduct(Part):
    """One variant of a bundle."""

    variant: str
    top1: Fraction | None = Field(description="accuracy on the device; null where it was run nowhere")
    median_ms: float | None = Field(description="on the device; null where it was run nowhere")
    promised_ms: float | None = Field(description="null where it was run nowhere")
    onnx_top1: Fraction | None = Field(
        default=None, description="where it was run nowhere: of its ONNX file, run by ONNX Runtime"
    )


class FeedFile(Part):
    """One form of a bundle."""

    path: str = Field(description="relative to releases.json")
    sha256: Sha256 = Field(description="of a folder its manifest.json's, of an OCI layout its index.json's")
    size_bytes: int = Field(ge=0, description="of that file")


class FeedEntry(Part):
    """One bundle."""

    bundle: str
    name: str
    version: str
    description: str
    released_from: str = Field(description="when the build finished: UTC, ISO 8601")
    target: str
    device: str
    architecture: Literal["x86_64", "aarch64", "any"]
    runtime: str = Field(description="toolchain and versions of it, as in 'openvino >=2024.6,<2027'")
    accepted: list[Literal["dirty", "failed", "unstable", "unmeasured"]] = Field(
        description="in spite of what it was released"
    )
    key: Sha256 | None = Field(description="fingerprint of the key it is signed with; null: not signed")
    products: list[FeedProduct] = Field(min_length=1)
    files: list[FeedFile]


class Feed(Part):
    """All bundles of one release."""

    schema_: Literal["edgewright.releases/1"] = Field(default=FEED_SCHEMA, alias="schema")
    releases: list[FeedEntry] = Field(description="by name of the bundle")


def feed_entry(manifest: Manifest, files: Sequence[FeedFile]) -> FeedEntry:
    """Return what the feed says of a bundle.

    Args:
        manifest: of the bundle.
        files: its forms.
    """
    return FeedEntry(
        bundle=manifest.bundle,
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        released_from=manifest.released_from,
        target=manifest.target.name,
        device=manifest.target.device,
        architecture=manifest.target.architecture,
        runtime=f"{manifest.target.toolchain} {manifest.target.runtime}",
        accepted=[concern.kind for concern in manifest.accepted],
        key=manifest.key.fingerprint if manifest.key else None,
        products=[_product(product) for product in manifest.products],
        files=list(files),
    )


def _product(product: ProductInfo) -> FeedProduct:
    return FeedProduct(
        variant=product.variant,
        top1=product.accuracy.top1 if product.accuracy else None,
        median_ms=product.latency.median_ms if product.latency else None,
        promised_ms=product.latency.promised_ms if product.latency else None,
        onnx_top1=product.not_run.onnx_accuracy.top1 if product.not_run else None,
    )


def json_schema() -> dict[str, Any]:
    """The JSON schema of releases.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Feed.model_json_schema(by_alias=True),
    }
