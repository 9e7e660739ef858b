"""trtexec in place of TensorRT's Python package: its log, its flags by version, builds, runs and times."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from small_graphs import CASES

from targets import tensorrt as tensorrt_module
from targets.errors import CapabilityError, ModelError
from targets.layers import LayerTime
from targets.measure import MeasureSettings, compare
from targets.nvidia.inspector import read_layers, with_nodes
from targets.nvidia.log import read_log, version_of
from targets.nvidia.options import BuildOptions
from targets.nvidia.outside import OutsideRunner
from targets.nvidia.trtexec import Trtexec, build_flags, find_trtexec, run_flags
from targets.onnxfile import inputs_of, outputs_of
from targets.onnxhead import read_head
from targets.tensorrt import LAYERS_FILE, TIMING_CACHE_FILE, TensorRt
from targets.toolchain import Engine, EngineOptions, TensorSpec

HERE = Path(__file__).parent
LOGS = HERE / "trtexec"
BANNERS = {"8.2.1": "v8201]", "10.3.0": "v100300]", "11.1.0": "v110100] [b106]"}


@pytest.mark.parametrize(
    ("name", "version", "queries", "throughput", "median", "spin"),
    [
        ("8.2", "8.2.1", 2716, 904.778, 1.07861, "Disabled"),
        ("10.3", "10.3.0", 15731, 5243.02, 0.181641, "Enabled"),
        ("11.1", "11.1.0", 34877, 11625.2, 0.0803223, "Enabled"),
    ],
)
def test_a_log_of_every_version_is_read(
    name: str, version: str, queries: int, throughput: float, median: float, spin: str
) -> None:
    log = read_log((LOGS / f"{name}.log").read_text())
    assert log.passed and log.version == version and log.queries == queries and log.throughput == throughput
    assert log.figures["Latency"]["median"] == median
    parts = [log.figures[part]["mean"] for part in ("H2D Latency", "GPU Compute Time", "D2H Latency")]
    assert sum(parts) == pytest.approx(log.figures["Latency"]["mean"], rel=1e-3)
    assert log.figures["Latency"]["percentile(99%)"] > median
    assert log.settings["Spin-wait"] == spin and log.settings["CUDA Graph"] == "Disabled"
    assert log.settings["Selected Device"] and "Orin" not in log.command


def test_warnings_fallbacks_and_failures_are_told() -> None:
    assert "unstable" in read_log((LOGS / "10.3.log").read_text()).warnings[0]
    dla = read_log((LOGS / "8.5-dla.log").read_text())
    assert dla.dla_left == ("(Unnamed Layer* 7) [Shuffle]", "/gate/HardSigmoid")
    failed = read_log((LOGS / "10.3-failed.log").read_text())
    assert not failed.passed and failed.reason().startswith("Unknown option: --workspace 2048")
    text = (LOGS / "11.1.log").read_text()
    cut = read_log(text[: text.index("=== Performance")])
    assert not cut.passed and cut.throughput is None and "no end" in cut.reason()
    with pytest.raises(ModelError, match="no log of trtexec"):
        read_log("Engine built in 3 sec.\n")


@pytest.mark.parametrize(
    ("number", "version"), [(8001, "8.0.1"), (8412, "8.4.12"), (8601, "8.6.1"), (101303, "10.13.3")]
)
def test_a_banners_number_is_a_version(number: int, version: str) -> None:
    assert version_of(number) == version


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        (
            "8.2.1",
            {"--buildOnly", "--fp16", "--int8", "--workspace=64"},
            {"--skipInference", "--stronglyTyped"},
        ),
        ("8.5.2", {"--buildOnly", "--memPoolSize=workspace:64"}, {"--workspace=64"}),
        ("8.6.1", {"--skipInference", "--fp16"}, {"--buildOnly"}),
        ("10.3.0", {"--skipInference", "--stronglyTyped"}, {"--fp16", "--int8"}),
        ("11.1.0", {"--skipInference", "--noTF32"}, {"--fp16", "--int8", "--stronglyTyped"}),
    ],
)
def test_flags_are_those_of_the_version(version: str, has: set[str], lacks: set[str]) -> None:
    flags = set(build_flags(Trtexec("trtexec", version), "int8", BuildOptions(workspace_mib=64), ()))
    assert has <= flags and not lacks & flags


def test_eleven_is_told_to_measure_what_ten_measured() -> None:
    assert run_flags(Trtexec("", "10.3.0")) == ["--useSpinWait"]
    assert run_flags(Trtexec("", "11.1.0")) == ["--includeDataTransfers", "--noCudaGraph"]


@pytest.fixture(params=BANNERS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device with that trtexec and no Python package."""
    monkeypatch.setenv("EDGEWRIGHT_TRTEXEC", str(HERE / "fake_trtexec.py"))
    # Its first line asks for a python3, which has to be one with numpy.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("FAKE_BANNER", BANNERS[request.param])
    monkeypatch.setattr(tensorrt_module, "installed_version", lambda *_: None)
    monkeypatch.setattr(tensorrt_module, "Driver", object)
    gpu = SimpleNamespace(name="Orin", compute_capability="8.7")
    monkeypatch.setattr(tensorrt_module, "gpu", lambda: gpu)
    find_trtexec.cache_clear()
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = x + x, of any batch, in fp32 or (with QDQ nowhere) fp16."""
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    path = tmp_path / "double.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def built(model: Path, folder: Path, precision: str = "fp32", **raw: str) -> Engine:
    folder.mkdir()
    return TensorRt().compile(model, "jetson-orin-nano", EngineOptions(precision, raw=raw), folder)


def test_trtexec_builds_runs_and_times(version: str, model: Path, tmp_path: Path) -> None:
    probe = TensorRt().probe()
    assert probe.available and probe.version == version and "fake_trtexec" in probe.detail
    engine = built(model, tmp_path / "engine")
    assert Engine.load(engine.folder) == engine and engine.toolchain_version == version
    assert engine.inputs == (TensorSpec("x", "float32", (-1, 3)),)
    document = json.loads((engine.folder / LAYERS_FILE).read_text())
    assert document["source"] == "the engine inspector"
    assert document["layers"][0]["nodes"] == ["/conv/Conv", "/relu/Relu"]
    assert "two plans agree to the byte" in engine.notes[1] and "1 Half" in engine.notes[-1]
    runner = TensorRt().open(engine)
    assert isinstance(runner, OutsideRunner)
    x = np.float32([[1, 2, 3.5], [-1, np.inf, 0]])
    np.testing.assert_array_equal(runner.infer({"x": x})["y"], 2 * x)
    settings = MeasureSettings(warmup_min_s=0.01, warmup_max_s=0.02, min_samples=10, min_s=0, max_s=5)
    timing = compare({"fp32": runner}, {"fp32": [{"x": x}]}, settings)["fp32"]
    assert timing.median_ms >= 1.5 and timing.median_ms % 0.5 == 0
    assert TensorRt().profile(engine, [{"x": x}], 5) == [
        LayerTime("/conv/Conv + /relu/Relu", "CaskConvolution Half", 0.1)
    ]


def test_a_timing_cache_goes_into_every_build_and_comes_out(
    version: str, model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "kept.cache"
    cache.write_bytes(b"kept ")
    pinned = {"timing_cache": str(cache), "timing_cache_sha256": hashlib.sha256(b"kept ").hexdigest()}
    engine = built(model, tmp_path / "engine", **pinned)
    assert (engine.folder / TIMING_CACHE_FILE).read_bytes() == b"kept tactics"
    fresh = built(model, tmp_path / "fresh")
    assert (fresh.folder / TIMING_CACHE_FILE).read_bytes() == b"tactics"


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_what_goes_wrong_is_said(
    version: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="written in fp32, and fp16 was asked for"):
        built(model, tmp_path / "fp16", "fp16")
    with pytest.raises(CapabilityError, match="the DLA takes fp16"):
        built(model, tmp_path / "dla", dla_core="0")
    monkeypatch.setenv("FAKE_UNSTEADY", "1")
    assert "NOT DETERMINISTIC: 3 builds" in built(model, tmp_path / "unsteady").notes[1]
    monkeypatch.setenv("FAKE_FAILS", "[TRT] No importer registered for op: Frobnicate")
    with pytest.raises(ModelError, match="refuses the model: No importer registered for op: Frobnicate"):
        built(model, tmp_path / "refused")


@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_a_plan_of_another_kind_of_gpu_is_refused(
    version: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_module, "gpu_fingerprint", lambda: {"compute_capability": "8.7"})
    engine = built(model, tmp_path / "engine")
    monkeypatch.setattr(tensorrt_module, "gpu_fingerprint", lambda: {"compute_capability": "11.0"})
    with pytest.raises(ModelError, match=r"built on compute capability 8\.7, here it is 11\.0"):
        TensorRt().open(engine)


@pytest.mark.parametrize("version", ["8.2.1"], indirect=True)
def test_a_dla_says_what_it_leaves(version: str, model: Path, tmp_path: Path) -> None:
    notes = built(model, tmp_path / "dla", "fp16", dla_core="0", gpu_fallback="true").notes
    assert "DLA core 0 leaves 1 layers to the GPU: shuffle" in notes


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_read_as_the_package_onnx_reads_it(name: str, tmp_path: Path) -> None:
    model, path = CASES[name].model, tmp_path / "model.onnx"
    onnx.save(model, path)
    head = read_head(path)
    assert (head.inputs, head.outputs) == (inputs_of(model), outputs_of(model))
    assert head.operators == {node.op_type for node in model.graph.node}
    assert head.precision == CASES[name].precision


@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256))])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="ONNX file"):
        read_head(tmp_path / "model.onnx")


def test_the_inspectors_words_of_all_versions_are_read() -> None:
    int8 = "Thirty-two wide channel vectorized row major Int8 format."
    old = {"Name": "res4 + relu", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8", "Count": 9}}
    reformat = {
        "Name": "Reformatting CopyNode",
        "LayerType": "Reformat",
        "Outputs": [{"Format/Datatype": int8}],
    }
    new = {"Name": "__myl_Add", "LayerType": "kgen", "Outputs": [{"Format/Datatype": "Half"}]}
    new["Metadata"] = "[ONNX Layer: /a[0]/Add]\x1e[ONNX Layer: /b/Relu]"
    layers = read_layers(json.dumps({"Layers": [old, reformat, new, "name alone"]}))
    assert [layer["type"] for layer in layers] == ["Int8", "Int8", "Half", ""]
    assert layers[2]["nodes"] == ["/a[0]/Add", "/b/Relu"]
    times = [LayerTime("__myl_Add", "", 2.0), LayerTime("not known", "", 1.0)]
    assert with_nodes(times, layers) == [
        LayerTime("/a[0]/Add + /b/Relu", "kgen Half", 2.0),
        LayerTime("not known", "", 1.0),
    ]
    with pytest.raises(ModelError, match="cannot be read"):
        read_layers("{}")
