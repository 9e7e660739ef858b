"""MobileNetV2 for small images (Sandler et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """1×1 up, depthwise 3×3, 1×1 down without activation; a sum where the shape stays (section 3.3)."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        up = [] if expansion == 1 else [_convolution(channels_in, inner, 1)]
        self.layers = nn.Sequential(
            *up,
            _convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.sums = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] → [N, C, H/stride, W/stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.sums else y


class MobileNetV2(nn.Module):
    """A convolution, stages of inverted residuals, a 1×1 convolution, one linear layer."""

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        ends: tuple[int, int],
        stem_stride: int,
        expansion: int,
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.stem = _convolution(channels, ends[0], 3, stem_stride)
        stages = []
        width_in = ends[0]
        for index, (depth, width, first) in enumerate(zip(blocks, widths, strides, strict=True)):
            stage = []
            for stride in [first] + [1] * (depth - 1):
                stage.append(InvertedResidual(width_in, width, stride, expansion if index else 1))
                width_in = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.last = _convolution(width_in, ends[1], 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(ends[1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, classes]."""
        features: Tensor = self.pool(self.last(self.stages(self.stem(x))))
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


def mobilenet_v2(
    classes: int = 10,
    channels: int = 3,
    blocks: Sequence[int] = (1, 2, 3, 4, 3, 3, 1),
    widths: Sequence[int] = (16, 24, 32, 64, 96, 160, 320),
    strides: Sequence[int] = (1, 1, 2, 2, 1, 2, 1),
    stem_stride: int = 1,
    expansion: int = 6,
    multiplier: float = 1.0,
) -> MobileNetV2:
    """Build a MobileNetV2; the defaults are its form for 32×32 images, which halves them three times.

    On such images, ten classes: 2.24 M parameters, 88 M multiply-accumulates. The published form for 224×224,
    with strides (1, 2, 2, 2, 1, 2, 1), stem_stride 2 and 1000 classes: 3.5 M, 301 M.

    Args:
        classes: number of logits.
        channels: channels of the input images.
        blocks: inverted residuals per stage.
        widths: channels between them per stage, as many as `blocks`.
        strides: of each stage's first block, as many as `blocks`.
        stem_stride: of the first convolution.
        expansion: by how much blocks widen inside; those of the first stage do not.
        multiplier: of all widths, which are then rounded to multiples of 8; the last layer never narrows.
    """
    return MobileNetV2(
        blocks,
        [_rounded(width * multiplier) for width in widths],
        strides,
        (_rounded(32 * multiplier), _rounded(1280 * max(1.0, multiplier))),
        stem_stride,
        expansion,
        classes,
        channels,
    )


def _convolution(
    channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


def _rounded(width: float) -> int:
    """The nearest multiple of 8, one more if that takes away over a tenth (the authors' rule)."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest
