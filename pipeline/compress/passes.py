"""What one forward pass shows of a network's layers: sizes, and what runs right behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from pipeline.compress.tracing import blank

# What torch calls an activation → what ONNX does; in-place forms end in "_". ReLU and its clipped forms are
# left out: every runtime computes them within the layer, at no cost.
ACTIVATIONS = {
    "hardswish": "HardSwish",
    "silu": "Silu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "leaky_relu": "LeakyRelu",
}


@dataclass(frozen=True)
class Pass:
    """One run of a layer.

    Args:
        size: of its input: height and width of a convolution's; rows of a linear layer's, none if one.
        positions: how often its weights are multiplied in all: positions of the output; of the input for a
            transposed convolution.
        activation: the ONNX operator that runs right behind it or its normalisation; "" if none is known.
    """

    size: tuple[int, ...]
    positions: int
    activation: str = ""


@dataclass
class Seen:
    """A recorded forward pass.

    Args:
        passes: layer → its runs, in order.
        normalised: batch normalisation → the layer whose output it takes.
    """

    passes: dict[str, tuple[Pass, ...]] = field(default_factory=dict)
    normalised: dict[str, str] = field(default_factory=dict)


def record_pass(network: nn.Module, input_shape: Sequence[int]) -> Seen:
    """Run a network on zeros; it is left in evaluation mode.

    Args:
        network: takes one tensor.
        input_shape: batch included.
    """
    network.eval()
    recorder = _Recorder()
    handles = [
        part.register_forward_hook(recorder.hook(name))
        for name, part in network.named_modules()
        if isinstance(part, (_ConvNd, nn.Linear, _BatchNorm))
    ]
    try:
        with torch.inference_mode(), recorder:
            network(blank(network, input_shape))
    finally:
        for handle in handles:
            handle.remove()
    return recorder.seen


class _Recorder(TorchFunctionMode):
    """Follows layers' outputs through normalisation to an activation, whether module or function."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self.origin: dict[int, tuple[str, int]] = {}
        self.alive: list[Tensor] = []  # so that no id is given twice

    def hook(self, name: str) -> Any:
        """Record runs of a layer or normalisation."""

        def record(part: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            if isinstance(part, _BatchNorm):
                layer, _ = place = self.origin.get(id(given[0]), ("", 0))
                if layer:
                    self.seen.normalised[name] = layer
                    self.follow(result, place)
                return
            before = self.seen.passes.get(name, ())
            self.seen.passes[name] = (*before, _pass(part, given[0], result))
            self.follow(result, (name, len(before)))

        return record

    def follow(self, result: Tensor, place: tuple[str, int]) -> None:
        """Remember which layer's run a tensor comes from."""
        self.alive.append(result)
        self.origin[id(result)] = place

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        """Note activations of what a layer gave."""
        operator = ACTIVATIONS.get(getattr(function, "__name__", "").rstrip("_"), "")
        place = self.origin.pop(id(arguments[0]), None) if operator and arguments else None
        if place is not None:
            name, run = place
            runs = list(self.seen.passes[name])
            runs[run] = replace(runs[run], activation=operator)
            self.seen.passes[name] = tuple(runs)
        return function(*arguments, **(options or {}))


def _pass(layer: nn.Module, given: Tensor, result: Tensor) -> Pass:
    if isinstance(layer, nn.Linear):
        rows = given.numel() // given.shape[-1]
        return Pass((rows,) if rows > 1 else (), rows)
    counted = given if isinstance(layer, _ConvTransposeNd) else result
    return Pass(tuple(given.shape[2:]), counted[:, 0].numel())
