"""data, teacher → labels, where the data has none."""

from __future__ import annotations

from pipeline.stage import Ref, Stage
from pipeline.task import SPLITS
from pipeline.wiring.request import ONNX_TOOLS, Request, torch_inputs


def labels_stage(request: Request) -> Stage:
    """What the network everything starts from takes every image for; later stages take it for true."""
    inputs = request.data("facts", "preprocess") | {split: Ref("data", split) for split in SPLITS}
    if request.settings.model.onnx:
        return Stage(
            "labels",
            "pipeline.stages.labels:by_onnx",
            inputs=inputs | {"model": Ref("model", "model.onnx")},
            tools=ONNX_TOOLS,
        )
    return request.torch_stage(
        "labels", "pipeline.stages.labels:by_network", inputs=inputs | torch_inputs("teacher"), settings={}
    )
