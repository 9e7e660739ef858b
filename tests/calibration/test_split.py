"""Splitting a layer changes how a network is computed, not what it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC, reference
from float_models import Net, batches, images
from onnx import numpy_helper

from calibration.graph import FloatGraph
from calibration.load import load
from calibration.qdq import quantize
from calibration.ranges import collect
from calibration.split import Split, split_layer
from targets.errors import ConfigError


def to_half(path: Path) -> Path:
    """Round all weights of a model to 16 bits, so that a split is exact."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)
    return path


def plain(net: Net) -> str:
    x = net.relu(net.conv("input", 12))
    return net.head(net.relu(net.conv(x, 8)))


def into_depthwise(net: Net) -> str:
    x = net.relu6(net.conv("input", 12, k=1))
    x = net.relu6(net.conv(x, 12, group=12))
    return net.head(net.conv(x, 6, k=1))


def two_readers(net: Net) -> str:
    x = net.relu(net.conv("input", 12))
    return net.head(net.op("Add", net.conv(x, 8), net.conv(x, 8, k=1)))


def pooled(net: Net) -> str:
    x = net.op("MaxPool", net.op("HardSwish", net.conv("input", 12)), kernel_shape=[2, 2], strides=[2, 2])
    return net.head(x)


def into_sum(net: Net) -> str:
    x = net.conv("input", 12)
    return net.head(net.op("Add", x, net.relu(net.conv("input", 12, k=1))))


def into_group(net: Net) -> str:
    return net.head(net.conv(net.relu(net.conv("input", 12)), 8, group=2))


def to_output(net: Net) -> str:
    return net.relu(net.conv("input", 12))


def flattened_image(net: Net) -> str:
    x = net.relu(net.conv("input", 12, strides=[4, 4]))
    net.channels["flat"] = 192
    flat = net.op("Flatten", x, channels=192)
    return net.gemm(flat, 5)


FOLDED = [plain, into_depthwise, two_readers, pooled]
GATHERED = [into_sum, into_group, to_output, flattened_image]


def first_split(build: Callable[[Net], str], folder: Path) -> tuple[Path, FloatGraph, Split]:
    net = Net(3)
    path = to_half(net.save(folder / "model.onnx", build(net)))
    graph = load(path)
    name = next(node.name for node in graph.nodes if node.op_type == "Conv")
    chosen = np.random.default_rng(0).permutation(12) < 4
    return path, *split_layer(graph, name, chosen)


@pytest.mark.parametrize("build", [*FOLDED, *GATHERED])
def test_the_network_computes_what_it_did(build: Callable[[Net], str], tmp_path: Path) -> None:
    path, graph, split = first_split(build, tmp_path)
    x = images(6)
    onnx.checker.check_model(graph.model, full_check=True)
    expected, got = reference(path, x)[0], reference(graph.model, x)[0]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert split.folded == (build in FOLDED)
    assert any(node.op_type == "Gather" for node in graph.nodes) != split.folded


@pytest.mark.parametrize("convention", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("build", [plain, into_depthwise, into_sum])
def test_the_parts_are_quantized_as_named(
    build: Callable[[Net], str], convention: object, tmp_path: Path
) -> None:
    _, graph, split = first_split(build, tmp_path)
    path = tmp_path / "split.onnx"
    onnx.save(graph.model, path)
    summary = quantize(path, collect(path, batches(images(32))), convention, tmp_path / "int8.onnx")
    quantized = {layer.node for layer in summary.layers}
    assert split.quantized in quantized
    assert {item.node for item in summary.kept_float} & {split.floating}
    ort.InferenceSession(str(tmp_path / "int8.onnx"))


def test_the_float_part_is_stored_in_16_bits(tmp_path: Path) -> None:
    _, graph, _ = first_split(plain, tmp_path)
    half = [item for item in graph.constants.values() if item.data_type == onnx.TensorProto.FLOAT16]
    assert [list(item.dims) for item in half] == [[4, 3, 3, 3]]


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    net = Net()
    graph = load(net.save(tmp_path / "model.onnx", into_depthwise(net)))
    depthwise = [node.name for node in graph.nodes if node.op_type == "Conv"][1]
    for name in (depthwise, "nowhere"):
        with pytest.raises(ConfigError, match="cannot be split"):
            split_layer(graph, name, np.arange(12) < 4)
    for chosen in (np.zeros(12, bool), np.ones(12, bool), np.arange(8) < 4):
        with pytest.raises(ConfigError, match="each part needs some"):
            split_layer(graph, graph.nodes[0].name, chosen)
