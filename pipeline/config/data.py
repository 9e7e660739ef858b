"""[project], [data] and [task]: who is built, from which images, to tell what apart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Count, Section, refuse_repeated


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
        refuse_repeated(self.classes)
        return self


class TaskSection(Section):
    """What the network has to tell apart."""

    classes: list[str] = Field(default=[], description="wanted classes; empty means all of them")
    other: bool = Field(default=False, description="everything else becomes one more output, 'other'")

    @model_validator(mode="after")
    def _distinct(self) -> TaskSection:
        refuse_repeated(self.classes)
        if len(self.classes) + self.other == 1:
            raise ValueError("one output cannot tell anything apart: name more classes, or set other = true")
        return self
