"""From [export] to [report]: what becomes of networks once they are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Count, Section
from targets.errors import ConfigError
from targets.remote.ssh import Host

Precision = Literal["fp32", "fp16", "bf16", "int8", "mixed"]


class ExportSection(Section):
    """From torch to ONNX."""

    exporter: Literal["dynamo", "legacy"] = "dynamo"
    opset: Annotated[int, Field(ge=13, le=25)] = 18
    dynamic_batch: bool = False


class MixedSection(Section):
    """Weights of 2 to 8 bits, channel by channel, inside INT8: how far to go. Exactly one key."""

    bits: Annotated[float, Field(ge=2, le=8)] | None = Field(default=None, description="a weight, on average")
    size_bytes: Count | None = Field(default=None, description="of the packed file")
    max_drop: Annotated[float, Field(ge=0, lt=100)] | None = Field(
        default=None,
        description="percent of calibration images kept apart that float answers otherwise",
    )
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of one inference; what INT8 leaves of it is spent on float layers"
    )

    @model_validator(mode="after")
    def _one(self) -> MixedSection:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}; found {len(given)}")
        return self

    @property
    def budget(self) -> tuple[str, float]:
        """The key that is given, and its value."""
        return next(iter(self.model_dump(exclude_none=True).items()))


class QuantizeSection(Section):
    """From float to INT8."""

    samples: Count = Field(default=512, description="calibration images, from the calibrate split")
    effort: Literal["plain", "thorough"] = Field(
        default="plain", description="ranges alone, or also repairs: each is tried, and kept if it helps"
    )
    method: Literal["minmax", "percentile", "entropy", "mse"] = Field(
        default="mse", description="of ranges, if plain"
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    ignore: list[str] = Field(default=[], description="nodes or operator types that stay in float")
    max_drop: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        default=None,
        description="percent of answers INT8 may change; the fewest layers stay float for it",
    )
    mixed: MixedSection | None = Field(default=None, description='for targets whose precisions have "mixed"')

    @property
    def searches(self) -> bool:
        """Whether each convention is searched for on its own, instead of written from shared ranges."""
        return self.effort == "thorough" or self.max_drop is not None


class TargetSection(Section):
    """One device, and what is built for it."""

    device: str = Field(description='a name from "edgewright targets", "this-machine", or a .toml file')
    toolchain: str | None = Field(default=None, description="default: the device's first")
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    precisions: list[Precision] | None = Field(
        default=None, min_length=1, description="default: the device's first float precision, and int8"
    )
    engine: bool = Field(
        default=True, description="false: hand over the model in the device's form, compiled by nobody here"
    )
    threads: Annotated[int, Field(ge=0)] = Field(default=1, description="of one inference; 0 is all cores")
    hint: Literal["latency", "throughput"] | None = Field(
        default=None, description="openvino: what it arranges its threads for; default: one stream, as told"
    )
    streams: Count | None = Field(default=None, description="openvino: inferences at once; default 1")
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "xnnpack"] | None = Field(
        default=None, description="onnxruntime: execution provider; default cpu"
    )
    raw: dict[str, str] = Field(default={}, description="options for the runtime, passed as they are")
    host: str | None = Field(
        default=None, description='"ssh://user@name:port" of the device; default: this machine'
    )
    python: str = Field(default="python3", description="on the host; it has numpy and the runtime")

    @model_validator(mode="after")
    def _is_somewhere(self) -> TargetSection:
        if self.host is None and self.python != "python3":
            raise ValueError("python is for a target with a host")
        if self.host is not None:
            try:
                Host.parse(self.host)
            except ConfigError as error:
                raise ValueError(f"host: {error.what}; {error.mend}") from error
            if self.device == "this-machine":
                raise ValueError('say which device the host is; "this-machine" is this one')
        return self


class MeasureSection(Section):
    """How engines are timed."""

    warmup_s: Annotated[float, Field(ge=0)] = 1.0
    samples: Count = Field(default=700, description="at least so many; 662 are needed for a p99")
    seconds: Annotated[float, Field(ge=0)] = Field(default=3.0, description="at least, all engines together")
    most_seconds: Annotated[float, Field(gt=0)] = Field(default=60.0, description="at most, all together")
    memory: bool = Field(default=True, description="open each engine in a process of its own, too")
    throughput_seconds: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="with several requests under way; 0 for no throughput"
    )
    requests: Annotated[int, Field(ge=0)] = Field(default=0, description="under way at once; 0: one a core")
    energy_seconds: Annotated[float, Field(ge=0)] = Field(
        default=2.0, description="without a pause, where a sensor is readable; 0 for no energy"
    )
    layers: bool = Field(default=True, description="ask the runtime's profiler for single layers")
    stable: Literal["report", "demand"] = Field(
        default="report", description="what becomes of timings that are not stable; demand: the build stops"
    )


class PaysSection(Section):
    """Whether an INT8 engine is worth shipping."""

    margin: Annotated[float, Field(gt=0)] = Field(default=1.0, description="times as fast as its float twin")
    otherwise: Literal["report", "float", "stop"] = Field(
        default="report", description="say so, ship the float twin instead, or end with exit code 1"
    )


class CompareSection(Section):
    """How much worse than a baseline a build may be, for `edgewright compare`."""

    accuracy_drop: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="share of images; a loss that chance explains is none"
    )
    significance: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.05, description="of McNemar's test")
    slower: Annotated[float, Field(ge=0)] = Field(default=0.05, description="share of the baseline's latency")
    larger: Annotated[float, Field(ge=0)] = Field(default=0.05, description="share of the baseline's bytes")


class GateThresholds(Section):
    """Limits of one kind of gate; leave one out to keep its default."""

    max_abs: Annotated[float, Field(ge=0)] | None = None
    relative_l2: Annotated[float, Field(ge=0)] | None = None
    cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None = None


GateKind = Literal["export", "simplify", "quantize", "engine-fp32", "engine-half", "engine-int8"]


class GatesSection(Section):
    """When the build stops."""

    samples: Count = Field(default=128, description="real images both sides are given")
    limits: dict[GateKind, GateThresholds] = Field(default={}, description="per kind of gate")


class ReportSection(Section):
    """What the report says besides figures."""

    licence: str = Field(default="", description="of the data; fashion-mnist knows its own")
    examples: Annotated[int, Field(ge=0, le=16)] = Field(
        default=4, description="images shown of each of the most frequent confusions; 0 keeps test images out"
    )


class ReleaseSection(Section):
    """What a release says and promises besides what was built."""

    licence: str = Field(default="", description="of the model, as SPDX has it, or in words")
    publisher: str = Field(default="", description='who releases it, as in "Name <mail@example.com>"')
    latency_margin: Annotated[float, Field(ge=1)] = Field(
        default=1.25, description="promised latency, over the upper end of the median's interval"
    )
    widest_interval: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="of a median, as a share of it; beyond it a measurement is unstable"
    )
