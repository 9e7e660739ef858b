"""Torch networks from a factory, weights from files that cannot run code."""

from __future__ import annotations

import importlib
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from targets.errors import ConfigError, ModelError

# What the readers of the two formats raise on damaged files.
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
)


def build_network(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a factory.

    Args:
        factory: "module:function" returning a module that takes [N, C, H, W] and returns logits [N, K].
        arguments: its keyword arguments.

    Raises:
        ConfigError: no such function, arguments it does not take, or not a module.
    """
    module, _, name = factory.partition(":")
    where = f"model.factory = {factory!r}"
    try:
        network = getattr(importlib.import_module(module), name)(**arguments)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot find the factory: {error}", where=where) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the factory refused its arguments: {error}", where=where, mend="correct model.arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"the factory returned {type(network).__name__}, not a torch module", where=where)
    return network


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors from .safetensors, or from a torch file that holds nothing but tensors.

    Raises:
        ModelError: missing, truncated, a pickle with code, or NaN and infinite weights.
    """
    if not path.is_file():
        raise ModelError("there is no such checkpoint", where=str(path), mend="correct model.checkpoint")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for name, tensor in weights.items():
        _refuse_strange(name, tensor, path)
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise ModelError(
                f"the weights {name!r} hold NaN or infinite values",
                where=str(path),
                mend="train the network again; this checkpoint cannot be used",
            )
    return weights


def _refuse_strange(name: object, tensor: Tensor, path: Path) -> None:
    """Refuse what is no plain tensor: sparse, of no device, or of more elements than the file holds."""
    known = isinstance(name, str) and tensor.layout is torch.strided and tensor.device.type == "cpu"
    if known and not tensor.is_quantized and _is_held(tensor):
        return
    raise ModelError(
        f"the weights {name!r} are no plain tensor",
        where=str(path),
        mend="save model.state_dict() of a float network on the CPU",
    )


def _is_held(tensor: Tensor) -> bool:
    """A stride of 0 makes a tensor of any size out of one number."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _is_finite(tensor: Tensor) -> bool:
    # Types of eight bits and fewer have no test of their own.
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return bool(torch.isfinite(wide).all())


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, *BROKEN) as error:
        raise ModelError(f"not a whole safetensors file: {error}", where=str(path)) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the checkpoint is a pickle that wants to run code; it was not loaded",
            where=str(path),
            mend="save the plain weights: torch.save(model.state_dict(), …) or safetensors",
        ) from error
    except BROKEN as error:
        raise ModelError(f"cannot read the checkpoint: {error}", where=str(path)) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(
            "the checkpoint is not a dictionary of tensors",
            where=str(path),
            mend="save model.state_dict()",
        )
    return loaded


def fill(network: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Give a network its weights; every name and shape must fit.

    Raises:
        ModelError: missing, unknown or misshapen tensors, the first few of them named.
    """
    try:
        missing, unknown = network.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        shapes = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ModelError(f"the checkpoint does not fit the network: {shapes}", where=str(where)) from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        found = [f"missing {name}" for name in missing] + [f"unknown {name}" for name in unknown]
        raise ModelError(
            f"the checkpoint does not fit the network: {', '.join(found[:4])}",
            where=str(where),
            mend="check model.factory and model.arguments",
        )


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def find_head(network: nn.Module, classes: int, input_shape: Sequence[int]) -> tuple[str, nn.Linear]:
    """The linear layer that runs last, which must give one logit a class.

    Args:
        network: takes one tensor.
        classes: how many it should tell apart.
        input_shape: batch included.

    Raises:
        ModelError: there is none, or it has another number of outputs.
    """
    ran: list[tuple[str, nn.Linear]] = []
    handles = [
        part.register_forward_hook(lambda part, *_, name=name: ran.append((name, part)))
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        _run(network, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    if not ran or ran[-1][1].out_features != classes:
        found = f"{ran[-1][1].out_features} outputs" if ran else "no linear layer"
        raise ModelError(
            f"the network's last linear layer should give {classes} logits, one a class; found {found}",
            where="model.factory",
            mend="use a classifier of the data's classes; for data without labels correct data.classes",
        )
    return ran[-1]


def with_head(
    network: nn.Module, wanted: tuple[int, ...], other: bool, classes: int, input_shape: Sequence[int]
) -> nn.Module:
    """Replace the classifier's head by the task's: rows of the wanted classes, their mean complement last.

    Args:
        network: classifier of all classes; changed in place.
        wanted: labels kept, in output order.
        other: add an output for everything else, starting from the mean of the rows that go.
        classes: logits the network gives now.
        input_shape: batch included.

    Returns:
        the network.

    Raises:
        ModelError: the logits do not come from one linear layer alone.
    """
    name, head = find_head(network, classes, input_shape)
    rest = [label for label in range(classes) if label not in wanted]
    fresh = nn.Linear(head.in_features, len(wanted) + other, bias=head.bias is not None)
    with torch.no_grad():
        for old, new in ((head.weight, fresh.weight), (head.bias, fresh.bias)):
            if old is not None and new is not None:
                rows = [old[list(wanted)]] + [old[rest].mean(0, keepdim=True)] * other
                new.copy_(torch.cat(rows))
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, fresh)
    _check_logits(network, name, (input_shape[0], len(wanted) + other), input_shape)
    return network


def _check_logits(
    network: nn.Module, head: str, expected: tuple[int, ...], input_shape: Sequence[int]
) -> None:
    try:
        given = tuple(_run(network, input_shape).shape)
    except RuntimeError:
        given = ()
    if given != expected:
        raise ModelError(
            f"the network's logits do not come from its last linear layer {head!r} alone: "
            f"with a head of {expected[1]} outputs there it does not give as many",
            where="model.factory",
            mend="use a network whose forward returns what one linear layer gives",
        )


def _run(network: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """What a network gives for zeros, in evaluation mode."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            given: Tensor = network(torch.zeros(tuple(input_shape)))
    finally:
        network.train(training)
    return given
