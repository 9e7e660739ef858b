"""An ONNX file read by NVIDIA's parser: network, inputs, outputs and layers, or why it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.errors import ModelError
from targets.toolchain import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

# TensorRT 11 has strongly typed networks alone: every type is the graph's. 8.x decides types by flags.
STRONGLY_TYPED_SINCE = 10
ERRORS = ("ERROR", "INTERNAL_ERROR")
# A builder names a network after how many it has made, and the name is in the plan: two builds would differ.
NETWORK_NAME = "network"
MEND = "edgewright check lists what the device cannot do, and how to mend it"


@dataclass
class Log:
    """What the library says while it works.

    Args:
        lines: severity and text of its warnings and errors, oldest first.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)

    def reason(self) -> str:
        """Return its errors as one line."""
        errors = [line for severity, line in self.lines if severity in ERRORS]
        text = "; ".join(dict.fromkeys(" ".join(line.split()) for line in errors)) or "it gives no reason"
        return text if len(text) <= 400 else text[:399] + "…"


def logger_of(library: Any, log: Log) -> Any:
    """Return a logger of the library that writes warnings and errors to `log`."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in (*ERRORS, "WARNING"):
                log.lines.append((severity.name, message))

    return Logger()


def strongly_typed(library: Any) -> bool:
    """Say whether a library builds networks whose every type is the graph's."""
    return is_rtx(library) or int(library.__version__.split(".")[0]) >= STRONGLY_TYPED_SINCE


def is_rtx(library: Any) -> bool:
    """Say whether a library is TensorRT-RTX."""
    return bool(library.__name__ == "tensorrt_rtx")


def parse(library: Any, builder: trt.Builder, model: Path, logger: Any, log: Log) -> trt.INetworkDefinition:
    """Read an ONNX file.

    Args:
        library: the module tensorrt or tensorrt_rtx.
        builder: of that library.
        model: the file; weights may lie in files beside it.
        logger: of `logger_of`.
        log: where that logger writes.

    Raises:
        ModelError: the parser refuses it; the message names operator and node.
    """
    flags = library.NetworkDefinitionCreationFlag
    flag = flags.STRONGLY_TYPED if strongly_typed(library) else flags.EXPLICIT_BATCH
    network: trt.INetworkDefinition = builder.create_network(1 << int(flag))
    network.name = NETWORK_NAME
    parser: trt.OnnxParser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)) or not network.num_outputs:
        reasons = "; ".join(refusals(parser)) or log.reason()
        raise ModelError(f"the parser refuses the model: {reasons}", where=str(model), mend=MEND)
    return network


def refusals(parser: trt.OnnxParser) -> list[str]:
    """Return why a parser refused: operator, node and reason of each fault."""
    return [_fault(parser.get_error(index)) for index in range(parser.num_errors)]


def _fault(error: trt.ParserError) -> str:
    reason = " ".join(str(error.desc()).split())[:200]
    # Names of nodes are told since TensorRT 9.
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"{operator} at {error.node_name() or error.node()}: {reason}" if operator else reason


def inputs_of(library: Any, network: trt.INetworkDefinition) -> tuple[TensorSpec, ...]:
    """Return what a network takes."""
    return tuple(_spec(library, network.get_input(index)) for index in range(network.num_inputs))


def outputs_of(library: Any, network: trt.INetworkDefinition) -> tuple[TensorSpec, ...]:
    """Return what a network gives."""
    return tuple(_spec(library, network.get_output(index)) for index in range(network.num_outputs))


def layers_of(network: trt.INetworkDefinition) -> list[dict[str, str]]:
    """Return name, kind and output type of every layer, as parsed: before fusion."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return [
        {"name": layer.name, "kind": layer.type.name, "type": layer.get_output(0).dtype.name}
        for layer in layers
    ]


def _spec(library: Any, tensor: trt.ITensor) -> TensorSpec:
    return TensorSpec(tensor.name, np.dtype(library.nptype(tensor.dtype)).name, lengths(tensor.shape))


def lengths(dims: trt.Dims) -> tuple[int, ...]:
    """Return the lengths of a shape; -1 where it is open."""
    return tuple(dims[index] for index in range(len(dims)))
