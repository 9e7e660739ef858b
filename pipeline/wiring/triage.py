"""teacher → trial, trial times → triage; with student.depth → depth, what students are then cut from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.config import TriageSection
from pipeline.products import timed_target
from pipeline.stage import Ref, Stage
from pipeline.wiring.request import ONNX_TOOLS, Request

TRIED = {"trial": Ref("trial", "trial.json"), "times": Ref("trial times", "times.json")}
TASK = {"task": Ref("task", "task.json")}


def triage_stages(request: Request) -> Iterator[Stage]:
    """Every block tried; and, where students may lose some, which of them they lose."""
    section = request.settings.triage or TriageSection()
    yield request.torch_stage(
        "trial",
        "pipeline.stages.triage:try_blocks",
        inputs=_images(request),
        settings=_blocks(section) | _learning(request, section) | {"training": _training(request, section)},
        tools=("torch-pruning",),
    )
    yield _times(request, section)
    chosen = {}
    if request.settings.student and request.settings.student.depth:
        yield request.torch_stage(
            "depth",
            "pipeline.stages.triage:choose",
            inputs=TRIED | _images(request),
            settings=_learning(request, section) | {"tolerance": section.tolerance},
            tools=("torch-pruning",),
        )
        chosen = {"depth": Ref("depth", "depth.json")}
    yield Stage(
        "triage", "pipeline.stages.triage:describe", inputs=TRIED | chosen, tools=("torch", "torch-pruning")
    )


def _times(request: Request, section: TriageSection) -> Stage:
    target = timed_target(request.settings, request.targets)
    runtime = request.runtime(target)
    return request.torch_stage(
        "trial times",
        "pipeline.stages.triage:time_blocks",
        inputs=TASK | request.data("facts", "calibrate", "preprocess"),
        settings=_blocks(section) | request.timing(target) | {"target": target.name},
        tools=(*runtime["tools"], *ONNX_TOOLS, "onnxsim", "torch-pruning"),
        fingerprint=runtime["fingerprint"],
        alone=True,
    )


def _images(request: Request) -> dict[str, Ref]:
    teacher = {"teacher": Ref("teacher", "weights.safetensors")}
    return teacher | TASK | request.data("train", "select", "preprocess", "facts")


def _blocks(section: TriageSection) -> dict[str, Any]:
    return {"blocks": section.blocks, "layer": section.layer}


def _learning(request: Request, section: TriageSection) -> dict[str, Any]:
    return {"images": section.images, "steps": section.steps, "seed": request.settings.project.seed}


def _training(request: Request, section: TriageSection) -> dict[str, Any]:
    """As the teacher was trained, but for how long and how fast."""
    recipe = request.settings.model.training.model_dump(exclude={"processes", "graft"})
    return recipe | {"epochs": section.epochs, "learning_rate": section.learning_rate}
