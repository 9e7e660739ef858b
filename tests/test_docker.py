"""Rules every Dockerfile keeps; hadolint's as well where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def instructions(path: Path) -> list[str]:
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def test_there_is_one_for_every_toolchain_that_needs_one() -> None:
    names = {path.stem.removesuffix(".Dockerfile") for path in FILES}
    assert names == {"dev", "jetson", "myriad", "npu-wine", "onnxruntime", "openvino", "tensorrt"}


def test_the_base_is_an_argument_of_a_pinned_version(dockerfile: Path) -> None:
    lines = instructions(dockerfile)
    assert re.fullmatch(r"ARG BASE=[\w./-]+:[\w.-]*\d{2}[\w.-]*", lines[0])
    assert all(re.fullmatch(r"FROM \$\{BASE\}( AS \w+)?", line) for line in lines if line.startswith("FROM"))


def test_nothing_runs_as_root(dockerfile: Path) -> None:
    lines = instructions(dockerfile)
    users = [line for line in lines if line.startswith("USER")]
    assert re.fullmatch(r"USER [1-9]\d*", users[-1])
    assert f"--uid {users[-1].split()[1]} " in " ".join(lines)
    assert not any(line.startswith("RUN") for line in lines[lines.index(users[-1]) :])


def test_it_says_what_it_is(dockerfile: Path) -> None:
    text = " ".join(instructions(dockerfile))
    for label in ("title", "description", "version"):
        assert f"org.opencontainers.image.{label}=" in text
    assert f"docker/{dockerfile.name}" in dockerfile.read_text()


def test_layers_keep_no_package_lists_and_no_caches(dockerfile: Path) -> None:
    for line in instructions(dockerfile):
        if "apt-get update" in line:
            assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists/*" in line
        if "pip install" in line:
            assert "--no-cache-dir" in line and "--constraint" in line
        assert not re.match(r"ADD |RUN .*(curl|wget) ", line)


def test_what_is_copied_is_there_and_not_ignored(dockerfile: Path) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in instructions(dockerfile):
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and source in sent


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (it is part of edgewright[dev])")
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    command = [
        str(HADOLINT),
        "--no-color",
        "--config",
        str(ROOT / "docker" / "hadolint.yaml"),
        str(dockerfile),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
