"""Blocks of a network, and the one layer that takes the place of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pipeline.compress.tracing import blank
from targets.errors import ConfigError

Form = Literal["3x3", "1x1", "separable", "none"]


class OneLayer(BaseModel):
    """What takes a block's place; printable JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Form = Field(description="convolution of this kernel, depthwise 3×3 and 1×1, or nothing at all")
    inputs: int = Field(description="channels")
    outputs: int = Field(description="channels")
    stride: int
    clipped: bool = Field(description="the block gives nothing below zero, so a ReLU follows")

    def build(self) -> StandIn:
        """A module with random weights that takes and gives what the block does."""
        if self.form == "none":
            return StandIn()
        clip: list[nn.Module] = [nn.ReLU()] if self.clipped else []
        if self.form == "separable":
            depthwise = nn.Conv2d(self.inputs, self.inputs, 3, self.stride, 1, groups=self.inputs, bias=False)
            return StandIn(depthwise, nn.Conv2d(self.inputs, self.outputs, 1), *clip)
        kernel = int(self.form[0])
        return StandIn(nn.Conv2d(self.inputs, self.outputs, kernel, self.stride, kernel // 2), *clip)


class StandIn(nn.Sequential):
    """In the place of a block; empty, it gives what it takes."""


Replaced = Mapping[str, OneLayer]


def save_replaced(replaced: Replaced, path: Path) -> None:
    """Write as JSON: name of a block → what stands in for it."""
    document = {name: layer.model_dump() for name, layer in replaced.items()}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_replaced(path: Path) -> dict[str, OneLayer]:
    """Read what `save_replaced` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return {name: OneLayer.model_validate(layer) for name, layer in document.items()}


def replace_blocks(network: nn.Module, replaced: Replaced) -> nn.Module:
    """Put fresh layers in the place of blocks, in place; stand-ins that are there already stay.

    Args:
        network: that has these blocks.
        replaced: name of a block → what takes its place.
    """
    for name, layer in replaced.items():
        if not isinstance(network.get_submodule(name), StandIn):
            put(network, name, layer.build())
    return network


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def find_blocks(
    network: nn.Module, input_shape: Sequence[int], form: Form, names: Sequence[str] = ()
) -> dict[str, OneLayer]:
    """Blocks that one layer can stand for, in the network's own order.

    By shape: the innermost modules that run once, take and give one feature map, hold at least two
    convolutions, but at most half of the network's, and shrink the map by a whole factor or not at all.

    Args:
        network: takes one tensor; left in evaluation mode.
        input_shape: batch included.
        form: of the layer. "none" suits blocks alone that keep the shape of what they take.
        names: modules that are the blocks, whatever they hold; by default those found by shape.

    Raises:
        ConfigError: a named module is not there or cannot be replaced, or no block is found.
    """
    seen = _maps(network, input_shape)
    total = _convolutions(network)
    for name in names:
        if name not in seen or _layer(*seen[name], form) is None:
            raise ConfigError(
                f"{name!r} is no block that one layer could stand for",
                where="triage.blocks",
                mend=f"choose modules that take and give one feature map: {', '.join(_most(seen))}",
            )
    fitting = [name for name in seen if 2 <= _convolutions(network.get_submodule(name)) <= total / 2]
    inner = [name for name in fitting if not any(other.startswith(f"{name}.") for other in fitting)]
    found = {name: _layer(*seen[name], form) for name in (names or inner)}
    layers = {name: layer for name, layer in found.items() if layer is not None}
    if not layers:
        raise ConfigError(
            "no block was found that one layer could stand for",
            where="triage.blocks",
            mend=f"name the modules that are blocks, of: {', '.join(_most(seen)) or 'none that fits'}",
        )
    return layers


def _layer(x: Tensor, y: Tensor, form: Form) -> OneLayer | None:
    """What could take the place of a block with such maps; `clipped` is found out from data later."""
    stride = max(1, round(x.shape[2] / y.shape[2]))
    if any(
        (before - 1) // stride + 1 != after for before, after in zip(x.shape[2:], y.shape[2:], strict=True)
    ):
        return None
    if form == "none" and x.shape != y.shape:
        return None
    return OneLayer(
        form=form, inputs=x.shape[1], outputs=y.shape[1], stride=stride, clipped=bool((y >= 0).all())
    )


@torch.no_grad()
def _maps(network: nn.Module, input_shape: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """What every module that runs once takes and gives, where both are feature maps."""
    calls: Counter[str] = Counter()
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(part: nn.Module, given: tuple[object, ...], result: object) -> None:
            del part
            calls[name] += 1
            maps = [one for one in (*given, result) if isinstance(one, Tensor) and one.ndim == 4]
            if len(maps) == 2 and len(given) == 1:
                seen[name] = (maps[0], maps[1].clone())

        return network.get_submodule(name).register_forward_hook(note)

    network.eval()
    handles = [hook(name) for name, _ in network.named_modules() if name]
    generator = torch.Generator().manual_seed(0)
    # Several, so that a block that gives nothing below zero on all of them can be taken to end in a ReLU.
    shape = (8 * input_shape[0], *input_shape[1:])
    images = torch.randn(shape, generator=generator).to(blank(network, input_shape).device)
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name, _ in network.named_modules() if calls[name] == 1 and name in seen}


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(part, _ConvNd) for part in module.modules())


def _most(names: Mapping[str, object], count: int = 12) -> list[str]:
    return [*names][:count]
