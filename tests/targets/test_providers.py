"""Typed options, and ONNX Runtime's execution providers: chosen, refused, and looked at when they ran."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from small_graphs import CASES

from targets import providers
from targets.errors import ConfigError, ModelError, ToolchainMissing
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino
from targets.providers import chosen, session_entries, session_providers, what_ran
from targets.toolchain import EngineOptions
from targets.typed import PROVIDERS, as_raw


def test_typed_options_become_the_runtimes_own() -> None:
    given = {"hint": "throughput", "streams": 4, "provider": None}
    assert as_raw("openvino", given) == {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "4"}
    assert as_raw("onnxruntime", {"provider": "cuda"}) == {"provider": "cuda"}
    with pytest.raises(ConfigError, match="onnxruntime has no hint") as caught:
        as_raw("onnxruntime", {"hint": "latency"})
    assert "openvino" in str(caught.value.mend)


def test_a_provider_that_is_not_there_is_refused_with_a_mend(tmp_path: Path) -> None:
    assert set(PROVIDERS) == set(providers.KNOWN)
    with pytest.raises(ModelError, match="there is no provider 'npu'"):
        chosen({"provider": "npu"})
    with pytest.raises(ModelError, match="no options of its own"):
        chosen({"provider.device_id": "0"})
    onnx.save(CASES["conv relu"].model, tmp_path / "model.onnx")
    with pytest.raises(ToolchainMissing, match=r"no provider xnnpack; it has: .*cpu") as caught:
        options = EngineOptions(raw={"provider": "xnnpack"})
        OnnxRuntime().compile(tmp_path / "model.onnx", "x86-avx2", options, tmp_path)
    assert "no package has it" in str(caught.value.mend)


def test_options_go_to_the_provider_and_the_rest_to_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    names = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    raw = {"provider": "openvino", "provider.device_type": "CPU", "session.x": "1"}
    assert session_providers(raw) == [
        ("OpenVINOExecutionProvider", {"device_type": "CPU"}),
        ("CPUExecutionProvider", {}),
    ]
    assert session_entries(raw) == {"session.x": "1"}
    fallen_back = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(ToolchainMissing, match="provider openvino does not start here"):
        providers.require_started(fallen_back, raw)


def test_what_ran_where_is_told() -> None:
    def event(name: str, provider: str, operator: str) -> dict[str, object]:
        return {"cat": "Node", "name": name, "args": {"provider": provider, "op_name": operator}}

    events = [
        event("a_kernel_time", "CUDAExecutionProvider", "Conv"),
        event("a_kernel_time", "CUDAExecutionProvider", "Conv"),
        event("b_kernel_time", "CPUExecutionProvider", "NonZero"),
        {"cat": "Session", "name": "run", "args": {}},
    ]
    said = what_ran(events, {"provider": "cuda"})
    assert said == (
        "ran: 1 by CUDAExecutionProvider, 1 by CPUExecutionProvider; not by CUDAExecutionProvider: NonZero"
    )


@pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in OnnxRuntime().probe().detail,
    reason="ONNX Runtime here has no OpenVINO provider: pip install onnxruntime-openvino",
)
def test_another_provider_really_runs(tmp_path: Path) -> None:
    case = CASES["conv relu"]
    onnx.save(case.model, tmp_path / "model.onnx")
    (tmp_path / "engine").mkdir()
    options = EngineOptions(raw={"provider": "openvino", "provider.device_type": "CPU"})
    engine = OnnxRuntime().compile(tmp_path / "model.onnx", "x86-avx2", options, tmp_path / "engine")
    assert "OpenVINOExecutionProvider" in engine.notes[1] and "not by" not in engine.notes[1]
    assert OnnxRuntime().open(engine).infer(case.inputs())["y"].shape[0] == 1


@pytest.mark.skipif(not OpenVino().probe().available, reason="OpenVINO is not installed")
def test_a_hint_is_the_runtimes_to_arrange(tmp_path: Path) -> None:
    onnx.save(CASES["conv relu"].model, tmp_path / "model.onnx")
    (tmp_path / "engine").mkdir()
    raw = as_raw("openvino", {"hint": "throughput", "streams": 2})
    engine = OpenVino().compile(
        tmp_path / "model.onnx", "x86-avx2", EngineOptions(raw=raw), tmp_path / "engine"
    )
    assert "PERFORMANCE_HINT=THROUGHPUT, NUM_STREAMS=2" in engine.notes[0]
    OpenVino().open(engine).close()
