"""The C++ runner of a bundle, compiled and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from release_builds import golden, network

from pipeline.release.runner import SOURCES
from targets.openvino import OpenVino
from targets.toolchain import EngineOptions

openvino = pytest.importorskip("openvino", reason="openvino is not installed")
PACKAGE = Path(openvino.__file__).parent
COMPILER = shutil.which("c++") and shutil.which("cmake")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPILER, reason="no C++ compiler and CMake on this machine"),
]

BUNDLE_CMAKE = """
set(EDGEWRIGHT_TOOLCHAIN "openvino")
set(EDGEWRIGHT_THREADS "1")
set(EDGEWRIGHT_PRECISION "fp32")
set(EDGEWRIGHT_ENGINE "engines/model-fp32")
set(EDGEWRIGHT_GOLDEN "golden/model-fp32")
set(EDGEWRIGHT_RELATIVE_L2 "0.001")
"""


def run(*command, **rest):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **rest
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(network(0), folder / "model.onnx")
    engine = folder / "engines" / "model-fp32"
    engine.mkdir(parents=True)
    OpenVino().compile(folder / "model.onnx", "this-machine", EngineOptions(), engine)
    (folder / "golden").mkdir()
    golden(folder / "work", folder / "model.onnx").rename(folder / "golden" / "model-fp32")
    shutil.copytree(SOURCES, folder / "runner")
    (folder / "runner" / "bundle.cmake").write_text(BUNDLE_CMAKE)
    return folder


@pytest.fixture(scope="module")
def installed(bundle) -> Path:
    """The runner in a folder with the runtime's libraries beside it."""
    build = bundle / "build"
    configure = ("cmake", "-S", bundle / "runner", "-B", build, f"-DOpenVINO_DIR={PACKAGE / 'cmake'}")
    for command in (
        configure,
        ("cmake", "--build", build),
        ("cmake", "--install", build, "--prefix", bundle / "app"),
    ):
        code, output = run(*command)
        assert code == 0 and "warning" not in output, output
    code, output = run("ctest", "--test-dir", build, "--output-on-failure")
    assert code == 0, output
    for library in (PACKAGE / "libs").iterdir():
        shutil.copy2(library, bundle / "app")
    shutil.rmtree(build)
    return bundle / "app" / "edgewright-runner"


def test_outputs_are_the_golden_ones_with_the_libraries_beside_it(installed, bundle):
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    arguments = (bundle / "engines" / "model-fp32", bundle / "golden" / "model-fp32", "1e-3")
    code, output = run(installed, *arguments, env=environment)
    assert code == 0 and json.loads(output)["passed"], output
    code, output = run("readelf", "-d", installed)
    assert "[$ORIGIN]" in output


def test_other_outputs_and_broken_files_are_told_apart(installed, bundle, tmp_path):
    other = shutil.copytree(bundle / "golden" / "model-fp32", tmp_path / "golden")
    np.save(other / "output-0.npy", np.load(other / "output-0.npy") + 1)
    code, output = run(installed, bundle / "engines" / "model-fp32", other, "1e-3")
    assert code == 1 and not json.loads(output)["passed"]
    (other / "input-0.npy").write_bytes((other / "input-0.npy").read_bytes()[:200])
    code, output = run(installed, bundle / "engines" / "model-fp32", other, "1e-3")
    assert code == 2 and "cut short" in output
    code, output = run(installed)
    assert code == 2 and "usage" in output


@pytest.mark.skipif(
    "TENSORRT_INCLUDE" not in os.environ, reason="TENSORRT_INCLUDE names no folders of headers"
)
def test_the_part_for_tensorrt_compiles():
    """TENSORRT_INCLUDE: folders with NvInfer.h and cuda_runtime_api.h, with colons between them."""
    folders = [f"-I{folder}" for folder in os.environ["TENSORRT_INCLUDE"].split(":")]
    code, output = run("c++", "-std=c++17", "-fsyntax-only", *folders, SOURCES / "tensorrt_engine.cpp")
    assert code == 0, output
