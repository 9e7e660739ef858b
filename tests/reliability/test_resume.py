"""kill -9 at any moment: the next build goes on, and ends with what an undisturbed one makes."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import LEAN_BUILD

# Stages whose output is a measurement differ from run to run; everything else must not.
MEASURED = ("measure ", "report")


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "build", str(folder / "build.toml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def digests(folder):
    """Stage → digest of its output, for everything that is no measurement."""
    found = {}
    for path in (folder / ".edgewright" / "store" / "objects").rglob("entry.json"):
        entry = json.loads(path.read_text())
        # An engine carries blobs its runtime wrote; the ONNX files before it must be the same bytes.
        if not entry["stage"].startswith((*MEASURED, "compile", "gate compile", "evaluate")):
            found[entry["stage"]] = {name: sha for name, (_, sha) in entry["files"].items()}
    return found


def kill_during(folder, stage):
    """Start a build, kill it while a stage is running, and say whether it was caught there."""
    build = start(folder)
    log = folder / ".edgewright" / "small-sorter" / "logs" / f"{stage}.log"
    deadline = time.monotonic() + 600
    while not log.exists() and build.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(stage).uniform(0.0, 0.5))
    build.send_signal(signal.SIGKILL)
    build.wait(60)
    return log.exists()


@pytest.mark.reliability
def test_a_build_killed_in_training_export_and_timing_goes_on(small_build, tmp_path):
    (tmp_path / "build.toml").write_text(LEAN_BUILD)
    for stage in ("teacher", "student", "export-student", "measure-any-onnxruntime"):
        assert kill_during(tmp_path, stage), f"the build never got to {stage}"
        assert not (tmp_path / "out").exists()
    finished = start(tmp_path)
    assert finished.wait(900) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    undisturbed, made = digests(small_build), digests(tmp_path)
    assert "quantize student any-onnxruntime" in made
    assert made == {stage: undisturbed[stage] for stage in made}
    assert list((tmp_path / ".edgewright" / "store" / "work").iterdir()) == []
