"""Weights for the layer that stands in for a block: three starts, and training it alone.

Nowak & Corso, "Deep Net Triage: Analyzing the Importance of Network Layers via Structural Compression", 2018;
how they start and train layers was not recovered, so the forms here are our reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.compress.hints import unexplained
from pipeline.compress.patches import Places, outputs, patches
from pipeline.compress.scatter import Batches, Scatter

Start = Literal["random", "mean", "least-squares"]
# Relative to the mean variance of what a filter sees: enough for channels that are always zero.
RIDGE = 1e-6
MOST_POSITIONS = 16
RATE = 1e-3


class Site:
    """A block of a network, and the network whose block of that name takes what a stand-in will take.

    Args:
        whole: the network as it is; its block gives what the stand-in is to give.
        name: of the block.
        before: gives what the stand-in takes; the whole network itself, or one whose earlier blocks are
            replaced already.
    """

    def __init__(self, whole: nn.Module, name: str, before: nn.Module | None = None) -> None:
        self.whole, self.name, self.before = whole, name, before or whole

    def pairs(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """What is taken and what is to be given, batch by batch."""
        for images, _ in batches:
            x, y = _run_to(self.whole, self.name, images)
            if self.before is not self.whole:
                x, _ = _run_to(self.before, self.name, images)
            yield x, y


@torch.no_grad()
def start(layer: nn.Module, how: Start, site: Site, batches: Batches, seed: int = 0) -> bool:
    """Give a stand-in its first weights.

    Random weights stay as they are. The mean is over the block's convolutions with filters of the layer's
    shape. Least squares tells outputs at some positions of every image from the patches the layer sees; it is
    exact where the block is one linear layer. A separable layer takes for every input channel the depthwise
    filter that explains most of that solution, and solves for the rest once more.

    Args:
        layer: of `OneLayer.build`.
        how: which of them.
        site: where it stands.
        batches: (images, …) of the training split.
        seed: of the positions' draw.

    Returns:
        whether the layer can be started so: no block need have filters of its shape.
    """
    convolutions = [part for part in layer.modules() if isinstance(part, nn.Conv2d)]
    if how == "random" or not convolutions:
        return True
    if how == "mean":
        return all(_take_mean(conv, site.whole.get_submodule(site.name)) for conv in convolutions)
    last = convolutions[-1]
    before: nn.Module = nn.Identity()
    if len(convolutions) == 2:
        before = depthwise = convolutions[0]
        dense = nn.Conv2d(depthwise.in_channels, last.out_channels, 3, depthwise.stride[0], 1)
        _least_squares(dense, nn.Identity(), site, batches, seed)
        depthwise.weight.copy_(_depthwise(dense.weight))
    _least_squares(last, before, site, batches, seed)
    return True


def train_locally(layers: Sequence[nn.Module], site: Site, batches: Batches) -> list[list[float]]:
    """Train stand-ins for one block, each alone, to give what the block gives (Adam), one step a batch.

    The loss is the share of the variance of the block's outputs that is left unexplained. The networks run
    once for all stand-ins.

    Returns:
        the losses of every stand-in; none of one without weights.
    """
    losses: list[list[float]] = [[] for _ in layers]
    learning = [
        (layer, torch.optim.Adam(layer.parameters(), lr=RATE), found)
        for layer, found in zip(layers, losses, strict=True)
        if any(True for _ in layer.parameters())
    ]
    for x, y in site.pairs(batches) if learning else ():
        for layer, optimizer, found in learning:
            loss = unexplained(layer(x.contiguous()), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            found.append(loss.item())
    return losses


def _take_mean(conv: nn.Conv2d, block: nn.Module) -> bool:
    """The mean of the block's convolutions with filters of this shape; no bias."""
    same = [
        part.weight
        for part in block.modules()
        if isinstance(part, nn.Conv2d) and part.weight.shape == conv.weight.shape
    ]
    if same:
        conv.weight.copy_(torch.stack(same).mean(0))
        if conv.bias is not None:
            conv.bias.zero_()
    return bool(same)


def _least_squares(conv: nn.Conv2d, before: nn.Module, site: Site, batches: Batches, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found: Scatter | None = None
    for x, y in site.pairs(batches):
        places = Places.draw(conv, y, MOST_POSITIONS * len(y), generator)
        batch = Scatter.of(patches(conv, before(x), places).double(), outputs(conv, y, places))
        if found is None:
            found = batch
        else:
            found.merge(batch)
    assert found is not None, "least squares needs at least one batch"
    ridge = RIDGE * found.xx.diagonal().mean().clamp_min(1e-12)
    eye = torch.eye(len(found.xx), dtype=found.xx.dtype)
    weight = torch.linalg.solve(found.xx + ridge * eye, found.xy).T
    conv.weight.copy_(weight.view_as(conv.weight))
    assert conv.bias is not None
    conv.bias.copy_(found.mean_y - weight @ found.mean_x)


def _depthwise(weight: Tensor) -> Tensor:
    """For every input channel the one filter that explains most of a dense layer's filters [I, 1, k, k]."""
    per_input = weight.transpose(0, 1).flatten(2)
    right: Tensor = torch.linalg.svd(per_input, full_matrices=False).Vh
    return right[:, 0].view(-1, 1, *weight.shape[2:])


class _Reached(Exception):
    """The block that was asked for has run; the rest of the pass is not needed."""


@contextmanager
def _stopping_behind(network: nn.Module, name: str) -> Iterator[dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}

    def before(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        del part
        seen["x"] = given[0].clone()

    def behind(part: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        del part, given
        seen["y"] = result
        raise _Reached

    block = network.get_submodule(name)
    handles = [block.register_forward_pre_hook(before), block.register_forward_hook(behind)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run_to(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    network.eval()
    with _stopping_behind(network, name) as seen, suppress(_Reached):
        network(images)
    return seen["x"], seen["y"]
