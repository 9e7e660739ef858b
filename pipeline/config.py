"""build.toml: typed and validated. Its JSON schema is published as docs/schema/build.schema.json."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from targets.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
BUDGETS = ("macs", "parameters", "bytes", "latency_ms")


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _refuse_repeated(classes: list[str]) -> None:
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ValueError(f"classes named twice: {', '.join(repeated)}")


Shares = Annotated[
    list[Share], Field(min_length=1), BeforeValidator(_as_list, json_schema_input_type=Share | list[Share])
]
Counts = Annotated[
    list[Count], Field(min_length=1), BeforeValidator(_as_list, json_schema_input_type=Count | list[Count])
]
Milliseconds = Annotated[float, Field(gt=0)]
Times = Annotated[
    list[Milliseconds],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=Milliseconds | list[Milliseconds]),
]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Criterion = Literal[
    "random",
    "l1",
    "l2",
    "activation",
    "taylor",
    "fisher",
    "fisher-ratio",
    "di-mask-gradient",
    "di-greedy",
    "reconstruction",
    "discriminant-reconstruction",
]
OWN_CODE = ("pipeline.",)


class Section(BaseModel):
    """A table of build.toml: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProjectSection(Section):
    """Who is being built."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="lower case, used in file names")
    version: str = Field(default="0.1.0", pattern=r"^\d+\.\d+\.\d+([-+].+)?$")
    description: str = ""
    seed: int = Field(default=0, ge=0, description="seeds the splits and the training")
    output: str = Field(default="out", description="folder for the report, the engines and the models")
    store: str = Field(default=".edgewright/store", description="folder for finished stages; may be shared")


class DataSection(Section):
    """Where the images come from and how they are prepared."""

    kind: Literal["fashion-mnist", "images", "npz", "python"]
    path: str | None = Field(default=None, description="folder of images, or .npz file")
    factory: str | None = Field(default=None, description='kind "python": "module:function"')
    labelled: bool = Field(default=True, description="false: images alone; the network says what they show")
    classes: list[str] = Field(default=[], description="labelled = false: the network's outputs, in order")
    download: bool = Field(default=False, description="fashion-mnist may be fetched over HTTPS")
    resize: tuple[Count, Count] | None = Field(default=None, description="height, width for image folders")
    select: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, description="share for choosing")
    calibrate: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.02, description="share for ranges")
    test: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="share for the test, unless the data set brings its own test images"
    )
    limit: Count | None = Field(default=None, description="use at most this many images per split")
    scale: float | None = Field(default=None, description="factor on stored values; 1/255 for uint8")
    mean: list[float] = Field(default=[0.0], description="per channel, after scaling")
    std: list[Annotated[float, Field(gt=0)]] = Field(default=[1.0], description="per channel, after scaling")
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="of the network's input")
    reverse_channels: bool = Field(default=False, description="the network takes BGR")

    @model_validator(mode="after")
    def _needs(self) -> DataSection:
        if self.kind in ("images", "npz") and not self.path:
            raise ValueError(f'kind "{self.kind}" needs path')
        if self.kind == "python" and not self.factory:
            raise ValueError('kind "python" needs factory = "module:function"')
        if self.select + self.calibrate + self.test >= 1.0:
            raise ValueError("select + calibrate + test must leave something for training")
        return self

    @model_validator(mode="after")
    def _labels(self) -> DataSection:
        if self.labelled and self.classes:
            raise ValueError(
                "labelled data brings its own classes: remove data.classes, or set labelled = false; "
                "task.classes chooses among those there are"
            )
        if self.labelled:
            return self
        if self.kind == "fashion-mnist":
            raise ValueError('kind "fashion-mnist" has labels: remove labelled = false')
        if len(self.classes) < 2:
            raise ValueError(
                "labelled = false needs classes = [...], what the network's outputs mean, in their order"
            )
        _refuse_repeated(self.classes)
        return self


class TaskSection(Section):
    """What the network has to tell apart."""

    classes: list[str] = Field(default=[], description="wanted classes; empty means all of them")
    other: bool = Field(default=False, description="everything else becomes one more output, 'other'")

    @model_validator(mode="after")
    def _distinct(self) -> TaskSection:
        _refuse_repeated(self.classes)
        if len(self.classes) + self.other == 1:
            raise ValueError("one output cannot tell anything apart: name more classes, or set other = true")
        return self


class TrainingSection(Section):
    """How a network is trained."""

    epochs: Count = 10
    batch_size: Count = 128
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    flip: bool = Field(default=False, description="mirror half of the images")
    shift: Annotated[int, Field(ge=0)] = Field(default=0, description="move images by up to so many pixels")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.99, description="decay of the EMA weights")
    processes: Count = Field(default=1, description="that share every batch; with GPUs one each")


class StudentTrainingSection(TrainingSection):
    """How a student is trained against its teacher."""

    epochs: Annotated[int, Field(ge=0, description="0: cut and repaired, not trained")] = 5


class ModelSection(Section):
    """The trained network: a torch factory with its checkpoint, or an ONNX file."""

    factory: str | None = Field(default=None, description='"module:function" returning a torch module')
    arguments: dict[str, Any] = Field(default={}, description="given to the factory")
    checkpoint: str | None = Field(default=None, description=".safetensors, or a .pt of plain tensors")
    training: TrainingSection = Field(default=TrainingSection(), description="used without a checkpoint")
    onnx: str | None = Field(default=None, description="an ONNX file; the build starts at simplify")

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if (self.factory is None) == (self.onnx is None):
            raise ValueError("name either factory or onnx")
        if self.onnx and self.checkpoint:
            raise ValueError("an ONNX file carries its own weights: remove checkpoint")
        return self


class StudentSection(Section):
    """The network that is shipped: slimmed to a pre-set cost, then distilled."""

    macs: Shares | None = Field(
        default=None, description="share of the teacher's multiply-accumulates; several make a family"
    )
    parameters: Shares | None = Field(default=None, description="share of the teacher's parameters")
    bytes: Counts | None = Field(default=None, description="of the weights, at the precision that ships")
    latency_ms: Times | None = Field(
        default=None, description="median time of one inference on `target`, at the precision that ships"
    )
    target: str | None = Field(default=None, description="latency_ms: name of a target; default the first")
    allocation: Literal["uniform", "information"] = Field(
        default="uniform", description="all groups to about the same share, or where least is lost for it"
    )
    alignment: Count | None = Field(
        default=None, description="widths are multiples of it; by default what suits all targets"
    )
    minimum_width: Count = Field(default=8, description="channels no layer goes below")
    importance: Criterion = Field(
        default="discriminant-reconstruction", description="criterion that says which channels stay"
    )
    scoring_images: Count = Field(default=1024, description="training images criteria and repair look at")
    repair: bool = Field(default=True, description="refit the cut network in closed form before training")
    training: StudentTrainingSection = StudentTrainingSection()
    temperature: Annotated[float, Field(gt=0)] = Field(default=4.0, description="of the soft targets")
    distillation: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="weight of the soft targets at the start; annealed to 0"
    )
    all_classes: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of soft targets of all the teacher's classes, by a head of their own"
    )
    hints: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="weight of the differences of feature maps at the ends of stages"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> StudentSection:
        given = [kind for kind in BUDGETS if getattr(self, kind) is not None]
        if len(given) > 1:
            raise ValueError(f"one budget at a time: {' and '.join(given)} are given")
        kind, limits = self.budget
        if len(set(limits)) < len(limits):
            raise ValueError(f"{kind} names a budget twice")
        if self.target and kind != "latency_ms":
            raise ValueError("target goes with latency_ms: remove it, or set latency_ms")
        return self

    @model_validator(mode="after")
    def _of_use(self) -> StudentSection:
        if self.training.epochs == 0 and not self.repair:
            raise ValueError(
                "training.epochs = 0 without repair ships a network that was cut and never mended: "
                "set repair = true, or train it"
            )
        return self

    @property
    def budget(self) -> tuple[str, list[float]]:
        """What is counted, and how much of it each student may cost; a quarter of the MACs by default."""
        for kind in BUDGETS:
            limits = getattr(self, kind)
            if limits is not None:
                return kind, list(limits)
        return "macs", [0.25]


class ExportSection(Section):
    """From torch to ONNX."""

    exporter: Literal["dynamo", "legacy"] = "dynamo"
    opset: Annotated[int, Field(ge=13, le=25)] = 18
    dynamic_batch: bool = False


class QuantizeSection(Section):
    """From float to INT8."""

    samples: Count = Field(default=512, description="calibration images, from the calibrate split")
    method: Literal["minmax", "percentile", "mse"] = "mse"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    ignore: list[str] = Field(default=[], description="nodes or operator types that stay in float")


class TargetSection(Section):
    """One device, and what is built for it."""

    device: str = Field(description='a name from "edgewright targets", "this-machine", or a .toml file')
    toolchain: str | None = Field(default=None, description="default: the device's first")
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    precisions: list[Precision] = Field(default=["fp32", "int8"], min_length=1)
    threads: Annotated[int, Field(ge=0)] = Field(default=1, description="of one inference; 0 is all cores")
    raw: dict[str, str] = Field(default={}, description="options for the runtime, passed as they are")


class MeasureSection(Section):
    """How engines are timed."""

    warmup_s: Annotated[float, Field(ge=0)] = 1.0
    samples: Count = Field(default=700, description="at least so many; 662 are needed for a p99")
    seconds: Annotated[float, Field(ge=0)] = Field(default=3.0, description="at least, all engines together")
    most_seconds: Annotated[float, Field(gt=0)] = Field(default=60.0, description="at most, all together")


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


class Settings(Section):
    """All of build.toml."""

    project: ProjectSection
    data: DataSection
    task: TaskSection = TaskSection()
    model: ModelSection
    student: StudentSection | None = None
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    targets: list[TargetSection] = Field(min_length=1)
    measure: MeasureSection = MeasureSection()
    gates: GatesSection = GatesSection()
    report: ReportSection = ReportSection()

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.model.onnx and self.student:
            raise ValueError("student needs a torch model: remove [student], or give model.factory")
        if not (self.data.labelled or self.model.checkpoint or self.model.onnx):
            raise ValueError(
                "images without labels cannot train the network they are labelled by: "
                "give model.checkpoint or model.onnx, or data with labels"
            )
        return self


def load_settings(path: Path, allow_code: bool = False) -> Settings:
    """Read and validate a build file.

    Args:
        path: the .toml file.
        allow_code: the build file may name a Python factory that is not edgewright's own.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key, a wrong value, or code that was not allowed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such build file", where=str(path), mend="write one with: edgewright init"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the build file: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path), mend="correct that line") from error
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise _explain(error, path) from error
    _check_code(settings, path, allow_code)
    return settings


