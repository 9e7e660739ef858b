"""The build record: one JSON document that holds everything a report or a bundle says.

Its JSON schema is published as docs/schema/record.schema.json (`edgewright report --schema` prints it).
Reports compute nothing: a figure that is not here is not shown. Within a version of the schema only optional
fields are added, so that a record written earlier in that version stays readable.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.measured import (
    Energy,
    Fraction,
    Gain,
    Interval,
    Latency,
    LayerBits,
    LayerTime,
    Memory,
    Mistake,
    Part,
    Paths,
    Requirement,
    Speedup,
    StepTime,
    Throughput,
    Triage,
)

RECORD_SCHEMA: Literal["edgewright.record/2"] = "edgewright.record/2"


class Project(Part):
    """What was built, by what."""

    name: str
    version: str
    description: str = ""
    edgewright_version: str
    command: str = Field(description="the command that builds this again")
    finished_at: str = Field(description="UTC, ISO 8601")
    settings: dict[str, Any] = Field(description="build.toml as validated, defaults filled in")


class DataSource(Part):
    """The data set and its four disjoint splits."""

    name: str
    source: str = Field(description="where it came from: package, URL or folder name")
    licence: str
    labels: Literal["data set", "teacher", "model"] = Field(
        description="who says what an image shows; where it is a network, accuracy is agreement with it"
    )
    sha256: str = Field(description="digest of the images, and of labels the data set has, of all splits")
    image_shape: tuple[int, int, int] = Field(description="height, width, channels")
    split_seed: int
    split_sizes: dict[Literal["train", "select", "calibrate", "test"], int]


class TaskInfo(Part):
    """What the network has to tell apart."""

    wanted: list[str] = Field(description="classes of the data set the task asks for")
    outputs: list[str] = Field(description="labels of the network's outputs, in order")
    other: bool = Field(description="everything else is an output of its own")


class Network(Part):
    """One network of the build, before any precision is chosen."""

    name: str = Field(description="teacher, student (or student-50, … of a family), or model")
    origin: str = Field(description="factory and checkpoint, or the ONNX file it came from")
    parameters: int
    macs: int = Field(description="multiply-accumulates of one inference")
    input_shape: list[int] = Field(description="of one inference, batch included; -1 where dynamic")
    outputs: int
    opset: int
    onnx_size_bytes: int


class ChannelGroup(Part):
    """Layers whose output channels can only be cut together, and what is lost when they are."""

    leader: str = Field(description="layer the group is known by")
    members: list[str] = Field(description="all layers that lose output channels with it")
    width: int = Field(ge=1, description="channels before anything is cut")
    lost: list[tuple[int, Fraction]] = Field(
        max_length=64,
        description="channels removed, share of the criterion's total lost; thinned out in wide groups",
    )


class KeptChannels(Part):
    """What one student keeps of a group."""

    leader: str
    channels: list[int] = Field(description="the teacher's output channels that stay, counted from 0")
    lost: Fraction = Field(description="share of the criterion's total that goes with the others")


class Budget(Part):
    """What a student may cost, was predicted to cost and costs; counts, bytes or milliseconds."""

    kind: Literal["macs", "parameters", "bytes", "latency_ms"]
    limit: float
    before: float = Field(description="cost of the network uncut")
    predicted: float
    achieved: float | None = Field(description="null before anything is built")
    achieved_interval: Interval | None = Field(description="95 % interval of a time; counts have none")
    achieved_on: str | None = Field(description="what was counted or measured")
    verdict: Literal["holds", "too close to call", "exceeded"] | None = Field(
        description="too close to call: the limit lies within the interval"
    )


class Slimmed(Part):
    """The structure of one student."""

    network: str
    groups: list[KeptChannels]
    budget: Budget | None = Field(description="null where the plan was made by hand")


class UncutLayer(Part):
    """A layer that is left whole."""

    layer: str
    reason: str


class Structure(Part):
    """What scoring found, and what every student keeps."""

    criterion: str = Field(description="what put the channels in order")
    groups: list[ChannelGroup] = Field(description="in the network's own order")
    students: list[Slimmed]
    uncut: list[UncutLayer]
    warnings: list[str] = Field(description="what makes the order less sure")


class ClassScore(Part):
    """One output label on the test split."""

    label: str
    count: int
    recall: Fraction | None = Field(description="null when the test split has no such image")
    precision: Fraction | None = Field(description="null when it was never predicted")


class Accuracy(Part):
    """Evaluation on the test split, against the labels that `DataSource.labels` names."""

    images: int
    correct: int
    top1: Fraction
    top1_interval: tuple[Fraction, Fraction] = Field(description="95 % Wilson score interval")
    classes: list[ClassScore]
    confusion: list[list[int]] = Field(description="rows: true label, columns: predicted, in output order")
    right: str | None = Field(
        default=None,
        description="one bit a test image, in order, 1 where right: packed, first bit highest, base64",
    )
    mistakes: list[Mistake] = Field(default=[], description="the most frequent confusions, of what ships")


class EngineInfo(Part):
    """One compiled engine."""

    path: str = Field(description="folder, relative to the output folder")
    sha256: dict[str, str] = Field(description="file name → digest")
    size_bytes: int
    onnx_path: str
    onnx_size_bytes: int
    notes: list[str] = Field(default=[])
    flags: dict[str, str] = Field(default={}, description="every flag the runtime was given, by its own name")


class Result(Part):
    """One variant on one target: engine, latency, accuracy."""

    target: str
    variant: str = Field(description="network and precision, as in 'student int8'")
    network: str
    precision: Literal["fp32", "fp16", "bf16", "int8", "mixed"]
    role: Literal["product", "float twin", "baseline", "set aside"] = Field(
        description="set aside: it was to ship, but did not pay"
    )
    engine: EngineInfo
    latency: Latency
    speedups: list[Speedup]
    accuracy: Accuracy
    memory: Memory | None = Field(default=None, description="null where it cannot be read")
    throughput: Throughput | None = None
    energy: Energy | None = Field(
        default=None, description="null where no sensor is readable; never estimated"
    )
    layers: list[LayerTime] = Field(
        default=[], description="longest first; empty where the runtime tells none"
    )
    bits: list[LayerBits] = Field(default=[], description="in the model's order")


class Target(Part):
    """A device and the toolchain that builds for it."""

    name: str
    device: str
    toolchain: str
    toolchain_version: str
    threads: int
    products: list[str] = Field(min_length=1, description="the variants that are shipped")
    fingerprint: dict[str, str]
    headlines: list[str] = Field(min_length=1, description="each product's result in one sentence")
    steps: list[StepTime] = Field(default=[], description="what an application does besides inference")


class Built(Part):
    """One variant for a device it was not run on: made here, to be timed and checked there."""

    target: str
    device: str
    toolchain: str
    toolchain_version: str | None = Field(description="null where no engine was compiled")
    obstacle: str = Field(description="why it was not run")
    variant: str
    network: str
    precision: Literal["fp32", "fp16", "bf16", "int8", "mixed"]
    role: Literal["product", "float twin", "baseline"]
    engine: EngineInfo | None = Field(description="null where the model alone is handed over")
    onnx_path: str
    changes: list[str] = Field(description="what was changed to give the model the device's form")
    preflight: str | None = Field(
        default=None, description="what NVIDIA's parser and builder say here; null for other toolchains"
    )
    command: str | None = Field(description="makes the engine on the device; null where it is made already")
    estimate: Accuracy = Field(description="of its ONNX file, run by ONNX Runtime; the device may differ")
    headline: str


class GateCheck(Part):
    """One figure of a gate against its threshold."""

    metric: Literal["max_abs", "relative_l2", "cosine", "top1_agreement"]
    value: float
    limit: float
    passed: bool


class Gate(Part):
    """One comparison of a model or engine with the one before it, on the same real inputs."""

    name: str = Field(description="as in 'quantize student x86-vnni-openvino'")
    reference: str
    candidate: str
    inputs: int = Field(description="number of images both sides were given")
    checks: list[GateCheck]
    passed: bool
    first_diverging: str | None = None


class StageCost(Part):
    """What one stage of the build cost, when it last ran."""

    name: str
    key: str
    digest: str
    seconds: float
    peak_memory_bytes: int
    finished_at: str = Field(description="UTC, ISO 8601; before the build itself when it was reused")


class Environment(Part):
    """The machine measurements were taken on, before and after."""

    facts: dict[str, str] = Field(description="CPU model, cores, governor, memory, system, versions")
    before: dict[str, str]
    after: dict[str, str]


class Record(Part):
    """Everything one build says."""

    schema_: Literal["edgewright.record/2"] = Field(default=RECORD_SCHEMA, alias="schema")
    project: Project
    data: DataSource
    task: TaskInfo
    networks: list[Network]
    structure: Structure | None = Field(description="null where nothing is slimmed")
    targets: list[Target]
    results: list[Result]
    built: list[Built] = Field(default=[], description="variants for devices they were not run on")
    gates: list[Gate]
    stages: list[StageCost]
    environments: dict[str, Environment] = Field(description="target name → machine")
    packages: dict[str, str] = Field(description="package → version, of everything that took part")
    seeds: dict[str, int]
    requirements: list[Requirement] = Field(default=[], description="what measurements had to show")
    gains: list[Gain] = Field(default=[], description="what each step cost and gained, target by target")
    triage: Triage | None = Field(default=None, description="null where blocks were not tried out")
    paths: Paths | None = Field(default=None, description="null where paths were not traced")
