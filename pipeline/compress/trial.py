"""The law every cut must obey, tried out: channels that nobody reads can go, and nothing else changes.

Tracing guesses what reshapes, slices and unknown operations do to channels. Whether it guessed right is found
out on a copy: channels are made unread by zeroing the weights that read them, then they are cut; the outputs
must stay the same. The copy's weights are random so that what can be cut does not depend on what was learned:
a scale of zero would hide everything behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.tracing import FAILURES, Loss, blank, dependency_graph, first_line, remove, tensors
from targets.errors import ModelError

# Of the greatest output; summing in another order moves float32 outputs by about a hundredth of it.
TOLERANCE = 1e-4

RESHAPED = "the network's outputs would change their shape"
CHANGED = (
    "other channels would compute something else: these are mixed, moved or counted "
    "in a way that cannot be followed"
)


def objection(
    network: nn.Module, input_shape: Sequence[int], groups: Mapping[str, Sequence[Loss]]
) -> str | None:
    """Cut some channels of all groups from a copy; say what speaks against it.

    Args:
        network: left as it is.
        input_shape: batch included.
        groups: leader → what goes with its channels, of `losses`.

    Returns:
        why these groups cannot be cut together; none when they can.

    Raises:
        ModelError: the network cannot be copied.
    """
    generator = torch.Generator().manual_seed(0)
    tried = _copied(network)
    scramble(tried, generator)
    gone = {leader: _some(len(lost[0].channels), generator) for leader, lost in groups.items()}
    for leader, lost in groups.items():
        _unread(tried, lost, set(gone[leader]))
    images = torch.randn(tuple(input_shape), generator=generator).to(blank(network, input_shape).device)
    graph = dependency_graph(tried, input_shape)
    try:
        expected = _run(tried, images)
        for leader, channels in gone.items():
            remove(graph, tried.get_submodule(leader), channels)
        found = _run(tried, images)
    except FAILURES as error:
        return f"a network cut there does not run ({first_line(error)})"
    if not all(one.isfinite().all() for one in expected):
        return "a cut could not be tried: with random weights the outputs are not finite"
    if [one.shape for one in found] != [one.shape for one in expected]:
        return RESHAPED
    return None if all(map(_same, found, expected)) else CHANGED


@torch.no_grad()
def scramble(network: nn.Module, generator: torch.Generator) -> None:
    """Give a network random weights and statistics that keep signals alive (He et al. 2015)."""
    for parameter in network.parameters():
        drawn = _normal(parameter, generator)
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        parameter.copy_(drawn * (2.0 / fan_in) ** 0.5 if parameter.ndim > 1 else 1.0 + 0.25 * drawn)
    for norm in network.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(0.25 * _normal(norm.running_mean, generator))
            norm.running_var.copy_((0.25 * _normal(norm.running_var, generator)).exp())


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except RuntimeError as error:
        raise ModelError(
            f"the network cannot be copied: {first_line(error)}",
            where="model.factory",
            mend="keep no computed tensors in modules; torch.nn.utils.remove_weight_norm removes those of "
            "weight_norm",
        ) from error


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _some(width: int, generator: torch.Generator) -> list[int]:
    """About half of the channels, an odd number left: what needs an even one fails the trial."""
    return sorted(torch.randperm(width, generator=generator)[width // 2 | 1 :].tolist())


@torch.no_grad()
def _unread(network: nn.Module, lost: Sequence[Loss], gone: set[int]) -> None:
    for one in lost:
        if one.inputs and one.name is not None:
            weight = network.get_parameter(f"{one.name}.weight")
            channels = [
                channel for channel, root in zip(one.channels, one.roots, strict=True) if root in gone
            ]
            transposed = isinstance(one.part, nn.modules.conv._ConvTransposeNd)
            weight.index_fill_(
                0 if transposed else 1, torch.tensor(channels, dtype=torch.long, device=weight.device), 0.0
            )


@torch.no_grad()
def _run(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(tensors(network(images)))


def _same(one: Tensor, other: Tensor) -> bool:
    if not other.is_floating_point():
        return torch.equal(one, other)
    return bool((one - other).abs().amax() <= TOLERANCE * other.abs().amax())
