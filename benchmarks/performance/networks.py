"""Networks and builds of any size, made in no time: chains of convolutions as ONNX files, images of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
CLASSES = 4


def chain(layers: int, width: int = 16) -> onnx.ModelProto:
    """Convolutions 3×3, each with a ReLU and a sum with what came before; pooling and a Gemm."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    nodes, last, channels = [], "image", 1
    for layer in range(layers):
        weights[f"w{layer}"] = rng.standard_normal((width, channels, 3, 3)) * (0.5 / np.sqrt(9 * channels))
        conv, relu = f"conv{layer}", f"relu{layer}"
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [conv], conv, pads=[1, 1, 1, 1]))
        summed = conv
        if layer:
            summed = f"sum{layer}"
            nodes.append(helper.make_node("Add", [conv, last], [summed], summed))
        nodes.append(helper.make_node("Relu", [summed], [relu], relu))
        last, channels = relu, width
    weights |= {"wf": rng.standard_normal((width, CLASSES)), "bf": rng.standard_normal(CLASSES)}
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "wf", "bf"], ["logits"], "head"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("image", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [value("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_build(folder: Path, targets: int) -> Path:
    """A build of a small chain for so many targets, all ONNX Runtime here; its build file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    onnx.save(chain(3), folder / "model.onnx")
    np.savez(
        folder / "data.npz",
        images=rng.integers(0, 256, (400, SIDE, SIDE), np.uint8),
        labels=np.arange(400) % CLASSES,
    )
    limits = "\n".join(
        f"[gates.limits.{kind}]\ntop1_agreement = 0.0\ncosine = -1.0\nrelative_l2 = 10.0"
        for kind in ("quantize", "engine-int8")
    )
    text = (
        '[project]\nname = "performance"\n[data]\nkind = "npz"\npath = "data.npz"\ncalibrate = 0.2\n'
        '[model]\nonnx = "model.onnx"\n[quantize]\nsamples = 32\n[gates]\nsamples = 16\n'
        f"{limits}\n[measure]\nsamples = 20\nseconds = 0.05\nwarmup_s = 0.0\nmemory = false\n"
        "throughput_seconds = 0\nenergy_seconds = 0\nlayers = false\n"
    )
    for number in range(targets):
        text += f'[[targets]]\ndevice = "any-onnxruntime"\nname = "target-{number}"\n'
    (folder / "build.toml").write_text(text)
    return folder / "build.toml"
