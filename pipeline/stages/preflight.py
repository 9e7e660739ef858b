"""preflight …: NVIDIA's own parser and builder must take a model that TensorRT is to build on a device."""

from __future__ import annotations

import onnx

from pipeline.stage import Context
from pipeline.stages.artefacts import write_json
from targets.conventions import written_precision
from targets.errors import ModelError
from targets.nvidia.preflight import preflight


def ask(context: Context) -> None:
    """Give the model to TensorRT-RTX in a child process. Artefact: preflight.json.

    Raises:
        ModelError: parser or builder refuse it; the message has the nodes and reasons.
    """
    model = context.inputs["model"]
    said = preflight(model, written_precision(onnx.load(str(model), load_external_data=False)))
    if not said.builds:
        raise ModelError(
            f"NVIDIA's parser and builder (TensorRT-RTX {said.version}) refuse the model: "
            + "; ".join(said.reasons or ["they give no reason"]),
            where=context.settings["name"],
            mend="edgewright check MODEL --device … --preflight lists every node and how to mend it",
        )
    taken = f"all {len(said.nodes)} nodes, {len(said.layers)} layers"
    words = f"NVIDIA's parser and builder (TensorRT-RTX {said.version}) take it: {taken}"
    write_json(context.out, "preflight", {"version": said.version, "said": words})
