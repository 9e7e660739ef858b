"""What a network's layers lose together, read off Torch-Pruning's dependency graph (Fang et al. 2023).

The graph follows autograd's and guesses what operations do to channels; `trial` finds out how well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from targets.errors import ModelError

# What somebody's forward pass, or tracing it, may raise when it meets a shape it was not written for.
FAILURES = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """What one layer loses when channels of another, the root, go.

    Args:
        name: of the layer or parameter; none for an operation without parameters.
        part: the layer, the parameter or the operation.
        inputs: it loses inputs; else outputs, or both where they are the same channels.
        channels: that it loses.
        roots: channels of the root that each of them goes with.
        last: nothing comes behind it.
    """

    name: str | None
    part: nn.Module | Tensor
    inputs: bool
    channels: tuple[int, ...]
    roots: tuple[int, ...]
    last: bool

    def columns(self, width: int) -> Tensor | None:
        """Channels lost with each of the root's [width, m]; none where these do not all have as many."""
        where: list[list[int]] = [[] for _ in range(width)]
        for channel, root in zip(self.channels, self.roots, strict=True):
            where[root].append(channel)
        whole = bool(where[0]) and len({len(one) for one in where}) == 1
        return torch.tensor(where) if whole else None

    @property
    def available(self) -> int | None:
        """Channels a convolution or linear layer has on that side."""
        if isinstance(self.part, nn.Linear):
            return self.part.in_features if self.inputs else self.part.out_features
        if isinstance(self.part, _ConvNd):
            return self.part.in_channels if self.inputs else self.part.out_channels
        return None


def dependency_graph(network: nn.Module, input_shape: Sequence[int]) -> torch_pruning.DependencyGraph:
    """Which layers' channels hang together; the network is left in evaluation mode.

    Args:
        network: takes one tensor; frozen or not.
        input_shape: batch included.

    Raises:
        ModelError: the network does not run on such an input, or autograd cannot follow it.
    """
    network.eval()
    with torch.enable_grad(), _unfrozen(network):
        try:
            return torch_pruning.DependencyGraph().build_dependency(
                network, blank(network, input_shape), forward_fn=_outputs, verbose=False
            )
        except FAILURES as error:
            raise ModelError(
                f"the network cannot be traced on an input of {list(input_shape)}: {first_line(error)}",
                where="model.factory",
                mend="check model.arguments and the images' shape; forward must take one tensor and "
                "must not switch gradients off",
            ) from error


def losses(graph: torch_pruning.DependencyGraph, root: nn.Module) -> list[Loss]:
    """What goes with the output channels of a convolution or linear layer, itself first.

    Args:
        graph: of `dependency_graph`, nothing cut yet.
        root: a layer of its network.
    """
    names: dict[object, str] = {module: name for name, module in graph.model.named_modules()}
    names |= graph._param_to_name
    return [
        Loss(
            names.get(item.dep.target.module),
            item.dep.target.module,
            item.dep.handler.__name__ == "prune_in_channels",
            tuple(item.idxs),
            tuple(item.root_idxs),
            not item.dep.target.outputs,
        )
        for item in _group(graph, root, range(width(root)))
    ]


def remove(graph: torch_pruning.DependencyGraph, root: nn.Module, gone: Sequence[int]) -> None:
    """Cut output channels of a layer, and whatever hangs on them, in place."""
    _group(graph, root, gone).prune()


def norms_behind(network: nn.Module, input_shape: Sequence[int]) -> dict[str, _BatchNorm]:
    """Layer → the batch normalisation that takes its output, when nothing else does.

    Args:
        network: traceable.
        input_shape: batch included.
    """
    nodes = dependency_graph(network, input_shape).module2node
    behind = {}
    for name, part in network.named_modules():
        readers = nodes[part].outputs if isinstance(part, (_ConvNd, nn.Linear)) and part in nodes else []
        norm = readers[0].module if len(readers) == 1 and len(readers[0].inputs) == 1 else None
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            behind[name] = norm
    return behind


def mixes(part: object) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """A two-dimensional convolution or linear layer each of whose outputs reads all inputs."""
    return isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1)


def has_weight(layer: nn.Module) -> bool:
    """Its weight is a parameter of its own, not computed from others (weight normalisation and the like)."""
    return any(name == "weight" for name, _ in layer.named_parameters(recurse=False))


def width(layer: nn.Module) -> int:
    """Output channels of a convolution or linear layer."""
    count = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(count, int)
    return count


def blank(network: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """An input of zeros on the network's device."""
    first = next(network.parameters(), None)
    return torch.zeros(tuple(input_shape), device=None if first is None else first.device)


def tensors(output: object) -> Iterator[Tensor]:
    """All tensors of a network's output, however they are nested."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors(value)


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    found = [one for one in tensors(network(images)) if one.grad_fn is not None]
    if not found:
        raise ValueError("no gradient leads from its outputs back to its weights")
    return found


def _group(
    graph: torch_pruning.DependencyGraph, root: nn.Module, channels: Sequence[int]
) -> torch_pruning.Group:
    linear = isinstance(root, nn.Linear)
    cutting = torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels
    return graph.get_pruning_group(root, cutting, list(channels))


@contextmanager
def _unfrozen(network: nn.Module) -> Iterator[None]:
    """The graph is read off autograd's: a frozen network would seem to have no channels that can be cut."""
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_()
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