def json_schema() -> dict[str, Any]:
    """The JSON schema of build files, published as docs/schema/build.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def _check_code(settings: Settings, path: Path, allow_code: bool) -> None:
    named = {"model.factory": settings.model.factory, "data.factory": settings.data.factory}
    for key, factory in named.items():
        if factory is None:
            continue
        if ":" not in factory:
            raise ConfigError(
                f"{key} is {factory!r}, not of the form module:function", where=f"{path}: {key}"
            )
        if not factory.startswith(OWN_CODE) and not allow_code:
            raise ConfigError(
                f"{key} = {factory!r} would run code that is not edgewright's own",
                where=f"{path}: {key}",
                mend="if you trust this build file, run the command again with --allow-code",
            )


def _explain(error: ValidationError, path: Path) -> ConfigError:
    """One message for all that is wrong: the key's path, what was found, what is allowed."""
    problems = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        if item["type"] == "extra_forbidden":
            problems.append(f"{key}: unknown key{_suggest(item['loc'])}")
        elif item["type"] == "missing":
            problems.append(f"{key}: missing")
        elif item["type"] == "value_error":
            problems.append(f"{key}: {item['ctx']['error']}")
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            problems.append(f"{key}: found {item['input']!r:.80}; {message}")
    return ConfigError(
        "the build file is not valid:\n" + "\n".join(f"    {problem}" for problem in problems),
        where=str(path),
        mend="correct these keys; docs/build-file.md lists every key",
    )


def _suggest(location: tuple[int | str, ...]) -> str:
    """What the user may have meant by an unknown key, from the schema."""
    model: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        model = next(
            (kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)),
            None,
        )
        if model is None:
            return ""
    near = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {near[0]!r}?)" if near else f"; known: {', '.join(model.model_fields)}"


def _kinds(annotation: Any) -> list[Any]:
    """The classes inside a type such as `list[TargetSection]` or `StudentSection | None`."""
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(kind for argument in arguments for kind in _kinds(argument))]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n")
