"""TensorRT and TensorRT-RTX beyond the shared contract: options, heads of plans, builds, the GPU's side."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from small_graphs import CASES, conv_relu, custom_operator

from pipeline.stages.preflight import ask
from targets import tensorrt as tensorrt_module
from targets import tensorrt_rtx as rtx_module
from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.nvidia import cuda
from targets.nvidia.cuda import Gpu
from targets.nvidia.options import BuildOptions
from targets.nvidia.plan import check_plan, read_head
from targets.nvidia.preflight import preflight
from targets.nvidia.runner import PlanRunner
from targets.tensorrt import LAYERS_FILE, PLAN_FILE, TensorRt
from targets.tensorrt_rtx import TensorRtRtx
from targets.toolchain import Engine, EngineOptions, TensorSpec

ADA = {"compute_capability": "8.9"}
needs_rtx = pytest.mark.skipif(
    not TensorRtRtx().probe().available, reason=f"TensorRT-RTX: {TensorRtRtx().probe().detail}"
)


def test_options_are_read() -> None:
    raw = {
        "compute_capability": "8.6,8.9",
        "builds": "5",
        "dla_core": "1",
        "gpu_fallback": "true",
        "profile.x": "1x3x8x8,2x3x8x8,4x3x8x8",
    }
    options = BuildOptions.read(raw)
    assert options.compute_capabilities == ("8.6", "8.9") and options.builds == 5
    assert options.dla_core == 1 and options.gpu_fallback
    assert options.profile("x", (-1, 3, 8, 8)) == ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    assert BuildOptions.read({}) == BuildOptions()
    assert BuildOptions().profile("y", (-1, 3)) == ((1, 3), (1, 3), (32, 3))


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({"workspace": "1"}, "raw"),
        ({"compute_capability": "89"}, "raw.compute_capability"),
        ({"compute_capability": ""}, "raw.compute_capability"),
        ({"dla_core": "first"}, "raw.dla_core"),
        ({"gpu_fallback": "yes"}, "raw.gpu_fallback"),
        ({"timing_cache_sha256": "abc"}, "raw.timing_cache_sha256"),
        ({"profile.x": "1x3"}, "raw.profile.x"),
    ],
)
def test_impossible_options_are_refused_by_name(raw: dict[str, str], where: str) -> None:
    with pytest.raises(ModelError) as caught:
        BuildOptions.read(raw)
    assert caught.value.where == where


@pytest.mark.parametrize("shapes", ["2x3,1x3,4x3", "1x4,1x4,1x4", "1x3x1,1x3x1,1x3x1"])
def test_a_profile_must_fit_its_input(shapes: str) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        BuildOptions.read({"profile.x": shapes}).profile("x", (-1, 3))


def test_a_timing_cache_is_pinned_by_its_digest(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"tactics")
    digest = hashlib.sha256(b"tactics").hexdigest()
    pinned = {"timing_cache": str(cache), "timing_cache_sha256": digest}
    assert BuildOptions.read(pinned).read_timing_cache() == b"tactics"
    assert BuildOptions.read({}).read_timing_cache() == b""
    cache.write_bytes(b"other tactics")
    for raw in (pinned, {"timing_cache": str(cache)}):
        with pytest.raises(ModelError, match="not the one that was pinned"):
            BuildOptions.read(raw).read_timing_cache()


def plan(tmp_path: Path, version: tuple[int, ...], magic: bytes = b"ptrt", serialization: int = 0) -> Path:
    head = bytearray(64)
    head[0:4], head[8], head[24:28] = magic, serialization, bytes(version)
    if magic == b"vtrt":
        struct.pack_into("<q", head, 16, 80)
    path = tmp_path / "model.plan"
    path.write_bytes(bytes(head) + bytes(16))
    return path


def test_the_plan_of_this_version_is_taken(tmp_path: Path) -> None:
    check_plan(plan(tmp_path, (10, 3, 0, 26)), "10.3.0.26", rtx=False)
    check_plan(plan(tmp_path, (1, 7, 1, 116), b"vtrt"), "1.7.1.116", rtx=True)
    check_plan(plan(tmp_path, (0, 0, 0, 0), serialization=205), "8.2.1.8", rtx=False)


@pytest.mark.parametrize(
    ("version", "magic", "runtime", "rtx", "reason"),
    [
        ((10, 3, 0, 26), b"ptrt", "10.7.0.23", False, "version 10.3.0.26, the runtime is 10.7.0.23"),
        ((8, 6, 1, 6), b"ptrt", "10.3.0.26", False, "of another version, or no plan"),
        ((1, 7, 1, 116), b"vtrt", "10.3.0.26", False, "a plan of TensorRT-RTX, not of TensorRT"),
        ((10, 3, 0, 26), b"ptrt", "1.7.1.116", True, "not of TensorRT-RTX"),
        ((1, 6, 0, 9), b"vtrt", "1.7.1.116", True, "version 1.6.0.9"),
        ((0, 0, 0, 0), b"ptrt", "8.5.2.2", False, "serialization version is 0, this runtime reads 232"),
    ],
)
def test_a_foreign_plan_is_refused_before_it_is_loaded(
    tmp_path: Path, version: tuple[int, ...], magic: bytes, runtime: str, rtx: bool, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        check_plan(plan(tmp_path, version, magic), runtime, rtx=rtx)


def test_a_truncated_plan_is_refused(tmp_path: Path) -> None:
    path = plan(tmp_path, (1, 7, 1, 116), b"vtrt")
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(ModelError, match="not whole: 70 of 80 bytes"):
        check_plan(path, "1.7.1.116", rtx=True)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ModelError, match="cut short"):
        read_head(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_head(tmp_path / "nothing.plan")


def compiled(tmp_path: Path, model: onnx.ModelProto, precision: str = "fp32", **raw: str) -> Engine:
    path, folder = tmp_path / "network.onnx", tmp_path / "engine"
    onnx.save(model, path)
    folder.mkdir()
    return TensorRtRtx().compile(path, "rtx-ada", EngineOptions(precision, raw={**ADA, **raw}), folder)


@needs_rtx
@pytest.mark.parametrize("name", ["conv relu", "dynamic batch", "int8 signed"])
def test_builds_are_repeated_until_two_agree(tmp_path: Path, name: str) -> None:
    engine = compiled(tmp_path, CASES[name].model, CASES[name].precision)
    assert engine.notes[-1] == "built 2 times: two plans agree to the byte"
    assert any("x from [1, 3, 12, 12]" in note for note in engine.notes) == (name == "dynamic batch")
    head = read_head(engine.folder / PLAN_FILE)
    assert head.rtx and head.length == (engine.folder / PLAN_FILE).stat().st_size
    document = json.loads((engine.folder / LAYERS_FILE).read_text())
    assert document["source"] == "the parsed network, before fusion"
    assert "CONVOLUTION" in {layer["kind"] for layer in document["layers"]}


@needs_rtx
def test_one_build_says_that_it_was_one(tmp_path: Path) -> None:
    assert compiled(tmp_path, conv_relu(), builds="1").notes[-1].startswith("built once")


@needs_rtx
@pytest.mark.parametrize("architecture", ["8.6", "8.9", "12.0"])
def test_every_listed_architecture_is_built_for(tmp_path: Path, architecture: str) -> None:
    engine = compiled(tmp_path, conv_relu(), compute_capability=architecture, builds="1")
    assert engine.options.raw["compute_capability"] == architecture


@needs_rtx
def test_orin_is_no_architecture_of_tensorrt_rtx(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="SM87") as caught:
        compiled(tmp_path, conv_relu(), compute_capability="8.7")
    assert "SM86, SM89" in str(caught.value)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_is_not_in_the_graph_is_refused(tmp_path: Path, precision: str) -> None:
    with pytest.raises(ModelError, match=f"the graph has no {precision} in it"):
        compiled(tmp_path, conv_relu(), precision)


@needs_rtx
def test_a_graph_in_int8_is_no_fp32_engine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the graph is written in int8, and fp32 was asked for"):
        compiled(tmp_path, CASES["int8 signed"].model)


@needs_rtx
def test_zero_points_are_refused_with_the_node(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"QuantizeLinear at node quantizelinear0: .*zero point"):
        compiled(tmp_path, CASES["int8 unsigned"].model, "int8")


@needs_rtx
def test_the_preflight_lists_every_node_and_survives_a_bad_model(tmp_path: Path) -> None:
    good, bad, broken = (tmp_path / f"{name}.onnx" for name in ("good", "bad", "broken"))
    onnx.save(conv_relu(), good)
    onnx.save(custom_operator(), bad)
    broken.write_bytes(b"no model")
    said = preflight(good, "fp32")
    assert said.builds and [node.operator for node in said.nodes] == ["Conv", "Relu"]
    assert all(node.supported for node in said.nodes)
    assert [layer["kind"] for layer in said.layers] == ["CONVOLUTION", "ACTIVATION"]
    refused = preflight(bad, "fp32")
    assert not refused.builds and "Frobnicate at node y" in refused.reasons[0]
    assert [node.supported for node in refused.nodes] == [True, False]
    assert not preflight(broken, "fp32").builds


@needs_rtx
def test_a_build_stops_at_what_nvidias_parser_refuses(tmp_path: Path) -> None:
    def stage(model: onnx.ModelProto) -> Any:
        onnx.save(model, tmp_path / "model.onnx")
        inputs = {"model": tmp_path / "model.onnx"}
        return SimpleNamespace(inputs=inputs, settings={"name": "preflight x"}, out=tmp_path)

    ask(stage(conv_relu()))
    said = json.loads((tmp_path / "preflight.json").read_text())["said"]
    assert "take it: all 2 nodes, 2 layers" in said
    with pytest.raises(ModelError, match=r"refuse the model: Frobnicate at node y") as caught:
        ask(stage(custom_operator()))
    assert caught.value.where == "preflight x"


def test_the_preflight_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_module, "installed_version", lambda *_: None)
    with pytest.raises(ToolchainMissing, match="the preflight needs TensorRT-RTX") as caught:
        preflight(tmp_path / "model.onnx", "fp32")
    assert caught.value.mend == "pip install tensorrt_rtx_cu13"


def test_an_engine_runs_where_its_architecture_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def obstacle(found: Gpu | None) -> str | None:
        monkeypatch.setattr(rtx_module, "gpu", lambda: found)
        return TensorRtRtx().obstacle(EngineOptions(raw=ADA))

    assert obstacle(None) == "there is no NVIDIA GPU with a driver"
    assert obstacle(Gpu("RTX 5090", "12.0", "13.0")) == "the engine is for 8.9, this GPU is 12.0"
    assert obstacle(Gpu("RTX 4090", "8.9", "13.0")) is None


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-of-nobody.so.1")
    cuda.gpu.cache_clear()
    assert cuda.gpu() is None and cuda.gpu_fingerprint() == {}
    with pytest.raises(ToolchainMissing, match="there is no NVIDIA driver"):
        cuda.Driver()
    monkeypatch.setattr(tensorrt_module, "installed_version", lambda *_: "10.3.0")
    with pytest.raises(ToolchainMissing, match="there is no NVIDIA driver"):
        TensorRt().compile(tmp_path / "model.onnx", "jetson-orin-nano", EngineOptions(), tmp_path)
    cuda.gpu.cache_clear()


class Memory:
    """A driver whose device memory is this process's: addresses are keys."""

    def __init__(self) -> None:
        self.kept: dict[int, np.ndarray] = {}
        self.next = 0

    def stream(self) -> int:
        return 7

    def synchronize(self, stream: int) -> None:
        assert stream == 7

    def allocate(self, size_bytes: int) -> int:
        self.next += 1
        self.kept[self.next] = np.zeros(size_bytes, np.uint8)
        return self.next

    def free(self, address: int) -> None:
        del self.kept[address]

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self.kept[address][: array.nbytes] = array.view(np.uint8).ravel()

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        array.view(np.uint8).ravel()[:] = self.kept[address][: array.nbytes]


