"""[model] and [student]: the trained network, and what is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Count, Counts, Section, Share, Shares, Times

BUDGETS = ("macs", "parameters", "bytes", "latency_ms")
Criterion = Literal[
    "random",
    "l1",
    "l2",
    "activation",
    "taylor",
    "fisher",
    "fisher-ratio",
    "critical-path",
    "di-mask-gradient",
    "di-greedy",
    "reconstruction",
    "discriminant-reconstruction",
]


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
    graft: Count = Field(
        default=1,
        description="networks of a ring that graft each other's weights; kept only if the select split "
        "prefers it to one network trained as long",
    )


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


class PathsSection(Section):
    """Critical paths of the teacher's classes."""

    images: Count = Field(default=2048, description="training images that channels are scored on")
    share: Share = Field(default=0.95, description="of a class's mass that its path holds in the last layer")


class TriageSection(Section):
    """Which blocks of the teacher one layer could stand for."""

    blocks: list[str] = Field(default=[], description="modules; by default those found by shape")
    layer: Literal["3x3", "1x1", "separable", "none"] = Field(
        default="3x3", description="what stands in: a convolution, depthwise 3×3 and 1×1, or nothing"
    )
    images: Count = Field(default=1024, description="training images that least squares looks at")
    steps: Annotated[int, Field(ge=0)] = Field(default=200, description="batches a layer is trained on alone")
    epochs: Annotated[int, Field(ge=0)] = Field(default=1, description="the whole network is trained on for")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=0.02, description="peak, of these epochs")
    tolerance: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01, description="accuracy on the select split that `student.depth` may lose in all"
    )


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
    depth: bool = Field(
        default=False, description="replace blocks that triage calls uncritical before widths are chosen"
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
        if self.training.epochs == 0 and self.training.graft > 1:
            raise ValueError("training.epochs = 0 leaves nothing to graft: set graft = 1, or train it")
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
