"""The wheel in a clean environment, and the commands README shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, **rest):
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, **rest
    ).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of a virtual environment that holds the built wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    run(sys.executable, "-m", "venv", folder / "venv")
    wheel = next(folder.glob("*.whl"))
    run(folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return folder / "venv" / "bin"


def test_the_wheel_works_alone_and_its_doctor_says_what_to_install(installed, tmp_path):
    document = json.loads(run(installed / "edgewright", "doctor", "--json", cwd=tmp_path))
    found = {finding["name"]: finding for finding in document["findings"]}
    assert not found["openvino"]["works"] and "install" in found["openvino"]["mend"]
    assert not found["torch"]["works"] and found["torch"]["mend"] == "pip install 'edgewright[torch]'"
    assert "x86-vnni" in run(installed / "edgewright", "targets", cwd=tmp_path)
    run(installed / "edgewright", "init", "fresh", cwd=tmp_path)
    build = subprocess.run(
        [installed / "edgewright", "build", "fresh/build.toml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert build.returncode == 3 and "pip install 'edgewright[" in build.stderr


def test_targets_need_numpy_alone_and_calibration_no_torch(installed, tmp_path):
    code = "import sys, targets, targets.toolchain, targets.measure, targets.preprocess; print(*sys.modules)"
    loaded = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert not {"pydantic", "click", "rich", "onnx"} & set(loaded)


def test_the_code_blocks_of_readme_run(tmp_path):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- run -->\n```sh\n(.*?)```", text, re.S)
    assert blocks
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks:
        run("bash", "-euc", block, cwd=tmp_path, env=os.environ | {"PATH": path})
    assert (tmp_path / "my-sorter" / "build.toml").is_file()


def test_readme_names_make_targets_verbs_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (?:\w+=\S+ )*(\w+)", text, re.M):
        assert f"\n{target}:" in makefile
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for verb in re.findall(r"`edgewright (\w+)", text):
        run(sys.executable, "-m", "pipeline.cli", verb, "--help", cwd=ROOT)


def test_every_link_between_documents_leads_somewhere():
    for document in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text()):
            assert link.startswith("https://") or (document.parent / link).exists(), f"{document}: {link}"
