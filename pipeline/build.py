"""From build.toml to an ordered list of stages.

    data → task → teacher → (labels) → scores → structure → student → export → simplify → quantize (→ mix)
                                                                         ▪          ▪          ▪       ▪
                                                                → compile → measure, evaluate → report
                                                                     ▪

A ▪ is a gate. Only `evaluate` is given the test split, and `labels`, which is there where the data has none.
`wiring` says of every part what it takes from where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.products import networks_of
from pipeline.stage import Stage
from pipeline.wiring.data import data_stages
from pipeline.wiring.engines import simplify_stages, take_onnx, target_stages
from pipeline.wiring.labels import labels_stage
from pipeline.wiring.networks import export_stages, network_stages
from pipeline.wiring.paths import path_stages
from pipeline.wiring.quantize import observe_stages
from pipeline.wiring.request import Request


def plan(request: Request) -> list[Stage]:
    """Every stage of a build but the report, each after those it takes from.

    Raises:
        DataError: Fashion-MNIST is not on this machine and may not be fetched.
    """
    return list(_stages(request))


def needed(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """Those of a build's stages that are named, and all they take from; in the same order."""
    wanted = set(names)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted |= {ref.stage for ref in stage.inputs.values()}
    return [stage for stage in stages if stage.name in wanted]


def _stages(request: Request) -> Iterator[Stage]:
    yield from data_stages(request)
    if request.settings.model.onnx:
        yield take_onnx(request, request.settings.model.onnx)
        if not request.settings.data.labelled:
            yield labels_stage(request)
    else:
        yield from network_stages(request)
        if request.settings.paths:
            yield from path_stages(request)
    for network in networks_of(request.settings):
        if network != "model":
            yield from export_stages(request, network)
        yield from simplify_stages(request, network)
    yield from observe_stages(request)
    for target in request.targets:
        yield from target_stages(request, target)
