"""The two sides of a gate: something that takes inputs, gives outputs, and may be looked into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from targets.batches import CHUNK, Infer, Tensors, batch_size, run_in_batches, sample_count

if TYPE_CHECKING:
    import torch

    from pipeline.record import Gate
    from targets.toolchain import Engine, Toolchain


@dataclass(frozen=True)
class Compiled:
    """An engine and the toolchain that made it, which can make another one like it."""

    toolchain: Toolchain
    engine: Engine


@dataclass(frozen=True)
class Side:
    """One side of a gate.

    Args:
        label: as the record names it.
        infer: input name → [N, ...] to output name → [N, ...], for any N.
        model: the ONNX file that runs, or that the engine was compiled from.
        module: the torch module that runs.
        input_names: of the module's inputs, in its order.
        compiled: the engine that runs.
    """

    label: str
    infer: Infer
    model: Path | None = None
    module: torch.nn.Module | None = None
    input_names: tuple[str, ...] = ()
    compiled: Compiled | None = None


@dataclass(frozen=True)
class Failure:
    """A gate that failed, and the few samples that show it.

    Args:
        gate: as measured on all inputs.
        reference: what is right.
        candidate: what is not.
        inputs: name → [n, ...], worst sample first.
        expected: what the reference made of them.
        found: what the candidate made of them.
    """

    gate: Gate
    reference: Side
    candidate: Side
    inputs: Tensors
    expected: Tensors
    found: Tensors


def onnx_side(label: str, model: Path) -> Side:
    """Run an ONNX file with ONNX Runtime as it is written.

    Raises:
        ModelError: as `pipeline.onnxmodel.session.OnnxSession`.
    """
    from pipeline.onnxmodel.session import OnnxSession

    return Side(label, OnnxSession(model), model=model)


def torch_side(label: str, module: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> Side:
    """Run a torch module on the CPU, in evaluation mode.

    Args:
        label: as the record names it.
        module: takes the inputs in order; returns a tensor, or a tuple of tensors.
        inputs: names the ONNX file has for its inputs, in order.
        outputs: names the ONNX file has for its outputs, in order.
    """
    import torch

    module.eval()

    def run(arrays: Tensors) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            results = module(*(torch.from_numpy(arrays[name]) for name in inputs))
        results = (results,) if isinstance(results, torch.Tensor) else results
        return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}

    def infer(arrays: Tensors) -> dict[str, NDArray[np.generic]]:
        return run_in_batches(run, arrays, min(CHUNK, sample_count(arrays)))

    return Side(label, infer, module=module, input_names=tuple(inputs))


def engine_side(label: str, toolchain: Toolchain, engine: Engine, model: Path) -> Side:
    """Run an engine; it is opened for every call and closed again.

    Args:
        label: as the record names it.
        toolchain: the one that compiled the engine.
        engine: what runs.
        model: the ONNX file it was compiled from.
    """

    def infer(arrays: Tensors) -> dict[str, NDArray[np.generic]]:
        runner = toolchain.open(engine)
        try:
            size = batch_size(runner.inputs, min(CHUNK, sample_count(arrays)))
            return run_in_batches(runner.infer, arrays, size)
        finally:
            runner.close()

    return Side(label, infer, model=model, compiled=Compiled(toolchain, engine))
