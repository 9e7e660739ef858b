"""A convolution or linear layer as a matrix product: rows of patches, at some places of its output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Conv2d | nn.Linear


def multiplying_layer(network: nn.Module, name: str) -> Layer:
    """A convolution or linear layer by its name."""
    layer = network.get_submodule(name)
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    return layer


@dataclass(frozen=True)
class Places:
    """Where a layer's outputs are looked at: one row a pair of image and position.

    Args:
        image: index in the batch [R].
        position: of the output, counted row by row [R].
    """

    image: Tensor
    position: Tensor

    @classmethod
    def draw(cls, layer: Layer, y: Tensor, rows: int, generator: torch.Generator) -> Places:
        """Pairs spread evenly over the images, positions at random; none twice.

        Args:
            layer: whose output `y` is.
            y: [N, O, H, W], or [N, …, O] of a linear layer.
            rows: how many at most.
            generator: of the draw.
        """
        count = y[0, 0].numel() if isinstance(layer, nn.Conv2d) else y[0, ..., 0].numel()
        row = torch.arange(min(rows, len(y) * count))
        order = torch.randperm(count, generator=generator)
        return cls((row * len(y) // len(row)).to(y.device), order[row % count].to(y.device))


def patches(layer: Layer, x: Tensor, places: Places) -> Tensor:
    """Rows that a layer multiplies with its filters.

    Args:
        layer: of any kernel, stride, padding and dilation.
        x: its input.
        places: of its output.

    Returns:
        [R, input channels · kernel], ordered as the filters are: channel, kernel row, kernel column.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])[places.image, places.position]
    pixels = _pixels(layer, (x.shape[2], x.shape[3]), places.position)
    inside = pixels.clamp_min(0)
    read = x[places.image[:, None], :, inside // x.shape[3], inside % x.shape[3]]
    return read.masked_fill(pixels.unsqueeze(2) < 0, 0.0).transpose(1, 2).flatten(1)


def outputs(layer: Layer, y: Tensor, places: Places) -> Tensor:
    """A layer's outputs at some places [R, O]."""
    if isinstance(layer, nn.Linear):
        return y.reshape(len(y), -1, y.shape[-1])[places.image, places.position]
    return y[places.image, :, places.position // y.shape[3], places.position % y.shape[3]]


def moments(layer: Layer, y: Tensor) -> Tensor:
    """E[y yᵀ] over images and positions [O, O] of a layer's outputs, or of anything of their shape."""
    if isinstance(layer, nn.Linear):
        rows = y.flatten(0, -2)
        return rows.T @ rows / len(rows)
    maps = y.flatten(2)
    return (maps @ maps.mT).mean(0) / maps.shape[2]


def patch_columns(layer: Layer, channels: Tensor) -> Tensor:
    """Columns of `patches` that come from input channels [..., m] → [..., m · kernel]."""
    size = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
    return (channels.unsqueeze(-1) * size + torch.arange(size)).flatten(-2)


def _pixels(layer: nn.Conv2d, size: tuple[int, int], position: Tensor) -> Tensor:
    """Which pixels of an input a filter sees at positions [R] of the output: [R, kernel], -1 for zeros.

    The layer's padding is done to a map of the pixels' numbers, which is far smaller than the images.
    """
    numbers = torch.arange(size[0] * size[1], dtype=torch.float64).view(1, 1, *size)
    padded, width = _padded(layer, numbers)
    (down, right), (high, wide) = layer.dilation, _reach(layer)
    place = position.cpu()[:, None, None]
    rows = place // width * layer.stride[0] + torch.arange(0, high, down)[:, None]
    columns = place % width * layer.stride[1] + torch.arange(0, wide, right)
    return padded[0, 0, rows, columns].flatten(1).long().to(position.device)


def _reach(layer: nn.Conv2d) -> tuple[int, int]:
    """Height and width that a filter covers."""
    high, wide = (d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    return high, wide


def _padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, int]:
    """The input with its border, -1 where that is zeros, and the width of the output."""
    reach = [size - 1 for size in _reach(layer)]
    if layer.padding == "same":
        sides = [(total // 2, total - total // 2) for total in reach]
    else:
        given = (0, 0) if isinstance(layer.padding, str) else layer.padding
        sides = [(side, side) for side in given]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, (*sides[1], *sides[0]), mode=mode, value=-1.0 if mode == "constant" else None)
    return x, (x.shape[3] - reach[1] - 1) // layer.stride[1] + 1
