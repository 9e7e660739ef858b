"""The smallest whole build: real stages, real runtime, no training; a few seconds from start to end."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

BUILD = """
[project]
name = "tiny"
version = "1.0.0"
{store}

[data]
kind = "npz"
path = "images.npz"
calibrate = 0.2

[model]
onnx = "model.onnx"

[gates]
samples = 8
[gates.limits.quantize]
top1_agreement = 0.0
relative_l2 = 1.0
cosine = 0.0
[gates.limits.engine-int8]
top1_agreement = 0.0

[quantize]
samples = 16
method = "minmax"

[measure]
samples = 3
seconds = 0.0
warmup_s = 0.0
throughput_seconds = 0.0
energy_seconds = 0.0
memory = false
layers = false

[report]
examples = 0

[[targets]]
device = "any-onnxruntime"
"""
# A measurement differs from run to run, and so does what is written of it; everything else must not.
MEASURED = ("measure ", "report")


def write_build(folder, store=None):
    """Write model, data and build file; equal bytes every time. `store` may be shared with others."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(network().SerializeToString(deterministic=True))
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(120) % 3)
    line = f'store = "{store}"' if store else ""
    (folder / "build.toml").write_text(BUILD.format(store=line))
    return folder / "build.toml"


def network():
    """A convolution, a ReLU and a classifier of three classes, on grey images of 8 × 8."""
    chance = np.random.default_rng(1)
    arrays = {
        "w": chance.normal(size=(4, 1, 3, 3)).astype(np.float32) / 300,
        "b": chance.normal(size=4).astype(np.float32),
        "v": chance.normal(size=(3, 4)).astype(np.float32),
        "c": np.zeros(3, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["seen"], name="conv"),
        helper.make_node("Relu", ["seen"], ["kept"], name="relu"),
        helper.make_node("GlobalAveragePool", ["kept"], ["mean"], name="pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def start(build, **environment):
    """Start `edgewright build` in a process of its own."""
    import os

    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "build", str(build)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | environment,
        text=True,
    )


def digests(store):
    """Stage → digests of its files, for all that is no measurement."""
    found = {}
    for path in Path(store).glob("objects/*/*/entry.json"):
        entry = json.loads(path.read_text())
        if not entry["stage"].startswith(MEASURED):
            found[entry["stage"]] = {name: sha for name, (_, sha) in entry["files"].items()}
    return found
