"""The adapter of TensorRT against its published type stubs: what it calls exists, with these arguments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = "tensorrt-stubs==10.13.0.35.1"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stubs unpacked: installed, they would ask for the runtime itself."""
    folder = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", STUBS, "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{STUBS} cannot be had: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    # Two things in this release of the stubs are no Python: an argument named "in", and one without a default
    # behind others that have one.
    path = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"(?<=[(,] )in:", "in_:", path.read_text(encoding="utf-8"))
    path.write_text(
        text.replace("channel_axis: int) -> IScaleLayer", "channel_axis: int = 1) -> IScaleLayer")
    )
    return folder


@pytest.mark.slow
def test_the_adapter_fits_the_stubs(stubs: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "targets",
        "--no-error-summary",
        "--cache-dir",
        str(stubs / "cache"),
    ]
    environment = {**os.environ, "MYPYPATH": str(stubs)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert "tensorrt.pyi" in done.stdout, "mypy did not read the stubs"
    assert [
        line for line in done.stdout.splitlines() if line.startswith("targets/") and ": error:" in line
    ] == []
