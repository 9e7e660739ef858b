"""Parts of the record that were measured, or judged from measurements. Optional ones came after version 2."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Interval = tuple[float, float]
Verdict = Literal["stable", "drifting", "throttled", "contended", "too few samples"]


class Part(BaseModel):
    """A part of the record; unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Latency(Part):
    """Timing of one engine, interleaved with the other variants of its target."""

    samples: int
    median_ms: float
    median_interval_ms: Interval = Field(description="95 % bootstrap interval of the median")
    p90_ms: float | None = Field(description="null with fewer than 64 samples")
    p99_ms: float | None = Field(description="null with fewer than 662 samples")
    min_ms: float
    max_ms: float
    coefficient_of_variation: float
    warmup_s: float
    load_ms: float = Field(description="opening the engine, in a process of its own where `memory` is given")
    first_inference_ms: float
    samples_ms: list[float] = Field(description="every sample, in the order taken")
    settled: bool | None = Field(default=None, description="windows of the warm-up agreed before it ended")
    drift: float | None = Field(
        default=None, description="change over the run, share of the median; null with too few samples"
    )
    drift_p: Fraction | None = Field(default=None, description="of the Mann-Kendall test for a trend")
    scatter: float | None = Field(
        default=None, description="half the width of the middle 68 % of samples, share of the median"
    )
    modes_ms: Interval | None = Field(default=None, description="two modes, where there are two")
    verdict: Verdict | None = None
    reasons: list[str] = Field(default=[], description="what the verdict rests on; empty when stable")


class Memory(Part):
    """Memory of a process that opened one engine and ran it; bytes resident."""

    peak_bytes: int = Field(description="most at any time, Python and runtime included")
    own_bytes: int = Field(description="what opening and running added")


class Throughput(Part):
    """Inferences a second with several requests under way."""

    requests: int
    streams: str = Field(description="how the runtime was asked to work on them")
    inferences: int = Field(description="counted")
    per_second: float = Field(description="median over windows")
    per_second_interval: Interval = Field(description="95 % bootstrap interval over windows")


class Energy(Part):
    """Energy of one inference, read from a sensor while one engine ran without a pause."""

    sensor: str = Field(description="which rails or packages were read")
    millijoules: float = Field(description="of one inference, everything on the sensor included")
    above_idle_millijoules: float = Field(description="what idling for as long would not have taken")
    watts: float
    idle_watts: float
    inferences: int


class StepTime(Part):
    """A step beside inference, timed on its own: preprocessing or postprocessing of one image."""

    step: Literal["preprocess", "postprocess"]
    median_ms: float
    median_interval_ms: Interval
    samples: int


class LayerTime(Part):
    """One operator as the runtime executed it, joined with what the ONNX file says of it."""

    name: str = Field(description="as the runtime calls it")
    kind: str = Field(description="operator, and kernel where the runtime names it")
    median_ms: float
    share: Fraction = Field(description="of all layers together")
    nodes: list[str] = Field(
        default=[], description="convolutions and matrix products of the ONNX file in it"
    )
    channels: int | None = Field(default=None, description="output channels")
    macs: int | None = None
    weight_bits: int | None = Field(default=None, description="8 behind QDQ, 32 in float")


class LayerBits(Part):
    """Bits of the weights of one layer, channel by channel."""

    layer: str = Field(description="node of the float model")
    weights_per_channel: int = Field(ge=1)
    bits: str = Field(
        pattern="^[234568fF]+$",
        description="one character an output channel; f: 16-bit float, F: 32-bit float",
    )
    form: Literal["container", "split", "float"] | None = Field(
        default=None, description="how it is deployed"
    )
    reason: str = Field(default="", description="why in this form")


class Speedup(Part):
    """How much faster an engine is than another variant of the same target, from paired samples."""

    baseline: str = Field(description="variant it is compared with")
    ratio: float = Field(description="baseline time / own time; above 1 is faster")
    interval: Interval = Field(description="95 % bootstrap interval over interleaved blocks")
    smallest_difference: float | None = Field(
        default=None,
        description="the least difference, as a share, this run would have found in 4 cases of 5",
    )


class Requirement(Part):
    """Something the build file asks of what was measured."""

    kind: Literal["stable", "pays"]
    target: str
    variant: str
    passed: bool
    demanded: bool = Field(description="the build ends with exit code 1 when it is not met")
    words: str = Field(description="what was found, in one sentence")


class Gain(Part):
    """One step on a network's way: what it cost and what came of it, on one target."""

    target: str
    step: str = Field(description="as in 'quantize student'")
    before: str = Field(description="variant")
    after: str = Field(description="variant")
    seconds: float = Field(description="of the stages that made the step, when they last ran")
    accuracy_change: float = Field(description="share of test images; above 0 is better")
    accuracy_interval: Interval | None = Field(description="95 %, paired; null where images are not known")
    size_change_bytes: int = Field(description="of the engine")
    speedup: float = Field(description="time before / time after")
    speedup_interval: Interval


class Mistake(Part):
    """One kind of confusion, with examples of it."""

    label: str
    said: str
    count: int
    images: list[str] = Field(description="PNG files, base64")


class TriageBlock(Part):
    """What became of the network when one block was replaced by one layer."""

    block: str
    replaced_by: str
    initialisation: str
    swapped: Fraction = Field(description="accuracy right after")
    local: Fraction | None = Field(default=None, description="accuracy after training the new layer alone")
    global_: Fraction | None = Field(default=None, alias="global", description="after training everything")
    by_labels: Fraction | None = Field(default=None, description="that, trained by labels")
    by_teacher: Fraction | None = Field(default=None, description="that, against the uncut network")
    epochs_to_99: float | None = Field(default=None, description="until 99 % of where that ended")
    latency_change_ms: float | None = None
    parameters_change: int
    macs_change: int = 0


class TriagePair(Part):
    """Two blocks replaced together: losses seldom add up."""

    blocks: tuple[str, str]
    measured: Fraction = Field(description="accuracy with both replaced")
    added: Fraction = Field(description="what adding up the two losses would have come to")


class Triage(Part):
    """How critical each block of a network is."""

    accuracy: Fraction = Field(description="of the uncut network, after the same extra epochs")
    split: str = Field(description="what accuracies were measured on")
    target: str | None = Field(default=None, description="whose milliseconds they are")
    blocks: list[TriageBlock]
    pairs: list[TriagePair] = []
    notes: list[str] = []


class LayerPaths(Part):
    """Critical channels of one layer, class by class."""

    layer: str
    channels: int
    sizes: list[int] = Field(description="critical channels of each class")
    exclusiveness: list[list[Fraction]] = Field(description="class × class; 1: no channel in common")
    critical: list[list[int]] = Field(default=[], description="channels on each class's path, from 0")
    share: Fraction = Field(default=1.0, description="of what the layer does for a class that its path holds")


class Paths(Part):
    """Critical paths of each class through a network."""

    classes: list[str]
    words: str = Field(description="whether customising to the wanted classes will pay")
    layers: list[LayerPaths]
