"""Which tensor of an exported ONNX file is the first that torch never computed.

An exporter renames, fuses and rearranges, so tensors are matched by value: every result of a torch function
is recorded while the module runs, and a tensor of the ONNX file is explained if it equals one of them, or if
something computed from it is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from pipeline.parity.taps import float_tensors
from targets.metrics import relative_l2

# Relative L2; two runtimes differ by rounding, some 1e-6 an operator.
SAME = 1e-4


@dataclass(frozen=True)
class Value:
    """The result of one torch function.

    Args:
        module: dotted name of the innermost module that called it.
        array: what it computed.
    """

    module: str
    array: NDArray[np.generic]


def first_unexplained(
    module: torch.nn.Module,
    model: onnx.ModelProto,
    inputs: Sequence[NDArray[np.generic]],
    tensors: Mapping[str, NDArray[np.generic]],
) -> tuple[str, str] | None:
    """Find the first tensor of the ONNX file that torch does not explain.

    Args:
        module: what was exported, in evaluation mode, on the CPU.
        model: what the exporter made of it.
        inputs: one batch, in the module's order.
        tensors: every float tensor of the model, for the same batch.

    Returns:
        Name of the tensor and of the torch module that runs at that point; None if all are explained or
        nothing could be recorded, as with a scripted module.
    """
    values = trace(module, inputs)
    names = [name for name in float_tensors(model) if name in tensors]
    matches = {name: match for name in names if (match := _match(tensors[name], values)) is not None}
    explained = _with_ancestors(model.graph, set(matches))
    suspect = next((name for name in names if name not in explained), None)
    if suspect is None or not values:
        return None
    last = max((matches[name] for name in names[: names.index(suspect)] if name in matches), default=-1)
    following = values[last + 1 :] or values[-1:]
    shape = tensors[suspect].shape
    return suspect, next((each for each in following if each.array.shape == shape), following[0]).module


def trace(module: torch.nn.Module, inputs: Sequence[NDArray[np.generic]]) -> list[Value]:
    """Run the module once and return the result of every torch function, in the order of execution."""
    recorder = _Recorder()
    hooks = [hook for name, each in module.named_modules() for hook in recorder.watch(name, each)]
    try:
        with torch.inference_mode(), recorder:
            module(*(torch.from_numpy(array) for array in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.values


class _Recorder(TorchFunctionMode):
    """Records float results together with the module that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Value] = []
        self._running: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point() and self._running:
            # A copy: a later in-place operation must not change what was recorded.
            self.values.append(Value(self._running[-1], result.float().numpy().copy()))
        return result

    def watch(self, name: str, module: torch.nn.Module) -> list[RemovableHandle]:
        """Note when the module begins and ends; a module may run inside another one."""
        return [
            module.register_forward_pre_hook(lambda *_: self._running.append(name or "(the whole)")),
            module.register_forward_hook(self._leave),
        ]

    def _leave(self, *_: object) -> None:
        self._running.pop()


def _match(array: NDArray[np.generic], values: Sequence[Value]) -> int | None:
    """Return the first recorded value that equals the array."""
    length = float(np.linalg.norm(array.astype(np.float64)))
    for index, value in enumerate(values):
        if value.array.shape != array.shape:
            continue
        norm = float(np.linalg.norm(value.array.astype(np.float64)))
        # |‖a‖ − ‖b‖| ≤ ‖a − b‖: most pairs are told apart without subtracting them.
        if abs(length - norm) <= SAME * max(norm, 1.0) and relative_l2(value.array, array) <= SAME:
            return index
    return None


def _with_ancestors(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    explained = set(names)
    for node in reversed(graph.node):
        if explained.intersection(node.output):
            explained.update(node.input)
    return explained
