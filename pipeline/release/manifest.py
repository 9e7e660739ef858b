"""manifest.json: everything a bundle says of itself; what is signed is this file.

Its JSON schema is published as docs/schema/manifest.schema.json.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from pipeline.measured import Fraction, Interval, Part
from pipeline.record import Gate

MANIFEST_SCHEMA: Literal["edgewright.manifest/1"] = "edgewright.manifest/1"
Sha256 = str


class FileInfo(Part):
    """One file of the bundle."""

    path: str = Field(description="relative to the bundle's folder, / between its parts")
    size_bytes: int = Field(ge=0)
    sha256: Sha256
    executable: bool


class DeviceTarget(Part):
    """What the bundle runs on."""

    name: str = Field(description="of the target in build.toml")
    device: str
    description: str
    architecture: Literal["x86_64", "aarch64", "any"]
    cpu_flags_required: list[str] = Field(description="as Linux names them; 'a|b' means either")
    toolchain: str
    toolchain_version: str | None = Field(
        description="the engines were compiled with; null where they are built on the device alone"
    )
    runtime: str = Field(description="versions of the runtime that take the model, as in '>=1.23,<2'")
    threads: int
    fingerprint: dict[str, str] = Field(
        description="of the machine engines were timed on; {} where they were run nowhere"
    )


class Tensor(Part):
    """One input or output of an engine."""

    name: str
    dtype: str = Field(description="numpy's name")
    shape: list[int] = Field(description="-1 where it is dynamic")


class Pixels(Part):
    """From stored images to the input: (x · scale − mean) / std, channel by channel, then the layout."""

    layout: Literal["NCHW", "NHWC"]
    colour_order: Literal["grey", "RGB", "BGR", "as stored"]
    image_shape: tuple[int, int, int] = Field(description="of stored images: height, width, channels")
    scale: float
    mean: list[float]
    std: list[float]


class ModelFile(Part):
    """The ONNX file everything else was made from."""

    path: str
    packed: bool = Field(description="mixed precision: `edgewright-device.pyz unpack` restores the ONNX file")
    sha256_onnx: Sha256
    opset: int
    operators: dict[str, int] = Field(description="ONNX operator → how often")
    parameters: int
    macs: int


class EngineHeader(Part):
    """The compiled engine, as its engine.json says."""

    path: str = Field(description="folder")
    toolchain: str
    toolchain_version: str
    precision: str
    threads: int
    raw: dict[str, str]
    size_bytes: int
    notes: list[str]


class Recipe(Part):
    """How the engine is built again on the device: the arguments of edgewright-device.pyz build."""

    toolchain: str
    device: str
    precision: str
    threads: int
    raw: dict[str, str]
    timing_cache: str | None = Field(
        default=None,
        description="TensorRT: file in the bundle with the tactics of the engine that came, its digest in "
        "`files`; what is built with it is the same engine, where the device and version are",
    )


class Timed(Part):
    """Latency of one inference as the build measured it, and what is promised."""

    median_ms: float
    median_interval_ms: Interval = Field(description="95 %")
    p90_ms: float | None
    p99_ms: float | None
    samples: int
    promised_ms: float = Field(description="a self-test fails where the median is surely above it")
    budget: bool = Field(description="the promise is the build's own budget: it holds on every such device")


class Scored(Part):
    """Accuracy on the test split."""

    top1: Fraction
    top1_interval: tuple[Fraction, Fraction] = Field(description="95 %")
    images: int
    labels: str = Field(description="who says what is right: the data set, or a network")
    recall: dict[str, float | None] = Field(description="label → share found")


class NotRun(Part):
    """What is known of a product whose engine was run nowhere before it was released."""

    obstacle: str = Field(description="why the build did not run it")
    onnx_accuracy: Scored = Field(
        description="of its ONNX file, run by ONNX Runtime; the engine's may differ"
    )


class ProductInfo(Part):
    """One variant that is shipped."""

    variant: str
    network: str
    precision: str
    model: ModelFile
    engine: EngineHeader | None = Field(description="null where the device builds it, by the recipe")
    recipe: Recipe
    inputs: list[Tensor]
    outputs: list[Tensor]
    golden: str = Field(description="folder of real inputs, expected outputs and tolerances")
    golden_source: str | None = Field(default=None, description="what gave the expected outputs")
    accuracy: Scored | None = Field(description="of the engine on the device; null where it was run nowhere")
    latency: Timed | None = Field(description="of the engine on the device; null where it was run nowhere")
    not_run: NotRun | None = Field(default=None, description="where there is no accuracy and no latency")


class DataInfo(Part):
    """The data set the model was made with."""

    name: str
    source: str
    licence: str
    sha256: Sha256
    split_sizes: dict[str, int]


class Accepted(Part):
    """Something that would have kept the build from being released, had nobody accepted it."""

    kind: Literal["dirty", "failed", "unstable", "unmeasured"]
    what: str


class SigningKey(Part):
    """Whose signatures manifest.json.sig and manifest.json.minisig are."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    fingerprint: Sha256 = Field(description="sha256 of the 32 bytes of the public key")
    minisign: str | None = Field(
        default=None,
        description="the public key as minisign writes it; null: there is no manifest.json.minisig",
    )


class Manifest(Part):
    """Everything a bundle says."""

    schema_: Literal["edgewright.manifest/1"] = Field(default=MANIFEST_SCHEMA, alias="schema")
    bundle: str = Field(description="name, version and target; name of the folder in archives")
    name: str
    version: str = Field(description="semantic, from build.toml")
    description: str
    publisher: str
    released_from: str = Field(description="when the build finished: UTC, ISO 8601")
    edgewright_version: str
    target: DeviceTarget
    pixels: Pixels
    labels: list[str] = Field(description="of the outputs, in order")
    products: list[ProductInfo] = Field(min_length=1)
    gates: list[Gate] = Field(description="comparisons these products passed on their way")
    model_licence: str
    data: DataInfo
    record_sha256: Sha256 = Field(description="of the build's report.json")
    packages: dict[str, str] = Field(description="package → version, of everything that took part")
    accepted: list[Accepted] = Field(description="[] where the build was clean, whole and stable")
    key: SigningKey | None = Field(description="null in a bundle that is not signed")
    files: list[FileInfo] = Field(description="every file but this one and its signatures, sorted by path")

    def text(self) -> str:
        """Return the file's content; equal manifests give equal bytes."""
        document = self.model_dump(mode="json", by_alias=True)
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema of manifest.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(by_alias=True),
    }
