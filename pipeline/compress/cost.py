"""What a torch network costs: multiply-accumulates and parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of convolutions and linear layers in one forward pass.

    Args:
        network: takes one tensor.
        input_shape: batch included; batch 1 gives the cost of one inference.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        # Every output element sums one filter; a transposed convolution spreads every input element instead.
        elements = inputs[0].numel() if isinstance(layer, nn.ConvTranspose2d) else output.numel()
        total += elements * weight[0].numel()

    hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, COUNTED)]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(tuple(input_shape)))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return total


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in network.parameters())
