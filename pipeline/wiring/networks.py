"""teacher → scores → structure → student → export, for every student of the build."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import StudentSection
from pipeline.products import product_precision, students_of, timed_target
from pipeline.stage import Ref, Stage
from pipeline.wiring.labels import labels_stage
from pipeline.wiring.request import ONNX_TOOLS, TORCH_TOOLS, Request, modules, torch_inputs
from pipeline.wiring.triage import triage_stages

# Training frees and maps the same large buffers again and again; keeping them makes it 1.1 to 1.5 times as
# fast on glibc (docs/training.md has the figures). Results do not change.
KEEP_BUFFERS = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=1000000000"
}
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "mixed": 8}
TEACHER = {"teacher": Ref("teacher", "weights.safetensors"), "task": Ref("task", "task.json")}


def network_stages(request: Request) -> Iterator[Stage]:
    """The teacher and its students, as weights."""
    yield _teacher(request)
    if not request.settings.data.labelled:
        yield labels_stage(request)
    section = request.settings.student
    if request.settings.triage or (section and section.depth):
        yield from triage_stages(request)
    if section is None:
        return
    yield _scores(request, section)
    if section.budget[0] == "latency_ms":
        yield _costs(request, section)
    for name, (kind, limit) in students_of(request.settings).items():
        yield _structure(request, section, name, kind, limit)
        yield _student(request, section, name)


def export_stages(
    request: Request, network: str, structure: Mapping[str, Ref] | None = None
) -> Iterator[Stage]:
    """A network's ONNX file, and the gate behind it.

    Args:
        request: the build it belongs to.
        network: the stage its weights come from.
        structure: its plan and task where they are not the build's.
    """
    name = f"export {network}"
    inputs = torch_inputs(network) | dict(structure or {})
    yield request.torch_stage(
        name,
        "pipeline.stages.networks:export_network",
        inputs=inputs,
        settings={"network": network} | request.settings.export.model_dump(),
        tools=("onnx", "onnxscript", "torch-pruning"),
    )
    yield request.gate(
        "export",
        name,
        inputs=inputs | {"candidate": Ref(name, "model.onnx")},
        settings={"model": request.model(), "network": network},
        tools=(*TORCH_TOOLS, *ONNX_TOOLS),
        modules=modules(request.settings.model.factory),
    )


def widths(request: Request, section: StudentSection) -> dict[str, Any]:
    """The widths groups may have."""
    suits_all = math.lcm(*(target.capability.channel_alignment for target in request.targets))
    return {"alignment": section.alignment or suits_all, "minimum": section.minimum_width}


def _teacher(request: Request) -> Stage:
    section = request.settings.model
    if section.checkpoint:
        # Its accuracy on the select split is for the log; without labels there is none.
        select = request.data("select") if request.settings.data.labelled else {}
        return request.torch_stage(
            "teacher",
            "pipeline.stages.networks:take_teacher",
            inputs=select | request.data("preprocess", "facts"),
            files={"checkpoint": request.path(section.checkpoint)},
            settings={"checkpoint": section.checkpoint},
            tools=("safetensors",),
        )
    return request.torch_stage(
        "teacher",
        "pipeline.stages.networks:train_teacher",
        inputs=request.data("train", "select", "preprocess", "facts"),
        settings={
            "training": section.training.model_dump(exclude={"processes", "graft"}),
            "graft": section.training.graft,
            "seed": request.settings.project.seed,
        },
        environment=KEEP_BUFFERS,
        processes=section.training.processes,
    )


def _depth(section: StudentSection) -> dict[str, Ref]:
    """Which blocks are replaced before anything is cut."""
    return {"replaced": Ref("depth", "replaced.json")} if section.depth else {}


def _uncut(section: StudentSection) -> dict[str, Ref]:
    """The teacher, and what students are cut from where that is another network."""
    shallow = {"shallow": Ref("depth", "weights.safetensors")} if section.depth else {}
    return TEACHER | shallow | _depth(section)


def _scores(request: Request, section: StudentSection) -> Stage:
    """What every student's structure is decided by."""
    return request.torch_stage(
        "scores",
        "pipeline.stages.structure:score",
        inputs=_uncut(section) | request.data("train", "preprocess", "facts"),
        settings={
            "importance": section.importance,
            "images": section.scoring_images,
            "seed": request.settings.project.seed,
        },
        tools=("torch-pruning",),
    )


def _costs(request: Request, section: StudentSection) -> Stage:
    """What layers and networks take on the target a latency budget is for; independent of all weights."""
    target = timed_target(request.settings, request.targets)
    runtime = request.runtime(target)
    return request.torch_stage(
        "costs",
        "pipeline.stages.costs:measure",
        inputs={"task": TEACHER["task"]} | _depth(section) | request.data("facts", "calibrate", "preprocess"),
        settings=widths(request, section) | request.timing(target),
        tools=(*runtime["tools"], *ONNX_TOOLS, "onnxsim", "torch-pruning"),
        fingerprint=runtime["fingerprint"],
        alone=True,
    )


def _structure(request: Request, section: StudentSection, name: str, kind: str, limit: float) -> Stage:
    inputs = {"task": TEACHER["task"], "scores": Ref("scores", "scores.json")} | request.data("facts")
    inputs |= _depth(section)
    if kind == "latency_ms":
        inputs["costs"] = Ref("costs", "costs.json")
    precision = product_precision(request.settings, timed_target(request.settings, request.targets))
    return request.torch_stage(
        f"structure {name}",
        "pipeline.stages.structure:decide",
        inputs=inputs,
        settings=widths(request, section)
        | {
            "budget": {"kind": kind, "limit": limit, "bits": BITS[precision]},
            "allocation": section.allocation,
        },
        tools=("torch-pruning",),
    )


def _student(request: Request, section: StudentSection, name: str) -> Stage:
    return request.torch_stage(
        name,
        "pipeline.stages.networks:distill_student",
        inputs=_uncut(section)
        | {"plan": Ref(f"structure {name}", "plan.json")}
        | request.data("train", "select", "preprocess", "facts"),
        settings={
            "training": section.training.model_dump(exclude={"processes", "graft"}),
            "graft": section.training.graft,
            "distillation": {
                "temperature": section.temperature,
                "task": section.distillation,
                "all_classes": section.all_classes,
                "hints": section.hints,
            },
            "repair_images": section.scoring_images if section.repair else 0,
            "seed": request.settings.project.seed,
        },
        tools=("torch-pruning",),
        environment=KEEP_BUFFERS,
        processes=section.training.processes,
    )
