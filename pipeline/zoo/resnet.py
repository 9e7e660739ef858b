"""Residual networks for small images (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] → [N, C, H/stride, W/stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A residual network for small images (He et al. 2016, section 4.2, with projection shortcuts)."""

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages = []
        width_in = widths[0]
        for index, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (depth - 1)
            stage = []
            for stride in strides:
                stage.append(BasicBlock(width_in, width, stride))
                width_in = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, classes]."""
        features: Tensor = self.pool(self.stages(self.stem(x)))
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


def resnet(
    classes: int = 10,
    channels: int = 3,
    blocks: Sequence[int] = (3, 3, 3),
    widths: Sequence[int] = (16, 32, 64),
) -> ResNet:
    """Build a residual network for small images; the defaults are ResNet-20 for CIFAR-10.

    On 32×32 RGB images, ten classes: ResNet-20 has 0.27 M parameters and costs 41 M multiply-accumulates;
    ResNet-56, with blocks (9, 9, 9), 0.86 M and 126 M (0.85 M and 125 M with the authors' shortcuts that have
    no parameters).

    Args:
        classes: number of logits.
        channels: channels of the input images.
        blocks: residual blocks per stage; every stage after the first halves height and width.
        widths: channels per stage, as many as `blocks`.
    """
    return ResNet(blocks, widths, classes, channels)
