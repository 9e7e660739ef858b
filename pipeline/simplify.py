"""Folding constants and removing what computes nothing, with onnxsim."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from pipeline.onnxmodel.file import describe, read_model, write_model
from targets.errors import ModelError
from targets.tensors import one_line


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let imports of a module fail meanwhile, unless it is there already."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


# Where torch is installed onnxsim imports it, for quantizers nobody here asks for: seconds, and 250 MB.
with _without("torch"):
    import onnxsim


def simplify(model: Path, out: Path) -> dict[str, int]:
    """Simplify an ONNX file with onnxsim; a dynamic batch stays dynamic, equal input gives equal bytes.

    onnxsim runs native code on somebody's model: a crash or hang must cost its process alone, so the
    stage that calls this has one of its own.

    Args:
        model: ONNX file to read.
        out: ONNX file to write, weights included.

    Returns:
        nodes_before, nodes_after and opset.

    Raises:
        ModelError: the model is unreadable, onnxsim fails on it, or what onnxsim made is no valid model, is
            too large for one file or has other inputs or outputs.
    """
    original = read_model(model)
    simplified = _run(original, model)
    _check(original, simplified, model)
    write_model(simplified, out)
    return {
        "nodes_before": len(original.graph.node),
        "nodes_after": len(simplified.graph.node),
        "opset": describe(simplified).opset,
    }


def _run(original: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        simplified, valid = onnxsim.simplify(original)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, onnx.checker.ValidationError) as error:
        raise _failed(path, f"onnxsim fails on the model: {one_line(error)}") from error
    if not valid:
        raise _failed(path, "onnxsim says itself that its result is not valid")
    result: onnx.ModelProto = simplified
    return result


def _check(original: onnx.ModelProto, simplified: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(simplified)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _failed(path, f"onnxsim made an invalid model: {one_line(error)}") from error
    before, after = describe(original), describe(simplified)
    if before.inputs != after.inputs:
        raise _failed(path, f"onnxsim changed the inputs from {before.inputs} to {after.inputs}")
    names = [[(spec.name, spec.dtype) for spec in facts.outputs] for facts in (before, after)]
    if names[0] != names[1]:
        raise _failed(path, f"onnxsim changed the outputs from {names[0]} to {names[1]}")


def _failed(path: Path, what: str) -> ModelError:
    return ModelError(what, where=str(path), mend="export the model with another exporter or opset")
