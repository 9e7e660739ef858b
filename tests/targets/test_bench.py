"""A whole measurement of real engines: every part of it, and what is asked of a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import residual

from targets.bench import LATENCY_ALONE, Extras, bench, inputs_for, steps
from targets.errors import DataError, ModelError
from targets.footprint import footprint
from targets.layers import from_trace
from targets.measure import MeasureSettings
from targets.preprocess import Preprocess
from targets.toolchain import Engine, EngineOptions, load_toolchain

QUICK = MeasureSettings(warmup_min_s=0.01, warmup_max_s=0.05, min_samples=70, min_s=0.0, resamples=50)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp(request.param)
    model = folder / "model.onnx"
    onnx.save(residual(), model)
    (folder / "engine").mkdir()
    return load_toolchain(request.param).compile(model, "any", EngineOptions(), folder / "engine")


def samples(engine: Engine) -> dict[str, np.ndarray]:
    spec = engine.inputs[0]
    return {"image": np.random.default_rng(0).standard_normal((4, *spec.shape[1:])).astype(spec.dtype)}


def test_every_part_is_measured_of_every_variant(engine: Engine) -> None:
    found = bench({"a": engine, "b": engine}, samples(engine), QUICK, extras=Extras(throughput_s=0.05))
    assert set(found) == {"variants", "speedups", "environment", "extras"}
    for name in "ab":
        extras = found["extras"][name]
        assert extras["flags"] and extras["throughput"]["per_second"] > 0
        assert extras["memory"]["peak_bytes"] > extras["memory"]["own_bytes"] > 0
        assert any("conv" in layer["kind"].lower() for layer in extras["layers"])
        assert all(layer["median_ms"] >= 0 for layer in extras["layers"])
        assert found["variants"][name]["verdict"]
    assert [each["baseline"] for each in found["speedups"]["a"]] == ["b"]
    assert found["speedups"]["a"][0]["smallest_difference"] > 0
    assert "python" in found["environment"]["facts"]


def test_what_is_not_wanted_is_not_measured(engine: Engine) -> None:
    found = bench({"a": engine}, samples(engine), QUICK, extras=LATENCY_ALONE)
    assert set(found["extras"]["a"]) == {"flags"}


def test_flags_name_what_is_pinned(engine: Engine) -> None:
    flags = load_toolchain(engine.toolchain).flags(engine.options)
    pinned = {"onnxruntime": ("intra_op_num_threads", "1"), "openvino": ("INFERENCE_PRECISION_HINT", "f32")}
    name, value = pinned[engine.toolchain]
    assert flags[name] == value and all(isinstance(each, str) for each in flags.values())


def test_an_engine_that_fails_in_its_process_is_reported_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an engine folder"):
        footprint(tmp_path, {"x": np.zeros(1)})


def test_what_the_process_says_is_what_is_known() -> None:
    def launch(arguments: object) -> str:
        return '{"load_ms": 1.5, "first_inference_ms": 2.5, "peak_bytes": null, "own_bytes": null}'

    assert footprint(Path("engine"), {"x": np.zeros(1)}, launch) == (1.5, 2.5, None, None)


def test_missing_samples_are_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="no samples for the input"):
        inputs_for(engine, {"a": np.zeros((2, 1)), "b": np.zeros((2, 1))})


def test_steps_beside_inference_are_timed_apart() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    found = steps(Preprocess(), images, np.zeros((4, 10)))
    assert [step["step"] for step in found] == ["preprocess", "postprocess"]
    assert all(step["samples"] >= 100 and step["median_ms"] > 0 for step in found)


def test_a_trace_counts_kernels_alone_and_the_last_runs() -> None:
    def event(name: str, microseconds: int, cat: str = "Node") -> dict[str, object]:
        return {"cat": cat, "name": name, "dur": microseconds, "args": {"op_name": "Conv"}}

    events = [event("a_kernel_time", 9000), event("a_kernel_time", 100), event("a_kernel_time", 300)]
    events += [event("a_fence_before", 7), event("model_run", 7, "Session"), event("b_kernel_time", 500)]
    assert from_trace(events, 2) == [("b", "Conv", 0.5), ("a", "Conv", 0.2)]
