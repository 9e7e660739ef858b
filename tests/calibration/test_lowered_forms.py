"""What mixed precision writes is read by every runtime, and survives packing, for any graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_cases import ASYMMETRIC, SYMMETRIC, reference
from float_models import Net, batches, images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.graph import FloatGraph
from calibration.load import load
from calibration.lower import lower_container
from calibration.packing import pack_file
from calibration.placement import place
from calibration.plan import BitsPlan
from calibration.qdq import quantize
from calibration.ranges import collect
from calibration.rows import has_rows
from calibration.split import can_split, split_layer
from calibration.variants import Variants
from targets.capability import QuantizationConvention
from targets.packed import unpack_file

DATA = batches(images(16), 4)
CONVENTIONS = {"s8": SYMMETRIC, "u8": ASYMMETRIC}


def inverted_residual(path: Path) -> Path:
    net = Net(4)
    x = net.relu6(net.conv("input", 16, strides=[2, 2]))
    y = net.relu6(net.conv(net.relu6(net.conv(x, 24, k=1)), 24, group=24))
    return net.save(path, net.head(net.op("Add", x, net.conv(y, 16, k=1))))


def random_bits(graph: FloatGraph, rng: np.random.Generator) -> BitsPlan:
    layers = [layer.node for layer in place(graph).layers if has_rows(layer.node)]
    axes = {node.name: graph.constants[node.input[1]].dims for node in layers}
    widths = {
        node.name: axes[node.name][0 if node.op_type == "Conv" or node_transposed(node) else 1]
        for node in layers
    }
    bits = {name: rng.choice([2, 3, 4, 5, 6, 8], count) for name, count in widths.items()}
    return BitsPlan.of(graph, "random", bits)


def node_transposed(node: onnx.NodeProto) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)


def container(path: Path, convention: QuantizationConvention, out: Path, seed: int = 0) -> Path:
    quantize(path, collect(path, DATA), convention, out)
    graph, model = load(path), onnx.load(out)
    lower_container(graph, model, random_bits(graph, np.random.default_rng(seed)), DATA)
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return out


def split(path: Path, convention: QuantizationConvention, out: Path) -> Path:
    graph = load(path)
    first = next(node for node in graph.nodes if can_split(graph, node))
    lifted = [node for node in graph.nodes if can_split(graph, node)][1].name
    mask = np.arange(graph.constants[first.input[1]].dims[0]) % 2 == 0
    variants = Variants(path, DATA, convention, "minmax", out.parent)
    variants.finish({first.name: mask}, [lifted], lambda *_: None, out)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    return out


FORMS = {"container": container, "split": split}


@pytest.fixture(
    params=[(form, name) for form in FORMS for name in CONVENTIONS], ids=lambda one: " ".join(one)
)
def lowered(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    form, name = request.param
    path = inverted_residual(tmp_path / "model.onnx")
    return FORMS[form](path, CONVENTIONS[name], tmp_path / "out.onnx")


def far(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sum((got - expected) ** 2) / np.sum(expected**2))


def test_onnx_runtime_runs_it(lowered: Path) -> None:
    session = ort.InferenceSession(str(lowered), providers=["CPUExecutionProvider"])
    x = images(4)
    assert far(session.run(None, {"input": x})[0], reference(lowered, x)[0]) < 1e-2


def test_openvino_runs_it(lowered: Path) -> None:
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(lowered), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = images(4)
    assert far(next(iter(compiled({"input": x}).values())), reference(lowered, x)[0]) < 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_nvidias_parser_takes_it(form: str, tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="NVIDIA's parser is not installed")
    out = FORMS[form](inverted_residual(tmp_path / "model.onnx"), SYMMETRIC, tmp_path / "out.onnx")
    logger = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    assert parser.parse(out.read_bytes()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert network.num_layers > 0


def test_only_the_float_parts_have_float_weights(tmp_path: Path) -> None:
    out = split(inverted_residual(tmp_path / "model.onnx"), SYMMETRIC, tmp_path / "out.onnx")
    model = onnx.load(out)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    kinds = {node.name: made.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"}
    assert sum(kind is None for kind in kinds.values()) == 1
    assert [name for name, kind in kinds.items() if kind == "Cast"] == ["conv0/float"]
    assert kinds["conv0/int8"] == "DequantizeLinear"


@st.composite
def networks(draw: st.DrawFn) -> Net:
    """A net of up to five layers, of any of the kinds that are planned, with branches."""
    net = Net(draw(st.integers(0, 1000)))
    x = net.relu(net.conv("input", draw(st.sampled_from([4, 8, 12]))))
    for _ in range(draw(st.integers(0, 4))):
        width = net.channels[x]
        kind = draw(
            st.sampled_from(["plain", "pointwise", "depthwise", "residual", "concat", "pool", "clip"])
        )
        if kind == "plain":
            x = net.relu(net.conv(x, draw(st.sampled_from([4, 6, 16]))))
        elif kind == "pointwise":
            x = net.conv(x, draw(st.sampled_from([4, 20])), k=1, bias=draw(st.booleans()))
        elif kind == "depthwise":
            x = net.relu6(net.conv(x, width, group=width))
        elif kind == "residual":
            x = net.op("Add", x, net.conv(x, width, bias=draw(st.booleans())))
        elif kind == "concat":
            y = net.relu(net.conv(x, 4, k=1))
            x = net.op("Concat", x, y, axis=1, channels=width + 4)
        elif kind == "pool":
            x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1])
        else:
            x = net.relu6(x)
    return net if draw(st.booleans()) and net.head(x, 6) else _ended(net, x)


def _ended(net: Net, x: str) -> Net:
    net.relu(net.conv(x, 5))
    return net


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(list(CONVENTIONS)), st.integers(0, 100))
def test_any_graph_survives_lowering_and_packing(
    tmp_path_factory: pytest.TempPathFactory, net: Net, name: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("random")
    path = net.save(folder / "model.onnx", net.nodes[-1].output[0])
    out = container(path, CONVENTIONS[name], folder / "out.onnx", seed)
    sizes = pack_file(out, folder / "out.packed")
    assert sizes.average_bits < 7.9
    unpack_file(folder / "out.packed", folder / "again.onnx")
    assert (folder / "again.onnx").read_bytes() == out.read_bytes()
    assert np.isfinite(reference(folder / "again.onnx", images(2))[0]).all()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 100))
def test_any_layer_of_any_graph_splits_exactly(
    tmp_path_factory: pytest.TempPathFactory, net: Net, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("split")
    for tensor in net.initializers:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    path = net.save(folder / "model.onnx", net.nodes[-1].output[0])
    graph = load(path)
    rng = np.random.default_rng(seed)
    x = images(2)
    expected = reference(path, x)[0]
    for name in [node.name for node in graph.nodes if can_split(graph, node)]:
        channels = next(graph.constants[node.input[1]].dims[0] for node in graph.nodes if node.name == name)
        graph, _ = split_layer(graph, name, rng.permutation(channels) < rng.integers(1, channels))
    onnx.checker.check_model(graph.model, full_check=True)
    got = reference(graph.model, x)[0]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