class Doubling:
    """An execution context that doubles x into y; of 8.2, where tensors go by index, or later, by name."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.shape, self.addresses = memory, (), {}

    def _run(self, x: int, y: int) -> bool:
        size = 4 * int(np.prod(self.shape))
        self.memory.kept[y][:size] = (2 * self.memory.kept[x][:size].view(np.float32)).view(np.uint8)
        return True


class ByName(Doubling):
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        return self._run(self.addresses["x"], self.addresses["y"])


class ByIndex(Doubling):
    def set_binding_shape(self, index: int, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 4

    def get_binding_shape(self, index: int) -> tuple[int, ...]:
        return self.shape

    def execute_async_v2(self, bindings: list[int], stream: int) -> bool:
        y, x = bindings
        return self._run(x, y)


@pytest.mark.parametrize("context", [ByName, ByIndex])
def test_a_runner_moves_arrays_to_the_gpu_and_back(context: type[Doubling], tmp_path: Path) -> None:
    memory = Memory()
    engine = SimpleNamespace(
        create_execution_context=lambda: context(memory), get_binding_index={"y": 0, "x": 1}.__getitem__
    )
    library: Any = SimpleNamespace(
        ILogger=object, Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: engine)
    )
    (tmp_path / "model.plan").write_bytes(b"plan")
    specs = [(TensorSpec(name, "float32", (-1, 3)),) for name in "xy"]
    runner = PlanRunner(library, tmp_path / "model.plan", *specs, memory)
    for batch in (1, 4, 2):
        x = np.arange(3 * batch, dtype=np.float32).reshape(batch, 3)
        np.testing.assert_array_equal(runner.infer({"x": x})["y"], 2 * x)
        assert len(memory.kept) == 2
    with pytest.raises(ModelError, match="outside of the engine's optimisation profile"):
        runner.infer({"x": np.zeros((5, 3), np.float32)})
    runner.close()
    assert memory.kept == {}
