"""VGG with batch normalisation for small images (Simonyan & Zisserman 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VGG(nn.Module):
    """Stages of 3×3 convolutions, a maximum over 2×2 between them, one linear layer at the end."""

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width_in = channels
        for depth, width in zip(blocks, widths, strict=True):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if stages else []
            for _ in range(depth):
                layers += [
                    nn.Conv2d(width_in, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                width_in = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, classes]; H and W at least 2^(stages − 1)."""
        features: Tensor = self.pool(self.stages(x))
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


def vgg(
    classes: int = 10,
    channels: int = 3,
    blocks: Sequence[int] = (2, 2, 3, 3, 3),
    widths: Sequence[int] = (64, 128, 256, 512, 512),
) -> VGG:
    """Build a VGG for small images; the defaults are VGG-16-BN as published for CIFAR-10.

    On 32×32 RGB images, ten classes: 14.7 M parameters, 313 M multiply-accumulates.

    Args:
        classes: number of logits.
        channels: channels of the input images.
        blocks: convolutions per stage; height and width are halved between stages.
        widths: channels per stage, as many as `blocks`.
    """
    return VGG(blocks, widths, classes, channels)
