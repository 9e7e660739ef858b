"""data → task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets.fashion_mnist import find_fashion_mnist
from pipeline.stage import Stage
from pipeline.wiring.request import Request, modules


def data_stages(request: Request) -> Iterator[Stage]:
    """The images, divided; the wanted classes found among them.

    Raises:
        DataError: Fashion-MNIST is not on this machine and may not be fetched.
    """
    section = request.settings.data
    yield Stage(
        "data",
        "pipeline.stages.data:load",
        files={} if section.kind == "python" else {"source": _source(request)},
        settings=section.model_dump(exclude={"path", "download", "labelled", "classes"})
        | ({} if section.labelled else {"outputs": section.classes})
        | {"seed": request.settings.project.seed, "licence": request.settings.report.licence},
        tools=("numpy", "pillow") if section.kind == "images" else ("numpy",),
        modules=modules(section.factory),
    )
    yield Stage(
        "task",
        "pipeline.stages.data:resolve_task",
        inputs=request.data("facts"),
        settings=request.settings.task.model_dump(),
    )


def _source(request: Request) -> Path:
    section = request.settings.data
    if section.kind == "fashion-mnist":
        return find_fashion_mnist(section.download)
    assert section.path is not None
    return request.path(section.path)
