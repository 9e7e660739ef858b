"""A convolution or linear layer as a matrix product: rows of patches, at some positions of its output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Conv2d | nn.Linear


def multiplying_layer(network: nn.Module, name: str) -> Layer:
    """A convolution or linear layer by its name."""
    layer = network.get_submodule(name)
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    return layer


def positions(layer: Layer, y: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Some output positions, drawn without repetition; the same for every image of a batch.

    Args:
        layer: whose output `y` is.
        y: [N, O, H, W], or [N, …, O] of a linear layer.
        most: how many at most.
        generator: of the draw.
    """
    count = y[0, 0].numel() if isinstance(layer, nn.Conv2d) else y[0, ..., 0].numel()
    return torch.randperm(count, generator=generator)[:most].to(y.device)


def patches(layer: Layer, x: Tensor, where: Tensor) -> Tensor:
    """Rows that a layer multiplies with its filters.

    Args:
        layer: of any kernel, stride, padding and dilation.
        x: its input.
        where: output positions [P], row by row.

    Returns:
        [N·P, input channels · kernel], ordered as the filters are: channel, kernel row, kernel column.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])[:, where].flatten(0, 1)
    (down, right), (high, wide) = layer.dilation, _reach(layer)
    x, width = _padded(layer, x)
    windows = [
        x[:, :, slice(top, top + high, down), slice(left, left + wide, right)]
        for top, left in (
            (place // width * layer.stride[0], place % width * layer.stride[1]) for place in where.tolist()
        )
    ]
    return torch.stack(windows, dim=1).flatten(2).flatten(0, 1)


def outputs(layer: Layer, y: Tensor, where: Tensor | None = None) -> Tensor:
    """A layer's outputs (or anything of their shape) at some positions, or at all: [N·P, O]."""
    if isinstance(layer, nn.Linear):
        rows = y.reshape(len(y), -1, y.shape[-1])
        return (rows if where is None else rows[:, where]).flatten(0, 1)
    maps = y.flatten(2)
    return (maps if where is None else maps[:, :, where]).transpose(1, 2).flatten(0, 1)


def patch_columns(layer: Layer, channels: Tensor) -> Tensor:
    """Columns of `patches` that come from input channels [..., m] → [..., m · kernel]."""
    size = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
    return (channels.unsqueeze(-1) * size + torch.arange(size)).flatten(-2)


def _reach(layer: nn.Conv2d) -> tuple[int, int]:
    """Height and width that a filter covers."""
    high, wide = (d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    return high, wide


def _padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, int]:
    """The input with its border, and the width of the output."""
    reach = [size - 1 for size in _reach(layer)]
    if layer.padding == "same":
        sides = [(total // 2, total - total // 2) for total in reach]
    else:
        given = (0, 0) if isinstance(layer.padding, str) else layer.padding
        sides = [(side, side) for side in given]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, (*sides[1], *sides[0]), mode=mode)
    return x, (x.shape[3] - reach[1] - 1) // layer.stride[1] + 1
