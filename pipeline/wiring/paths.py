"""teacher → path scores → paths; and, for the asking, → customise → export, simplify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config import PathsSection, StudentSection
from pipeline.stage import Ref, Stage
from pipeline.wiring.engines import simplify_stages
from pipeline.wiring.networks import TEACHER, export_stages, widths
from pipeline.wiring.request import Request

SCORES = {"scores": Ref("path scores", "path_scores.npz")}
CUSTOMISED = "customised"


def path_stages(request: Request) -> Iterator[Stage]:
    """What every channel does for every class, and what follows for the task."""
    section = request.settings.paths or PathsSection()
    yield request.torch_stage(
        "path scores",
        "pipeline.stages.paths:score",
        inputs={"teacher": TEACHER["teacher"]} | request.data("train", "preprocess", "facts"),
        settings={"images": section.images},
        tools=("torch-pruning",),
    )
    yield Stage(
        "paths",
        "pipeline.stages.paths:describe",
        inputs=SCORES | {"task": TEACHER["task"]},
        settings={"share": section.share},
        tools=("torch", "numpy"),
    )


def customise_stages(
    request: Request, classes: Sequence[str], other: bool, share: float | None, macs: float | None
) -> Iterator[Stage]:
    """A network for some classes, cut by scores that are there, as weights and ONNX.

    Args:
        request: the build whose teacher is cut.
        classes: wanted.
        other: everything else is one more output.
        share: of the mass that a path holds in the last layer; by default as of the build.
        macs: share of the teacher's multiply-accumulates; none keeps the classes' paths whole.
    """
    section = request.settings.student or StudentSection()
    held = (request.settings.paths or PathsSection()).share
    yield request.torch_stage(
        CUSTOMISED,
        "pipeline.stages.paths:customise",
        inputs=SCORES
        | {"teacher": TEACHER["teacher"]}
        | request.data("train", "select", "preprocess", "facts"),
        settings=widths(request, section)
        | {
            "classes": list(classes),
            "other": other,
            "share": held if share is None else share,
            "macs": macs,
            "repair_images": section.scoring_images,
        },
        tools=("torch-pruning",),
    )
    own = {"plan": Ref(CUSTOMISED, "plan.json"), "task": Ref(CUSTOMISED, "task.json")}
    yield from export_stages(request, CUSTOMISED, own)
    yield from simplify_stages(request, CUSTOMISED)
