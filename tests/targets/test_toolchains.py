"""What the two CPU toolchains do beyond the shared contract."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import CASES, Graph, conv_relu

from targets import onnxruntime as ort_module
from targets import openvino as openvino_module
from targets.errors import CapabilityError, ToolchainMissing
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino
from targets.toolchain import Engine, EngineOptions
from targets.versions import installed_version, release

INT8 = EngineOptions("int8")


def saved(model: onnx.ModelProto, tmp_path: Path) -> tuple[Path, Path]:
    path, folder = tmp_path / "network.onnx", tmp_path / "engine"
    onnx.save(model, path)
    folder.mkdir()
    return path, folder


def operators(engine: Engine) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(engine.folder / "model.onnx").graph.node)


def float_layer_between_int8() -> onnx.ModelProto:
    """A layer kept in float on purpose, between tensors that are quantized."""
    graph = Graph()
    x = graph.quantize("x", 6 / 255, 128, np.uint8)
    conv = graph.op("Conv", x, graph.weight(8, 8, 3, 3), pads=[1] * 4)
    graph.op("Identity", graph.quantize(conv, 6 / 255, 128, np.uint8), output="y")
    return graph.model({"x": [1, 8, 8, 8]}, {"y": [1, 8, 8, 8]})


def test_onnxruntime_saves_integer_kernels(tmp_path: Path) -> None:
    engine = OnnxRuntime().compile(*_arguments(CASES["int8 unsigned"].model, tmp_path))
    assert operators(engine)["QLinearConv"] == 2 and operators(engine)["Conv"] == 0


def test_onnxruntime_keeps_float_layers_in_float(tmp_path: Path) -> None:
    engine = OnnxRuntime().compile(*_arguments(float_layer_between_int8(), tmp_path))
    assert operators(engine)["Conv"] == 1 and operators(engine)["QLinearConv"] == 0


def test_onnxruntime_saves_nothing_that_is_blocked_for_this_cpu(tmp_path: Path) -> None:
    engine = OnnxRuntime().compile(*_arguments(conv_relu(), tmp_path, EngineOptions()))
    domains = {node.domain for node in onnx.load(engine.folder / "model.onnx").graph.node}
    assert "com.microsoft.nchwc" not in domains


def test_onnxruntime_falls_back_to_the_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_module, "_same_outputs", lambda *_: False)
    engine = OnnxRuntime().compile(*_arguments(conv_relu(), tmp_path, EngineOptions()))
    assert operators(engine) == {"Conv": 1, "Relu": 1}
    assert "other outputs" in engine.notes[0]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_onnxruntime_has_no_half_precision(tmp_path: Path, precision: str) -> None:
    with pytest.raises(CapabilityError, match=precision):
        OnnxRuntime().compile(*_arguments(conv_relu(), tmp_path, EngineOptions(precision)))


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("fp16", "FP16")])
def test_openvino_refuses_a_precision_the_cpu_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, capability: str
) -> None:
    monkeypatch.setattr(openvino_module, "_capabilities", lambda _: ["FP32", "INT8"])
    with pytest.raises(CapabilityError, match=precision) as caught:
        OpenVino().compile(*_arguments(conv_relu(), tmp_path, EngineOptions(precision)))
    assert "fp32, int8" in str(caught.value)


def test_openvino_imports_the_blob_on_the_machine_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OpenVino().compile(*_arguments(CASES["int8 unsigned"].model, tmp_path))
    inputs = CASES["int8 unsigned"].inputs()
    here = OpenVino().open(engine)
    monkeypatch.setattr(openvino_module, "cpu_fingerprint", lambda: {"cpu_model": "another"})
    elsewhere = OpenVino().open(engine)
    assert here.from_blob and not elsewhere.from_blob
    np.testing.assert_array_equal(here.infer(inputs)["y"], elsewhere.infer(inputs)["y"])


@pytest.mark.parametrize("toolchain", [OnnxRuntime(), OpenVino()], ids=["onnxruntime", "openvino"])
def test_a_missing_runtime_is_named_with_its_package(
    toolchain: OnnxRuntime | OpenVino, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ort_module, openvino_module):
        monkeypatch.setattr(module, "installed_version", lambda *_: None)
    probe = toolchain.probe()
    assert not probe.available and probe.version is None
    assert probe.mend == f"pip install {toolchain.name}"
    with pytest.raises(ToolchainMissing, match=toolchain.name) as caught:
        toolchain.compile(*_arguments(conv_relu(), tmp_path, EngineOptions()))
    assert caught.value.exit_code == 3
    assert toolchain.fingerprint()[toolchain.name] == "missing"


def test_versions_come_from_metadata() -> None:
    assert installed_version("no-such-package-anywhere", "numpy") == np.__version__
    assert installed_version("no-such-package-anywhere") is None
    assert release("1.31.1") == release("1.31.0+local") != release("1.32.1")


def _arguments(
    model: onnx.ModelProto, tmp_path: Path, options: EngineOptions = INT8
) -> tuple[Path, str, EngineOptions, Path]:
    path, folder = saved(model, tmp_path)
    return path, "x86-avx2", options, folder
