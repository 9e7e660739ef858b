"""Small networks that hang together in different ways, and data for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.zoo import resnet


class Chain(nn.Module):
    """Convolutions with and without bias and normalisation, then flatten and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 5, 3, padding="same", dilation=2, bias=False)
        self.d = nn.Linear(5 * 4 * 4, 9)
        self.e = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.norm(self.b(x)))
        x = torch.relu(self.c(x))
        out: Tensor = self.e(torch.relu(self.d(x.flatten(1))))
        return out


class Depthwise(nn.Module):
    """An inverted bottleneck with its residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.up = nn.Conv2d(8, 16, 1, bias=False)
        self.up_norm = nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.depth_norm = nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 8, 1, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = nn.functional.relu6(self.up_norm(self.up(x)))
        y = nn.functional.relu6(self.depth_norm(self.depth(y)))
        out: Tensor = self.head((x + self.down(y)).mean((2, 3)))
        return out


def residual() -> nn.Module:
    return resnet(3, 1, (1, 1), (8, 16))


SHAPE = (1, 1, 8, 8)
NETWORKS = {"chain": Chain, "depthwise": Depthwise, "residual": residual}


def build(name: str, seed: int = 0) -> nn.Module:
    """A network whose normalisation has seen data."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    network.train()
    for _ in range(20):
        network(torch.randn(32, *SHAPE[1:]))
    return network.eval()


def batches(count: int = 4, size: int = 32, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Images of three classes that differ in which part is bright."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        labels = torch.randint(0, 3, (size,), generator=generator)
        images = torch.randn(size, *SHAPE[1:], generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 2 * label : 2 * label + 3] += 1.5
        made.append((images, labels))
    return made
