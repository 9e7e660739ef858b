"""A build for a device over SSH: compiled, checked, timed and evaluated there, kept and reported here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from ssh_server import WHY_NOT, Server

from pipeline.build import plan
from pipeline.config import load_settings
from pipeline.report import load
from pipeline.session import Session
from targets.errors import ConfigError, DeviceError
from targets.toolchain import Engine

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

BUILD = """
[project]
name = "far"
[data]
kind = "npz"
path = "data.npz"
[model]
onnx = "net.onnx"
[gates]
samples = 8
[measure]
samples = 20
seconds = 0.1
warmup_s = 0.01
[[targets]]
device = "any-onnxruntime"
name = "board"
precisions = ["fp32"]
host = "URL"
python = "PYTHON"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server.start(tmp_path_factory.mktemp("sshd"))
    yield running
    running.stop()


@pytest.fixture
def project(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEWRIGHT_SSH", server.ssh_command())
    server.trust("host")
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (
        draw.integers(0, 80, (60, 8, 8, 1), dtype=np.uint8)
        + (labels * 80).astype(np.uint8)[:, None, None, None]
    )
    np.savez(tmp_path / "data.npz", images=images.astype(np.uint8), labels=labels)
    onnx.save(brightness_net(), tmp_path / "net.onnx")
    text = BUILD.replace("URL", server.url()).replace("PYTHON", sys.executable)
    (tmp_path / "build.toml").write_text(text)
    return tmp_path


def brightness_net() -> onnx.ModelProto:
    """Three classes by mean brightness: scores −(x − centre)²  up to a common term."""
    centres = np.array([0.16, 0.47, 0.78], np.float32)
    weights = {"w": 2 * centres[None], "b": -(centres**2)}
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["scores"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_build_on_a_device(project: Path, server: Server) -> None:
    result = Session(project / "build.toml").build()
    engine = Engine.load(project / "out" / "engines" / "board" / "model-fp32")
    assert engine.toolchain == "onnxruntime"
    record = load(project / "out" / "report.json")
    [found] = record.results
    assert found.latency.samples >= 20 and found.accuracy.top1 > 0.9
    assert all(gate.passed for gate in record.gates)
    assert "measure board" in result.ran
    assert not server.left_over()

    assert {each.action for each in Session(project / "build.toml").explain()} == {"reuse"}
    # The same device under another name is asked again; nothing before the engine is.
    moved = (project / "build.toml").read_text().replace("127.0.0.1", "localhost")
    (project / "build.toml").write_text(moved)
    decided = {each.stage: each.action for each in Session(project / "build.toml").explain()}
    assert decided["simplify model"] == "reuse" and decided["compile board model fp32"] == "run"


def test_a_device_that_is_off_stops_a_build_before_any_work(project: Path) -> None:
    text = (project / "build.toml").read_text()
    port = text.split("127.0.0.1:")[1].split('"')[0]
    (project / "build.toml").write_text(text.replace(f":{port}", ":1"))
    with pytest.raises(DeviceError, match="cannot be reached"):
        Session(project / "build.toml").build()
    assert not (project / ".edgewright").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("ssh://", "telnet://"), "no address of a device"),
        (('device = "any-onnxruntime"', 'device = "this-machine"'), "say which device the host is"),
        (("host = ", "# host = "), "python is for a target with a host"),
        (("root@", "-oProxyCommand=x@"), "no address of a device"),
    ],
)
def test_what_a_host_cannot_be(project: Path, change: tuple[str, str], said: str) -> None:
    text = (project / "build.toml").read_text()
    before, after = change
    user = text.split("ssh://")[1].split("@")[0]
    (project / "build.toml").write_text(text.replace(before.replace("root", user), after))
    with pytest.raises(ConfigError, match=said):
        load_settings(project / "build.toml")


def test_layers_of_a_latency_budget_are_timed_on_the_device(project: Path) -> None:
    text = (
        (project / "build.toml").read_text().replace('onnx = "net.onnx"', 'factory = "pipeline.zoo:resnet"')
    )
    (project / "build.toml").write_text(text + "[student]\nlatency_ms = 1.0\n")
    (costs,) = (stage for stage in plan(Session(project / "build.toml").request) if stage.name == "costs")
    assert costs.settings["host"]["url"] in text
