"""What NVIDIA's own parser and builder say of a model, before it goes to a Jetson.

TensorRT builds on the device alone; TensorRT-RTX has the same parser and a builder of the same kind, and
needs no GPU. What it refuses, a Jetson refuses too, but for what differs between their versions; what it
takes, a Jetson may still refuse. The work is done in a child process, which a fault of the library may end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.errors import EdgewrightError, ToolchainMissing
from targets.nvidia.build import build
from targets.nvidia.network import Log, logger_of, refusals
from targets.private import use_packages
from targets.tensorrt_rtx import TensorRtRtx
from targets.toolchain import EngineOptions
from targets.versions import installed_version

if TYPE_CHECKING:
    import tensorrt as trt

# The architecture nearest to Orin (8.7) that TensorRT-RTX builds for.
NEAREST = {"compute_capability": "8.6", "builds": "1"}
LIMIT_S = 600


@dataclass(frozen=True)
class NodeSupport:
    """Whether the parser takes a node.

    Args:
        name: the node's, or its first output's.
        operator: of ONNX.
        supported: the parser knows the operator and has no fault to find with this node.
    """

    name: str
    operator: str
    supported: bool


@dataclass(frozen=True)
class Preflight:
    """What parser and builder say.

    Args:
        version: of TensorRT-RTX.
        builds: a plan was built.
        reasons: why not, one line each.
        nodes: every node of the model.
        layers: name, kind and type of each layer the model became; [] where it does not parse.
    """

    version: str
    builds: bool
    reasons: list[str]
    nodes: list[NodeSupport]
    layers: list[dict[str, str]]


def preflight_version() -> str | None:
    """Return the version of TensorRT-RTX that would be asked, None without one; it is not imported."""
    use_packages(TensorRtRtx.name)
    return installed_version(*TensorRtRtx.packages)


def preflight(model: Path, precision: str) -> Preflight:
    """Give a model to NVIDIA's parser and builder, in a child process.

    Args:
        model: ONNX file.
        precision: it is written in: "fp32", "fp16" or "int8".

    Raises:
        ToolchainMissing: TensorRT-RTX is not installed.
    """
    use_packages(TensorRtRtx.name)
    probe = TensorRtRtx().probe()
    if not probe.available or probe.version is None:
        raise ToolchainMissing(f"the preflight needs TensorRT-RTX: {probe.detail}", mend=probe.mend)
    command = [sys.executable, "-m", "targets.nvidia.preflight", str(model), precision]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Preflight(probe.version, False, [f"no answer within {LIMIT_S} s"], [], [])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        reason = f"the library ended its process with code {done.returncode}: {last}"
        return Preflight(probe.version, False, [reason], [], [])
    said = json.loads(done.stdout.splitlines()[-1])
    nodes = [NodeSupport(**node) for node in said.pop("nodes")]
    return Preflight(version=probe.version, nodes=nodes, **said)


def examine(model: Path, precision: str) -> dict[str, Any]:
    """Do the work of `preflight` in this process."""
    use_packages(TensorRtRtx.name)
    import tensorrt_rtx as library

    log = Log()
    builder = library.Builder(logger_of(library, log))
    # A parser does not keep its network alive.
    network = builder.create_network(0)
    parser = library.OnnxParser(network, builder.logger)
    nodes = _support(parser, model)
    reasons = refusals(parser)
    try:
        built = build(library, model, EngineOptions(precision, raw=NEAREST))
    except EdgewrightError as error:
        return {"builds": False, "reasons": reasons or [error.what], "nodes": nodes, "layers": []}
    return {"builds": True, "reasons": reasons, "nodes": nodes, "layers": built.layers}


def _support(parser: trt.OnnxParser, model: Path) -> list[dict[str, Any]]:
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    parser.supports_model_v2(model.read_bytes(), str(model))
    faulty = {parser.get_error(index).node() for index in range(parser.num_errors)}
    return [
        asdict(
            NodeSupport(
                node.name or node.output[0],
                node.op_type,
                index not in faulty and parser.supports_operator(node.op_type),
            )
        )
        for index, node in enumerate(graph.node)
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(examine(Path(sys.argv[1]), sys.argv[2])) + "\n")
