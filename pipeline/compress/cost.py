"""What a torch network costs: counted on the network itself, or told from its shapes for any widths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pipeline.compress.shapes import Count, Shapes, Widths

COUNTED = (_ConvNd, nn.Linear)


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
        elements = inputs[0].numel() if isinstance(layer, _ConvTransposeNd) else output.numel()
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


def macs(shapes: Shapes, widths: Widths) -> Count:
    """Multiply-accumulates of the network cut to these widths: what `count_macs` would count."""
    return sum(layer.macs(widths) for layer in shapes.layers)


def parameters(shapes: Shapes, widths: Widths) -> Count:
    """Parameters of the network cut to these widths: what `count_parameters` would count."""
    layers = sum(
        layer.weights(widths) + (layer.outputs.at(widths) if layer.bias else 0) for layer in shapes.layers
    )
    return layers + sum(form.at(widths) for form in shapes.others.values())


def weight_bytes(shapes: Shapes, widths: Widths, bits: int = 32) -> Count:
    """Bytes of all numbers an engine has to hold, graph not counted.

    The rule: weights of convolutions and linear layers take `bits` each, whole bytes a layer; normalisations
    are folded into the layer before them, and every layer with a bias or a folded normalisation holds 32 bits
    an output channel; below 32 bits another 32 an output channel for its scale. All other parameters take
    32 bits.
    """
    alone = [form for name, form in shapes.others.items() if name not in shapes.folded]
    total: Count = 4 * sum(form.at(widths) for form in alone)
    for layer in shapes.layers:
        per_channel = int(layer.bias or layer.normalised) + int(bits < 32)
        total = total - (-layer.weights(widths) * bits // 8) + 4 * per_channel * layer.outputs.at(widths)
    return total
