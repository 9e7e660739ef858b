"""model, simplify: ONNX files, somebody's own or this build's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.forms.form import before_form, write_form
from pipeline.onnxmodel.file import ModelFacts, describe, read_model, write_model
from pipeline.onnxmodel.macs import count_macs
from pipeline.stage import Context
from pipeline.stages.artefacts import write_json
from targets.capability import Capability
from targets.checks import require_runnable
from targets.errors import ModelError


def take(context: Context) -> None:
    """Check somebody's ONNX file against the data and every target, and copy it. Artefact: model.onnx."""
    path = context.files["model"]
    model = read_model(path)
    _check_fits(describe(model), _image_shape(context), path)
    for target, capability in context.settings["capabilities"].items():
        require_runnable(path, before_form(Capability.model_validate(capability)), target)
    write_model(model, context.out / "model.onnx")


def simplify_onnx(context: Context) -> None:
    """Simplify a float model. Artefacts: model.onnx, facts.json."""
    from pipeline.simplify import simplify  # onnxsim imports torch: seconds that other stages need not wait

    out = context.out / "model.onnx"
    nodes = simplify(context.inputs["model"], out)
    model = read_model(out)
    facts = describe(model)
    document: dict[str, Any] = nodes | {
        "macs": count_macs(model),
        "parameters": facts.parameters,
        "weight_bytes": facts.weight_bytes,
        "onnx_size_bytes": out.stat().st_size,
        "inputs": [asdict(spec) for spec in facts.inputs],
        "outputs": [asdict(spec) for spec in facts.outputs],
        "operators": facts.operators,
    }
    write_json(context.out, "facts", document)


def form(context: Context) -> None:
    """Write a model in the form a device needs, and check it. Artefacts: model.onnx, facts.json."""
    capability = Capability.model_validate(context.settings["capability"])
    out = context.out / "model.onnx"
    changes = write_form(context.inputs["model"], capability, context.settings["precision"], out)
    require_runnable(out, capability, context.settings["device"])
    facts = {
        "changes": changes,
        "weight_bytes": describe(read_model(out)).weight_bytes,
        "onnx_size_bytes": out.stat().st_size,
    }
    write_json(context.out, "facts", facts)


def _image_shape(context: Context) -> list[int]:
    facts = json.loads(context.inputs["facts"].read_text(encoding="utf-8"))
    height, width, channels = facts["image_shape"]
    return [channels, height, width] if context.settings["layout"] == "NCHW" else [height, width, channels]


def _check_fits(facts: ModelFacts, image: list[int], path: Path) -> None:
    """One float image goes in, one row of scores comes out."""
    if len(facts.inputs) != 1:
        raise ModelError(
            f"the model has {len(facts.inputs)} inputs; a build takes classifiers of one image",
            where=str(path),
            mend="give a model with one input",
        )
    if facts.custom_operators:
        raise ModelError(
            f"the model uses operators that are not ONNX's own: {', '.join(facts.custom_operators)}",
            where=str(path),
            mend="export it with standard operators only",
        )
    spec = facts.inputs[0]
    fits = len(spec.shape) == 4 and all(
        want in (-1, have) for want, have in zip(spec.shape[1:], image, strict=True)
    )
    if spec.dtype != "float32" or not fits:
        raise ModelError(
            f"the model takes {spec.dtype} {list(spec.shape)}, the data gives float32 {[1, *image]}",
            where=f"{path}: input {spec.name!r}",
            mend="set data.resize or data.layout, or export the model for this size",
        )
