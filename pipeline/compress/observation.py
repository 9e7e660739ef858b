"""What layers take, give, and what their outputs mean for an objective, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compress.attribution import Objective
from pipeline.compress.scatter import Batches


@dataclass(frozen=True)
class Observed:
    """One layer in one batch.

    Args:
        x: its input.
        y: its output.
        gradient: of the objective by the output, shaped as it; none without an objective.
    """

    x: Tensor
    y: Tensor
    gradient: Tensor | None


def observe(
    network: nn.Module, layers: Sequence[str], batches: Batches, objective: Objective | None = None
) -> Iterator[dict[str, Observed]]:
    """Run a network over images and hand out what its layers did.

    Args:
        network: evaluated; its parameters get no gradients.
        layers: their names.
        batches: (images, labels).
        objective: of every image; without it there is no backward pass.
    """
    network.eval()
    with _outputs(network, layers, track=objective is not None) as seen:
        for images, labels in batches:
            gradients: Sequence[Tensor | None] = [None] * len(layers)
            with torch.set_grad_enabled(objective is not None):
                logits = network(images)
                if objective is not None:
                    ends = [seen[name][1] for name in layers]
                    gradients = torch.autograd.grad(objective(logits, labels).sum(), ends)
            yield {
                name: Observed(seen[name][0], seen[name][1].detach(), gradient)
                for name, gradient in zip(layers, gradients, strict=True)
            }


@contextmanager
def _outputs(
    network: nn.Module, layers: Sequence[str], track: bool
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
            del layer
            probe = result.clone() if track else result
            if track and not probe.requires_grad:
                probe.requires_grad_()
            seen[name] = given[0].detach(), probe
            return probe

        return network.get_submodule(name).register_forward_hook(keep)

    handles = [hook(name) for name in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
