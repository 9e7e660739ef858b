"""Toolchains installed from pinned files, against a folder of wheels instead of the package index."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.toolchains.install import Plan, install, installed, plan
from pipeline.toolchains.pins import PinnedFile, PinnedToolchain, Program, pinned, pinned_names
from pipeline.verbs.summary import plan_text
from targets.errors import ConfigError, ToolchainMissing
from targets.private import packages_folder, private_folder, use_packages
from targets.toolchain import TOOLCHAINS

NAME = "toy"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds wheels in a folder and nowhere else; toolchains go below another."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("EDGEWRIGHT_TOOLCHAINS", str(tmp_path / "toolchains"))
    return wheels


def wheel(folder: Path, version: str = "1.0", tag: str = "py3-none-any") -> PinnedFile:
    """A wheel of one module that says its version."""
    name = f"toy_runtime-{version}"
    files = {
        "toy_runtime.py": f"VERSION = {version!r}\n",
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: toy-runtime\nVersion: {version}\n",
        f"{name}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    lines = [f"{path},sha256={digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{name}.dist-info/RECORD"] = "\n".join([*lines, f"{name}.dist-info/RECORD,,"]) + "\n"
    path = folder / f"{name}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    content = path.read_bytes()
    return PinnedFile(file=path.name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def toy(*files: PinnedFile, way: str = "packages", **more: object) -> PinnedToolchain:
    return PinnedToolchain(what="a toy", licence="MIT", way=way, files=list(files), **more)


def left() -> list[str]:
    root = private_folder("")
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


def test_packages_go_into_a_folder_of_their_own(own_folders: Path, tmp_path: Path) -> None:
    toolchain = toy(wheel(own_folders))
    assert installed(NAME, toolchain) is None
    install(plan(NAME, toolchain))
    assert installed(NAME, toolchain) == packages_folder(NAME)
    assert left() == [NAME] and not (tmp_path / "elsewhere").exists()
    code = (
        "from targets.private import use_packages; use_packages('toy')\n"
        "import toy_runtime, sys; from importlib.metadata import version\n"
        "print(toy_runtime.VERSION, version('toy-runtime'), sys.path[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "1.0", str(packages_folder(NAME))]


def test_what_is_not_installed_changes_no_path() -> None:
    before = list(sys.path)
    use_packages("nothing")
    assert sys.path == before


def test_a_file_that_is_not_the_pinned_one_is_refused_and_what_was_there_stays(own_folders: Path) -> None:
    install(plan(NAME, toy(wheel(own_folders))))
    other = wheel(own_folders, "2.0")
    path = own_folders / other.file
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ToolchainMissing, match="HASHES") as caught:
        install(plan(NAME, toy(other)))
    assert "do not use it" in str(caught.value.mend)
    assert (packages_folder(NAME) / "toy_runtime.py").read_text() == "VERSION = '1.0'\n"
    assert left() == [NAME]


def test_a_newer_one_takes_the_place_of_the_older(own_folders: Path) -> None:
    install(plan(NAME, toy(wheel(own_folders))))
    install(plan(NAME, toy(wheel(own_folders, "2.0"))))
    assert (packages_folder(NAME) / "toy_runtime.py").read_text() == "VERSION = '2.0'\n"
    assert left() == [NAME]
    assert not list(packages_folder(NAME).glob("toy_runtime-1.0*"))


def test_what_cannot_be_fetched_leaves_nothing(own_folders: Path) -> None:
    file = wheel(own_folders)
    (own_folders / file.file).unlink()
    with pytest.raises(ToolchainMissing, match="pip cannot fetch it"):
        install(plan(NAME, toy(file)))
    assert left() == []


def test_wheels_of_another_system_are_unpacked_and_not_run(own_folders: Path) -> None:
    file = wheel(own_folders, tag="cp39-cp39-win_amd64")
    assert file.foreign == ("3.9", "win_amd64") and not file.fits()
    toolchain = toy(file, way="unpacked")
    install(plan(NAME, toolchain))
    folder = private_folder(NAME) / "unpacked"
    assert installed(NAME, toolchain) == folder and (folder / "toy_runtime.py").is_file()
    assert not (folder / "fetched").exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_program_is_compiled_beside_what_it_uses(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = own_folders / "small.c"
    source.write_text("int main(void) { return 7; }\n")
    program = Program(source=str(source), file="small", beside="toy_runtime.py", compiler="cc")
    file = wheel(own_folders, tag="cp39-cp39-win_amd64")
    install(plan(NAME, toy(file, way="unpacked", program=program)))
    run = subprocess.run([private_folder(NAME) / "unpacked" / "small"], check=False)
    assert run.returncode == 7


def test_a_missing_compiler_is_said_before_anything_is_fetched(own_folders: Path) -> None:
    program = Program(source="x.c", file="x", beside="y", compiler="no-such-compiler")
    with pytest.raises(ToolchainMissing, match="needs no-such-compiler first"):
        plan(NAME, toy(wheel(own_folders), way="unpacked", program=program, system=["some-compiler"]))


def test_another_python_has_no_files(own_folders: Path) -> None:
    with pytest.raises(ToolchainMissing, match=r"no toy-runtime==1\.0 for this Python"):
        plan(NAME, toy(wheel(own_folders, tag="cp27-cp27m-win32")))


def test_the_plan_says_all_it_will_do(own_folders: Path) -> None:
    file = wheel(own_folders)
    text = plan_text(Plan(NAME, toy(file), [file], Path("/somewhere"), ["libusb-1.0-0"]))
    for said in (file.file, file.sha256, "/somewhere", "MIT", "as root: apt-get install libusb-1.0-0"):
        assert said in text


def test_nobody_to_ask_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["toolchain", "install", "myriad"])
    assert done.exit_code == 2 and "2260ac472b2834d5" in done.output and "give --yes" in done.output
    assert left() == []


def test_an_unknown_toolchain_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="nothing to install for 'nonesuch'") as caught:
        pinned("nonesuch")
    assert "openvino" in str(caught.value.mend)


@pytest.mark.parametrize("name", pinned_names())
def test_what_is_pinned_is_a_toolchain_and_complete(name: str) -> None:
    toolchain = pinned(name)
    assert name in TOOLCHAINS
    assert len({file.sha256 for file in toolchain.files}) == len(toolchain.files)
    requirements = {file.requirement for file in toolchain.files}
    assert all("==" in requirement for requirement in requirements)
    if toolchain.way == "packages":
        versions = {
            tag.interpreter
            for file in toolchain.files
            for tag in ([] if not file.is_wheel else parse(file))
            if tag.interpreter.startswith("cp3")
        }
        assert {"cp311", "cp312", "cp313"} <= versions


def parse(file: PinnedFile):
    from packaging.utils import parse_wheel_filename

    return parse_wheel_filename(file.file)[3]
