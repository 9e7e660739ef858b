"""What layers take and give, and what their outputs mean for an objective, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.compress.attribution import Objective, in_usual_order
from pipeline.compress.scatter import Batches

# (layer, its input, its output)
Look = Callable[[str, Tensor, Tensor], None]


@torch.no_grad()
def observe(network: nn.Module, layers: Sequence[str], batches: Batches, look: Look) -> None:
    """Run a network over images and show each layer's input and output while it runs.

    Nothing is kept, and what layers behind change in place has not been changed yet.

    Args:
        network: evaluated.
        layers: their names.
        batches: (images, …).
        look: called once a layer and batch.
    """
    network.eval()
    with _watching(network, layers, look):
        for images, _ in batches:
            network(images)


def output_gradients(
    network: nn.Module, layers: Sequence[str], batches: Batches, objective: Objective, look: Look
) -> Iterator[dict[str, Tensor]]:
    """Batch by batch, layer → the gradient by its output of the sum of an objective over the images.

    Args:
        network: evaluated; its parameters get no gradients.
        layers: their names.
        batches: (images, labels).
        objective: of every image.
        look: called once a layer and batch, as by `observe`.
    """
    outputs: dict[str, Tensor] = {}

    def probe(name: str, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            look(name, x, y)
        # A tensor of its own, so that layers working in place leave the one that is asked about as it was.
        outputs[name] = y if y.requires_grad else y.requires_grad_()
        return y.clone()

    network.eval()
    with _watching(network, layers, probe):
        for images, labels in batches:
            with torch.enable_grad():
                value = objective(network(in_usual_order(images)), labels).sum()
                found = torch.autograd.grad(value, [outputs[name] for name in layers])
            yield dict(zip(layers, found, strict=True))


@contextmanager
def _watching(
    network: nn.Module, layers: Sequence[str], look: Callable[[str, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Show every layer's input and output; what comes back takes the place of the output."""

    def hook(name: str) -> torch.utils.hooks.RemovableHandle:
        return network.get_submodule(name).register_forward_hook(
            lambda _, given, result: look(name, given[0], result)
        )

    handles = [hook(name) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
