"""Run a model exactly as written, and compare its answers with the float model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.simulate import simulate

Array = NDArray[np.float32]
BATCH = 10


@dataclass(frozen=True)
class Quality:
    """How close a quantized model is to its float twin.

    Args:
        top1: share of right answers, percent.
        kl: mean Kullback-Leibler divergence of the softmax outputs, float ‖ quantized, nats.
        agreement: share of images on which both give the same answer, percent.
    """

    top1: float
    kl: float
    agreement: float


def logits(model: Path | onnx.ModelProto, images: Array, optimised: bool = False) -> Array:
    """Run images through a model in ONNX Runtime on one thread.

    Args:
        model: file or model with one input and one output.
        images: float32 [N, 3, H, W].
        optimised: with the runtime's graph optimisations, as it is deployed. Without them every node
            computes in float what its QDQ form says, whatever integer kernels the CPU has.

    Returns:
        float32 [N, classes].
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def as_written(model: Path, images: Array) -> Array:
    """Run images through a quantized model in float, whatever integer kernels the CPU has.

    Args:
        model: QDQ model in ONNX, or OpenVINO's .xml with fake quantization.
        images: float32 [N, 3, H, W].

    Returns:
        float32 [N, classes].
    """
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    if model.suffix == ".onnx":
        outputs = simulate(onnx.load(model), ({"input": batch} for batch in batches))
        return np.asarray(next(iter(outputs.values())), np.float32)
    import openvino

    # Without low-precision transformations fake quantization computes in float.
    properties = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    compiled = openvino.Core().compile_model(str(model), "CPU", properties)
    return np.concatenate([compiled(batch)[0] for batch in batches])


def quality(reference: Array, got: Array, labels: NDArray[np.int64]) -> Quality:
    """Compare the logits of a quantized model with its float twin's, both [N, classes]."""
    p, q = _log_softmax(reference), _log_softmax(got)
    divergence = np.sum(np.exp(p) * (p - q), axis=1)
    answers = got.argmax(1)
    return Quality(
        top1=100.0 * float(np.mean(answers == labels)),
        kl=float(divergence.mean()),
        agreement=100.0 * float(np.mean(answers == reference.argmax(1))),
    )


def _log_softmax(values: Array) -> NDArray[np.float64]:
    shifted = values.astype(np.float64) - values.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
