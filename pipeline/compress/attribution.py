"""What an objective owes each channel: Σ over positions of activation times gradient, image by image.

The gradient is taken through one reader at a time, so that what a residual sum carries past a layer is
not counted twice: the readers' shares of a group add up to what removing the group's channel does, to
first order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.readers import Reader
from pipeline.compress.scatter import Batches

# (logits [N, K], labels [N]) → one number an image [N]
Objective = Callable[[Tensor, Tensor], Tensor]


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every image."""
    return functional.cross_entropy(logits, labels, reduction="none")


def in_usual_order(images: Tensor) -> Tensor:
    """Images with channels in front of positions in memory, whatever their strides said.

    For passes backward: in channels-last order torch 2.13's of a narrow strided 1×1 convolution writes beyond
    its memory. A copy, because with one channel both orders are one and what is behind follows the strides.
    """
    return images.clone(memory_format=torch.contiguous_format)


def attributions(
    network: nn.Module, readers: Mapping[str, Sequence[Reader]], batches: Batches, objective: Objective
) -> Iterator[dict[str, Tensor]]:
    """Batch by batch, leader → each image's attribution to each channel of the group [N, channels].

    Args:
        network: evaluated; its parameters get no gradients.
        readers: leader → layers that read the group.
        batches: (images, labels).
        objective: of every image.
    """
    layers = list(dict.fromkeys(reader.layer for group in readers.values() for reader in group))
    network.eval()
    with _probes(network, layers) as probes, torch.enable_grad():
        for images, labels in batches:
            value = objective(network(in_usual_order(images)), labels).sum()
            gradients = torch.autograd.grad(value, [probes[name] for name in layers])
            owed = {
                name: probes[name].detach() * gradient
                for name, gradient in zip(layers, gradients, strict=True)
            }
            yield {
                leader: torch.stack([reader.total(owed[reader.layer]) for reader in group]).sum(0)
                for leader, group in readers.items()
            }


@contextmanager
def _probes(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give every layer its input as a tensor of its own, so that gradients are those through this layer."""
    probes: dict[str, Tensor] = {}

    def hook(name: str) -> torch.utils.hooks.RemovableHandle:
        def split(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            del layer
            probe = given[0].clone()
            probes[name] = probe if probe.requires_grad else probe.requires_grad_()
            return (probe, *given[1:])

        return network.get_submodule(name).register_forward_pre_hook(split)

    handles = [hook(name) for name in layers]
    try:
        yield probes
    finally:
        for handle in handles:
            handle.remove()
