"""Where two sides of a gate part: the first tensor inside them that differs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from pipeline.onnxmodel.file import read_model, write_model
from pipeline.onnxmodel.session import OnnxSession
from pipeline.parity.sides import Compiled, Failure
from pipeline.parity.taps import cut, dequantized, float_tensors, tapped
from targets.batches import Infer, Tensors, batch_size, batches, sample_count
from targets.errors import EdgewrightError
from targets.metrics import relative_l2

if TYPE_CHECKING:
    import torch

DEFAULT_LIMIT = 1e-3  # where the gate sets none for relative L2
ROUNDING = 1e-6  # errors below this are no jump to speak of
FUSION = "outputs agree when intermediate tensors are kept: fusion changes the result"


@dataclass(frozen=True)
class Piece:
    """What computes the first diverging tensor from tensors that still agree.

    Args:
        model: cut out of the candidate.
        inputs: the agreeing tensors, as the reference has them.
        expected: the diverging tensor, as the reference has it.
    """

    model: onnx.ModelProto
    inputs: Tensors
    expected: Tensors


@dataclass(frozen=True)
class Divergence:
    """Where both sides part.

    Args:
        tensor: the first diverging tensor, or `FUSION`; None where it was not found.
        reason: how it was found, or why not, in one sentence.
        piece: the part of the candidate around it, where one can be cut out.
    """

    tensor: str | None
    reason: str
    piece: Piece | None = None


def locate(failure: Failure) -> Divergence:
    """Find the first diverging tensor; a failure to look inside is an answer, never an error."""
    reference, candidate = failure.reference, failure.candidate
    try:
        if candidate.compiled and candidate.model:
            return _in_engine(candidate.compiled, candidate.model, failure)
        if reference.module is not None and candidate.model:
            return _in_export(reference.module, reference.input_names, candidate.model, failure)
        if reference.model and candidate.model:
            return _in_model(reference.model, candidate.model, failure)
    except EdgewrightError as error:
        return Divergence(None, f"could not look inside: {error.what}")
    return Divergence(None, "neither side can be looked into")


def _in_model(reference: Path, candidate: Path, failure: Failure) -> Divergence:
    """Compare the tensors that have the same name in both models, and quantized ones with what they were."""
    models = read_model(reference), read_model(candidate)
    tensors = [float_tensors(model) for model in models]
    before = dequantized(models[1].graph)
    there = {**tensors[0], **failure.inputs}
    pairs = {name: before.get(name, name) for name in tensors[1] if before.get(name, name) in there}
    sessions = (
        OnnxSession(tapped(models[0], [tensors[0][name] for name in pairs.values() if name in tensors[0]])),
        OnnxSession(tapped(models[1], [tensors[1][name] for name in pairs])),
    )
    return _compare(models[1], sessions[0], sessions[1].run, pairs, failure)


def _in_engine(compiled: Compiled, path: Path, failure: Failure) -> Divergence:
    """Compare the engine of a model that puts out every tensor with ONNX Runtime on the same model."""
    model = read_model(path)
    tensors = float_tensors(model)
    probe = tapped(model, tensors.values())
    reference = OnnxSession(probe)
    with tempfile.TemporaryDirectory() as folder:
        write_model(probe, Path(folder) / "tapped.onnx")
        engine_folder = Path(folder) / "engine"
        engine_folder.mkdir()
        old = compiled.engine
        engine = compiled.toolchain.compile(
            Path(folder) / "tapped.onnx", old.device, old.options, engine_folder
        )
        runner = compiled.toolchain.open(engine)
        try:
            return _fusion(runner.infer, reference, failure) or _compare(
                model, reference, runner.infer, {name: name for name in tensors}, failure
            )
        finally:
            runner.close()


def _fusion(candidate: Infer, reference: OnnxSession, failure: Failure) -> Divergence | None:
    """Say whether the outputs agree once the toolchain must keep every tensor."""
    names = {name: name for name in failure.expected}
    errors = tensor_errors(reference, candidate, names, failure.inputs)
    before = max(relative_l2(failure.expected[name], failure.found[name]) for name in names)
    if max(errors.values()) > min(_limit(failure), before / 2):
        return None
    return Divergence(FUSION, FUSION)


def _in_export(
    module: torch.nn.Module, input_names: Sequence[str], path: Path, failure: Failure
) -> Divergence:
    """Compare by value: an exporter gives tensors names of its own."""
    from pipeline.parity.torchtrace import first_unexplained

    model = read_model(path)
    session = OnnxSession(tapped(model, float_tensors(model).values()))
    batch = _first_batch(session, failure.inputs)
    arguments = [batch[name] for name in input_names]
    found = first_unexplained(module, model, arguments, session.run(batch))
    if found is None:
        return Divergence(None, "every tensor inside agrees with one of the torch module")
    tensor, torch_module = found
    return Divergence(
        f"{tensor} (torch module {torch_module})",
        f"first diverging tensor: {tensor!r}, made where torch runs module {torch_module!r}; "
        "from there on no tensor of the ONNX file equals one of the torch module",
    )


def _compare(
    model: onnx.ModelProto,
    reference: OnnxSession,
    candidate: Infer,
    pairs: Mapping[str, str],
    failure: Failure,
) -> Divergence:
    errors = tensor_errors(reference, candidate, pairs, failure.inputs)
    if not errors:
        return Divergence(None, "no tensor inside has the same name on both sides")
    tensor, rule = first_past(errors, _limit(failure))
    known = {name: pairs[name] for name in takewhile(lambda name: name != tensor, errors)}
    return Divergence(
        tensor,
        f"first diverging tensor: {tensor!r}, {rule}",
        _piece(model, reference, known, (tensor, pairs[tensor]), failure.inputs),
    )


def tensor_errors(
    reference: OnnxSession, candidate: Infer, pairs: Mapping[str, str], inputs: Tensors
) -> dict[str, float]:
    """Return the candidate's tensor → relative L2 error of the worst batch, in the order of `pairs`.

    Args:
        reference: gives each of the reference's tensors.
        candidate: gives its own; those it lacks, or has in another shape, are left out.
        pairs: the candidate's tensor → the reference's (or an input), in topological order.
        inputs: name → [N, ...].
    """
    errors: dict[str, float] = {}
    for rows in batches(sample_count(inputs), _size(reference, inputs)):
        batch = {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}
        expected, found = {**batch, **reference.run(batch)}, candidate(batch)
        for name, original in pairs.items():
            if name in found and found[name].shape == expected[original].shape:
                error = relative_l2(expected[original], found[name])
                errors[name] = max(errors.get(name, 0.0), error)
    return errors


def first_past(errors: Mapping[str, float], limit: float) -> tuple[str, str]:
    """Choose the tensor to name, and say by which rule.

    The first one whose error passes the limit; where none does, the one whose error is the largest multiple
    of all errors before it, for rounding and quantization noise only add up.

    Args:
        errors: tensor name → relative L2 error, in topological order, not empty.
        limit: of relative L2.
    """
    for name, error in errors.items():
        if error > limit:
            return name, f"the first whose relative L2 error passes {limit:g} ({error:.3g})"
    before = np.maximum.accumulate([ROUNDING, *errors.values()])[:-1]
    jumps = np.array(list(errors.values())) / before
    name = list(errors)[int(jumps.argmax())]
    return name, (
        f"where the relative L2 error grows most, to {errors[name]:.3g}; none passes {limit:g} by itself"
    )


def _piece(
    model: onnx.ModelProto,
    reference: OnnxSession,
    agreeing: Mapping[str, str],
    target: tuple[str, str],
    inputs: Tensors,
) -> Piece | None:
    """Cut out what computes the target, with the values the reference has for what goes in."""
    batch = _first_batch(reference, inputs)
    values: dict[str, NDArray[np.generic]] = {**batch, **reference.run(batch)}
    known = {**batch, **{name: values[original] for name, original in agreeing.items()}}
    tensor, original = target
    model_piece = cut(model, known, tensor, values[original])
    if model_piece is None:
        return None
    used = {value.name: known[value.name] for value in model_piece.graph.input}
    return Piece(model_piece, used, {tensor: values[original]})


def _first_batch(session: OnnxSession, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
    rows = next(batches(sample_count(inputs), _size(session, inputs)))
    return {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}


def _size(session: OnnxSession, inputs: Tensors) -> int:
    return batch_size(session.inputs, sample_count(inputs))


def _limit(failure: Failure) -> float:
    limits = [check.limit for check in failure.gate.checks if check.metric == "relative_l2"]
    return limits[0] if limits else DEFAULT_LIMIT
