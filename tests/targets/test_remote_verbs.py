"""compile, bench, evaluate and a latency table with a host: done there, over a real OpenSSH server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from small_graphs import conv_relu
from ssh_server import WHY_NOT, Server
from test_remote_build import BUILD, brightness_net

from pipeline.cli import main
from pipeline.compress.layer_timing import LayerTarget, time_models
from pipeline.places import toolchain_at
from targets.measure import MeasureSettings
from targets.toolchain import Engine, EngineOptions

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
QUICK = MeasureSettings(warmup_min_s=0.0, warmup_max_s=0.0, min_samples=4, min_s=0.0, resamples=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server.start(tmp_path_factory.mktemp("sshd"))
    yield running
    running.stop()


@pytest.fixture
def host(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options that name the device."""
    monkeypatch.setenv("EDGEWRIGHT_SSH", server.ssh_command())
    return ["--host", server.url(), "--python", sys.executable]


def edgewright(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture
def engine(host: list[str], tmp_path: Path) -> Path:
    """Compiled on the device."""
    onnx.save(brightness_net(), tmp_path / "net.onnx")
    out = tmp_path / "engine"
    edgewright("compile", tmp_path / "net.onnx", "--device", "any-onnxruntime", *host, "--out", out)
    return out


def test_an_engine_is_made_and_timed_there(server: Server, host: list[str], engine: Path) -> None:
    assert Engine.load(engine).device == "any-onnxruntime"
    timed = edgewright("bench", engine, "--samples", "10", "--seconds", "0", *host, "--json")
    assert "median_ms" in timed.stdout and "verdict" in timed.stdout
    assert server.left_over() == []


@pytest.mark.slow
def test_an_engine_is_scored_there(host: list[str], engine: Path, tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    images = np.zeros((60, 8, 8, 1), np.uint8) + (labels * 80 + 40).astype(np.uint8)[:, None, None, None]
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    target = '[[targets]]\ndevice = "any-onnxruntime"\nprecisions = ["fp32"]\n'
    (tmp_path / "build.toml").write_text(BUILD.partition("[[targets]]")[0] + target)
    scored = edgewright("evaluate", engine, "--build", tmp_path / "build.toml", *host, "--json")
    assert json.loads(scored.stdout)["top1"] == 1.0


def test_the_host_must_be_said_to_be_something(host: list[str], tmp_path: Path) -> None:
    onnx.save(conv_relu(), tmp_path / "net.onnx")
    said = edgewright("compile", tmp_path / "net.onnx", *host, "--out", tmp_path / "engine", code=2)
    assert "say which device the host is" in said.output


def test_layers_are_timed_on_the_device(server: Server, host: list[str], tmp_path: Path) -> None:
    toolchain = toolchain_at("onnxruntime", {"url": host[1], "python": host[3]})
    target = LayerTarget(toolchain, "any-onnxruntime", EngineOptions())
    paths = {}
    for number, channels in enumerate((4, 8)):
        model = conv_relu()
        for node in model.graph.node:
            node.input[0] = f"x{number}" if node.input[0] == "x" else node.input[0]
        model.graph.input[0].name = f"x{number}"
        paths[f"{channels}"] = tmp_path / f"{channels}.onnx"
        onnx.save(model, paths[f"{channels}"])
    timings = time_models(paths, target, QUICK)
    assert set(timings) == {"4", "8"} and all(timing.median_ms > 0 for timing in timings.values())
    assert len(timings["4"].samples_ms) >= 4
