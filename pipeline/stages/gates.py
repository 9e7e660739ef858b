"""gate …: a model or engine must do what the one before it did, on the same real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.onnxmodel.file import describe, read_model
from pipeline.parity.gate import gate
from pipeline.parity.sides import Side, engine_side, onnx_side, torch_side
from pipeline.parity.thresholds import Thresholds
from pipeline.places import toolchain_of
from pipeline.stage import Context
from pipeline.stages.data import evenly, read_preprocess, read_split
from targets.toolchain import Engine


def check_export(context: Context) -> None:
    """The torch network against its ONNX file. Artefact: gate.json."""
    from pipeline.stages.loading import load_network

    network = context.settings["network"]
    module = load_network(context.settings["model"], context.inputs, network=network)
    facts = describe(read_model(context.inputs["candidate"]))
    reference = torch_side(
        f"{network} in torch",
        module,
        [spec.name for spec in facts.inputs],
        [spec.name for spec in facts.outputs],
    )
    _check(context, reference, onnx_side("exported ONNX", context.inputs["candidate"]))


def check_simplify(context: Context) -> None:
    """The ONNX file before and after simplification. Artefact: gate.json."""
    reference = onnx_side("ONNX as it came", context.inputs["reference"])
    _check(context, reference, onnx_side("simplified ONNX", context.inputs["candidate"]))


def check_form(context: Context) -> None:
    """A model and the form of it that a device needs. Artefact: gate.json."""
    reference = onnx_side("ONNX", context.inputs["reference"])
    _check(context, reference, onnx_side("ONNX in the device's form", context.inputs["candidate"]))


def check_quantize(context: Context) -> None:
    """The float model and the quantized one. Artefact: gate.json."""
    reference = onnx_side("float ONNX", context.inputs["reference"])
    # Looked into is the float model whose tensors the quantized one has, where that is another one.
    twin = context.inputs.get("twin", context.inputs["reference"])
    _check(context, replace(reference, model=twin), onnx_side("quantized ONNX", context.inputs["candidate"]))


def check_engine(context: Context) -> None:
    """An ONNX file, run as it is written, and the engine compiled from it. Artefact: gate.json."""
    model = context.inputs["reference"]
    engine = Engine.load(context.inputs["candidate"])
    toolchain = toolchain_of(context.settings, context.progress)
    candidate = engine_side(f"{engine.toolchain} engine", toolchain, engine, model)
    _check(context, onnx_side("its ONNX", model), candidate)


def _check(context: Context, reference: Side, candidate: Side) -> None:
    settings = context.settings
    images = evenly(read_split(context.inputs["calibrate"])[0], settings["samples"])
    inputs = {_input_name(candidate.model): read_preprocess(context.inputs["preprocess"])(images)}
    limits = Thresholds(**settings["limits"])
    outcome = gate(settings["name"], reference, candidate, inputs, limits, context.debris)
    (context.out / "gate.json").write_text(outcome.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _input_name(model: Path | None) -> str:
    assert model is not None
    return describe(read_model(model)).inputs[0].name
