"""edgewright-device.pyz: the same bytes always, nothing but numpy at most, and Python 3.8."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import conv_relu

from targets.zipapp import FILE_NAME, device_zipapp


def oldest_python() -> str | None:
    """A Python 3.8 that starts; pyenv's `python3.8` may only say that it is not the chosen one."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))
    for candidate in filter(None, [shutil.which("python3.8"), *map(str, installed)]):
        if subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


OLDEST = oldest_python()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("device") / FILE_NAME
    path.write_bytes(device_zipapp())
    return path


def run(program: Path, *arguments: object, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    # Alone in its folder, without this checkout on the path: what it imports is its own.
    return subprocess.run(
        [python, "-I", program.name, *map(str, arguments)],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def answer(program: Path, *arguments: object) -> dict[str, object]:
    done = run(program, *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_same_sources_give_the_same_bytes(program: Path) -> None:
    device_zipapp.cache_clear()
    assert device_zipapp() == program.read_bytes()
    with zipfile.ZipFile(program) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = archive.namelist()
    assert names[1:] == sorted(names[1:])


def test_what_travels_needs_no_package_but_numpy_before_a_runtime_is_asked_for(program: Path) -> None:
    """Imports at the top of modules; a toolchain imports its runtime inside its methods."""
    with zipfile.ZipFile(program) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"targets/__init__.py", "targets/onnxruntime.py", "targets/device/agent.py"} <= texts.keys()
    assert not {"targets/capability.py", "targets/remote/ssh.py"} & texts.keys()
    found = {top for text in texts.values() for top in imported_at_once(ast.parse(text))}
    assert found - set(sys.stdlib_module_names) == {"numpy", "targets"}


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


def test_what_travels_needs_no_more_than_python_3_8(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        archive.extractall(tmp_path)
    vermin = Path(sys.executable).with_name("vermin")
    command = [vermin, "-t=3.8-", "--no-tips", "--violations", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(OLDEST is None, reason="there is no python3.8 on this machine")
def test_it_runs_on_python_3_8(program: Path) -> None:
    done = run(program, "probe", python=str(OLDEST))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["python"].startswith("3.8.")
    for state in found["toolchains"].values():
        assert state["available"] or state["mend"]


def test_without_numpy_it_says_how_to_get_it(program: Path, tmp_path: Path) -> None:
    bare = [sys.executable, "-I", "-S", program.name]
    probe = subprocess.run([*bare, "probe"], cwd=program.parent, capture_output=True, text=True, check=True)
    for state in json.loads(probe.stdout)["toolchains"].values():
        assert not state["available"] and "numpy" in state["mend"]
    build = [*bare, "build", "m.onnx", "--toolchain", "onnxruntime", "--out", str(tmp_path / "engine")]
    done = subprocess.run(build, cwd=program.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["type"] == "ToolchainMissing"


def test_build_run_bench_evaluate(program: Path, tmp_path: Path) -> None:
    onnx.save(conv_relu(), tmp_path / "m.onnx")
    engine = tmp_path / "engine"
    built = answer(program, "build", tmp_path / "m.onnx", "--toolchain", "onnxruntime", "--out", engine)
    assert built["engine"] == json.loads((engine / "engine.json").read_text())

    samples = np.random.default_rng(0).normal(size=(5, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=samples)
    ran = answer(program, "run", engine, "--inputs", tmp_path / "in.npz", "--out", tmp_path / "out.npz")
    assert ran["outputs"] == {"y": [5, 16, 12, 12]}
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["y"].shape == (5, 16, 12, 12)

    settings = json.dumps({"warmup_min_s": 0.01, "min_samples": 8, "min_s": 0.01, "resamples": 10})
    timed = answer(
        program,
        "bench",
        f"a={engine}",
        f"b={engine}",
        "--inputs",
        tmp_path / "in.npz",
        "--settings",
        settings,
    )
    assert set(timed["variants"]) == {"a", "b"} and {"speedups", "environment"} < set(timed)


def test_runtimes_keep_no_record_of_their_use(program: Path, tmp_path: Path) -> None:
    onnx.save(conv_relu(), tmp_path / "m.onnx")
    command = [
        sys.executable,
        "-I",
        program.name,
        "build",
        str(tmp_path / "m.onnx"),
        "--toolchain",
        "onnxruntime",
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    subprocess.run(
        [*command, "--out", str(tmp_path / "engine")],
        cwd=program.parent,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert (tmp_path / "engine" / "engine.json").is_file()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not left & {"deviceid", "onnxruntime.db"}


def test_errors_are_json_too(program: Path, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    done = run(program, "build", "none.onnx", "--toolchain", "onnxruntime", "--out", tmp_path / "engine")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "ConfigError"
    assert "error: there is something already" in done.stderr
    assert not list((tmp_path / "engine").iterdir())
