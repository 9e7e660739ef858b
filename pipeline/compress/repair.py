"""Closed-form repair of a cut network: before any training, its layers do what they did.

Layer after layer, in the order they run, every layer that lost inputs gets new weights: those that bring its
outputs, on the *already cut and repaired* network's inputs, nearest to the whole network's outputs (least
squares, as in He, Zhang & Sun 2017, there for one layer at a time). Refitting each layer on the whole
network's inputs instead ignores what the layers before have lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.patches import Layer, Places, multiplying_layer, outputs, patches
from pipeline.compress.scatter import Batches, Scatter
from pipeline.compress.structure import Plan
from pipeline.compress.survivors import Survivors, survivors
from pipeline.compress.tracing import blank, norms_behind


@dataclass(frozen=True)
class Refit:
    """How well one layer could be repaired.

    Args:
        layer: its name.
        before: mean squared error of its outputs with the weights that were left, relative to their variance.
        after: the same with the new weights.
    """

    layer: str
    before: float
    after: float


def repair(
    student: nn.Module,
    whole: nn.Module,
    plan: Plan,
    batches: Batches,
    input_shape: Sequence[int],
    *,
    strength: float = 1e-4,
    most_positions: int = 16,
    seed: int = 0,
) -> list[Refit]:
    """Refit, in place, every layer that lost inputs. Labels are not looked at.

    Weights are pulled towards those they have, not towards zero. Where a layer has no bias, its intercept
    goes into the mean of the batch normalisation behind it; where there is none either, the fit has none.
    A layer that runs more than once keeps the weights that were left.

    Args:
        student: cut by `plan`.
        whole: the same network uncut.
        plan: what was cut.
        batches: (images, …), walked through once a layer.
        input_shape: batch included.
        strength: ridge, relative to the mean variance of the inputs.
        most_positions: of the output that are looked at in every image.
        seed: of their draw.

    Returns:
        the layers refitted, in the order they run.
    """
    left = survivors(whole, plan, input_shape)
    student.eval()
    whole.eval()
    norms = norms_behind(student, input_shape)
    refits = []
    for name in _running_order(student, left, input_shape):
        layer = multiplying_layer(student, name)
        if len(left[name].inputs) < multiplying_layer(whole, name).weight.shape[1]:
            generator = torch.Generator().manual_seed(seed)
            found = _gather(student, whole, name, left[name], batches, most_positions, generator)
            refits.append(_refit(name, layer, found, norms.get(name), strength))
    return refits


@torch.no_grad()
def reestimate_batchnorm(network: nn.Module, batches: Batches) -> None:
    """Measure the means and variances of all batch normalisation anew, as the average over batches."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for images, _ in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


class _Reached(Exception):
    """The layer that was asked for has run; the rest of the pass is not needed."""


@contextmanager
def _stopping_at(network: nn.Module, name: str) -> Iterator[dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}

    def hook(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        del layer
        seen.update(x=given[0], y=result)
        raise _Reached

    handle = network.get_submodule(name).register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def _run_to(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    with _stopping_at(network, name) as seen, suppress(_Reached):
        network(images)
    return seen["x"], seen["y"]


@torch.no_grad()
def _gather(
    student: nn.Module,
    whole: nn.Module,
    name: str,
    left: Survivors,
    batches: Batches,
    most: int,
    generator: torch.Generator,
) -> Scatter:
    """Statistics of a layer's inputs in the student against its outputs in the whole network."""
    layer = multiplying_layer(student, name)
    found: Scatter | None = None
    for images, _ in batches:
        x, _ = _run_to(student, name, images)
        _, y = _run_to(whole, name, images)
        places = Places.draw(layer, y, most * len(y), generator)
        batch = Scatter.of(patches(layer, x, places).double(), outputs(layer, y, places)[:, left.outputs])
        if found is None:
            found = batch
        else:
            found.merge(batch)
    assert found is not None, "repair needs at least one batch"
    return found


@torch.no_grad()
def _refit(name: str, layer: Layer, found: Scatter, norm: _BatchNorm | None, strength: float) -> Refit:
    """Solve for W = W₀ + (S + ρI)⁻¹ (XᵀY − S·W₀) and put it into the layer."""
    intercept = layer.bias is not None or norm is not None
    xx, xy = found.xx, found.xy
    if not intercept:
        xx = xx + found.count * torch.outer(found.mean_x, found.mean_x)
        xy = xy + found.count * torch.outer(found.mean_x, found.mean_y)
    old = layer.weight.flatten(1).double()
    new = _towards(old, xx, xy, strength)
    layer.weight.copy_(new.view_as(layer.weight))
    if intercept:
        _set_mean(layer, norm, found, new)
    power = found.yy.diagonal().sum() + (0.0 if intercept else found.count * found.mean_y.square().sum())
    scale = max(float(power), torch.finfo(torch.float64).tiny)
    before, after = (1.0 + _unexplained(weights, xx, xy) / scale for weights in (old, new))
    return Refit(name, before, after)


def _towards(old: Tensor, xx: Tensor, xy: Tensor, strength: float) -> Tensor:
    mean = float(xx.diagonal().mean())
    if mean == 0.0:
        return old
    ridge = strength * mean * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    factor = torch.linalg.cholesky(xx + ridge)
    return old + torch.cholesky_solve(xy - xx @ old.T, factor).T


def _unexplained(weights: Tensor, xx: Tensor, xy: Tensor) -> float:
    """‖Y − XW‖² − ‖Y‖²."""
    return float((weights.T * (xx @ weights.T - 2.0 * xy)).sum())


def _set_mean(layer: Layer, norm: _BatchNorm | None, found: Scatter, new: Tensor) -> None:
    """Make the mean output right: in the bias, or in the running mean of the normalisation behind."""
    reached = new @ found.mean_x
    if layer.bias is not None:
        layer.bias.copy_(found.mean_y - reached)
        return
    assert norm is not None and norm.running_mean is not None
    norm.running_mean -= (found.mean_y - reached).to(norm.running_mean.dtype)


@torch.no_grad()
def _running_order(network: nn.Module, names: Iterable[str], input_shape: Sequence[int]) -> list[str]:
    """The layers that run exactly once, in the order they do."""
    order: list[str] = []
    handles = [
        network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name in names
    ]
    try:
        network(blank(network, input_shape))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in order if order.count(name) == 1]
