"""Building in a container: what Docker is asked for, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.config import load_settings
from pipeline.verbs.container import IMAGES, SEVERAL, image_for

DOCKER = Path(__file__).parents[2] / "docker"
BUILD = """
[project]
name = "boxed"
STORE
[data]
kind = "npz"
path = "DATA"
[model]
onnx = "net.onnx"
[[targets]]
device = "any-onnxruntime"
"""
# A stand-in that records what it is asked and answers as told by files beside it.
PROGRAM = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/asked"
case "$1" in
  info) test ! -e "$here/no-service" || { echo "Cannot connect to the Docker daemon" >&2; exit 1; } ;;
  image) test ! -e "$here/no-image" ;;
  run) exit 7 ;;
esac
"""


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(PROGRAM)
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def build_file(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.npz").write_bytes(b"")
    text = BUILD.replace("DATA", "../elsewhere/data.npz").replace("STORE", 'store = "../store"')
    (project / "build.toml").write_text(text)
    return project / "build.toml"


def run(build_file: Path, *flags: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["build", str(build_file), "--in-docker", *flags])
    return done.exit_code, done.output


def test_the_container_sees_what_the_build_names_and_nothing_else(bin_folder: Path, build_file: Path) -> None:
    code, _ = run(build_file, "--json")
    assert code == 7
    asked = (bin_folder / "asked").read_text().splitlines()[-1]
    folder = build_file.parent
    assert f"type=bind,source={folder},target={folder} " in asked
    elsewhere, store = folder.parent / "elsewhere", folder.parent / "store"
    assert f"type=bind,source={elsewhere},target={elsewhere},readonly " in asked
    assert f"type=bind,source={store},target={store} " in asked and store.is_dir()
    assert asked.count("type=bind") == 3
    assert f"edgewright-onnxruntime:0.1.0 build {build_file} --json" in asked
    assert "--rm" in asked and "--user" in asked and "--privileged" not in asked


def test_no_docker_at_all(bin_folder: Path, build_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bin_folder.parent / "empty"))
    code, said = run(build_file)
    assert code == 3 and "neither Docker nor Podman" in said


def test_a_service_that_does_not_answer(bin_folder: Path, build_file: Path) -> None:
    (bin_folder / "no-service").touch()
    code, said = run(build_file)
    assert code == 3 and "Cannot connect to the Docker daemon" in said


def test_podman_where_docker_does_not_answer(bin_folder: Path, build_file: Path) -> None:
    (bin_folder / "docker").write_text("#!/bin/sh\nexit 1\n")
    (bin_folder / "podman").write_text(PROGRAM)
    (bin_folder / "podman").chmod(0o755)
    assert run(build_file)[0] == 7
    assert "--userns keep-id" in (bin_folder / "asked").read_text()


def test_a_missing_image_says_how_to_build_it(bin_folder: Path, build_file: Path) -> None:
    (bin_folder / "no-image").touch()
    code, said = run(build_file)
    assert code == 3
    assert "docker build --file docker/onnxruntime.Dockerfile --tag edgewright-onnxruntime:0.1.0 ." in said


def test_a_device_over_ssh_is_not_for_a_container(bin_folder: Path, build_file: Path) -> None:
    build_file.write_text(build_file.read_text() + 'host = "ssh://board"\n')
    code, said = run(build_file)
    assert code == 2 and "leave out --in-docker" in said


def test_a_build_of_several_toolchains(build_file: Path) -> None:
    text = build_file.read_text() + '[[targets]]\ndevice = "x86-avx2"\ntoolchain = "openvino"\n'
    build_file.write_text(text)
    assert image_for(load_settings(build_file), build_file.parent) == SEVERAL


@pytest.mark.parametrize("name", [*IMAGES.values(), SEVERAL])
def test_every_image_has_a_dockerfile(name: str) -> None:
    assert (DOCKER / f"{name}.Dockerfile").is_file()
