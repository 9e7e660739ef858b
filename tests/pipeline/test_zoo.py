"""The reference networks have the sizes published for them, and take the checkpoints there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.compress.cost import count_macs, count_parameters
from pipeline.compress.groups import survey
from pipeline.network import build_network, fill, find_head, load_weights
from pipeline.zoo import mobilenet_v2, resnet, vgg
from targets.errors import ConfigError

CIFAR = (1, 3, 32, 32)
IMAGENET = {"classes": 1000, "strides": (1, 2, 2, 2, 1, 2, 1), "stem_stride": 2}


@pytest.mark.parametrize(
    ("network", "shape", "parameters", "macs"),
    [
        (resnet(), CIFAR, 0.27e6, 41e6),
        (resnet(blocks=(9, 9, 9)), CIFAR, 0.85e6, 125e6),
        (vgg(), CIFAR, 14.7e6, 313e6),
        (mobilenet_v2(), CIFAR, 2.24e6, 88e6),
        (mobilenet_v2(**IMAGENET), (1, 3, 224, 224), 3.5e6, 301e6),
    ],
    ids=["resnet20", "resnet56", "vgg16", "mobilenet", "mobilenet as published"],
)
def test_sizes_are_the_published_ones(
    network: nn.Module, shape: tuple[int, ...], parameters: float, macs: float
) -> None:
    assert count_parameters(network) == pytest.approx(parameters, rel=0.01)
    assert count_macs(network, shape) == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("factory", ["resnet", "vgg", "mobilenet_v2"])
@pytest.mark.parametrize("size", [28, 32, 40])
def test_factories_take_classes_channels_and_sizes(factory: str, size: int) -> None:
    network = build_network(f"pipeline.zoo:{factory}", {"classes": 7, "channels": 1}).eval()
    assert network(torch.zeros(2, 1, size, size)).shape == (2, 7)
    assert find_head(network, 7, (1, 1, size, size))[0] == "head"


@pytest.mark.parametrize("factory", ["resnet", "vgg", "mobilenet_v2"])
def test_widths_for_every_stage_or_a_refusal(factory: str) -> None:
    with pytest.raises(ConfigError, match="refused its arguments"):
        build_network(f"pipeline.zoo:{factory}", {"blocks": [1, 1, 1, 1], "widths": [8, 8]})


def test_all_but_the_head_can_be_cut() -> None:
    small = {"vgg": vgg(blocks=(1, 2), widths=(8, 16)), "mobilenet": mobilenet_v2(multiplier=0.25)}
    for network in (*small.values(), resnet(widths=(4, 8, 16))):
        assert [one.layer for one in survey(network, CIFAR).uncut] == ["head"]


def test_the_multiplier_rounds_widths_and_never_narrows_the_last_layer() -> None:
    network = mobilenet_v2(multiplier=0.35)
    widths = {part.out_channels for part in network.modules() if isinstance(part, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)
    assert network.head.in_features == 1280
    assert network.stem[0].out_channels == 16, "8 would take away more than a tenth of 11.2"


def test_the_examples_checkpoint_still_fits() -> None:
    path = Path(__file__).parents[2] / "examples/footwear/teacher.safetensors"
    network = resnet(channels=1, blocks=(1, 1, 1), widths=(32, 64, 128))
    fill(network, load_weights(path), path)
