"""Critical paths, triage, depth and grafting as parts of a build."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest

from pipeline.run import Listener
from pipeline.session import Session
from pipeline.verbs.paths import Wanted, paths_text, trace_build, write_paths
from pipeline.verbs.triage import triage_build, triage_text, write_triage
from targets.errors import ConfigError, EdgewrightError
from tests.conftest import SMALL_BUILD

ONE_TARGET = SMALL_BUILD.partition('\n[[targets]]\ndevice = "this-machine"')[0]
TRIAGE = "\n[triage]\nsteps = 5\nepochs = 0\ntolerance = 1.0\n"


class Ran(Listener):
    """Remembers what had to run."""

    def __init__(self):
        self.names = []

    def finished(self, stage, entry, outcome):
        if outcome == "ran":
            self.names.append(stage.name)


@pytest.fixture(scope="module")
def project(small_build, tmp_path_factory):
    """Folder with the store of the small build: its teacher need not learn again."""
    folder = tmp_path_factory.mktemp("extras") / "project"
    shutil.copytree(small_build, folder)
    return folder


def build_file(project, text):
    path = project / "build.toml"
    path.write_text(text)
    return path


def test_a_network_is_cut_to_any_classes_by_scores_that_are_kept(project, tmp_path):
    path, first, second = build_file(project, ONE_TARGET), Ran(), Ran()
    found = trace_build(path, Wanted(("Sandal", "Bag"), share=0.8), False, first)
    assert "customised" in first.names
    assert found.customised["macs"] < found.customised["macs_before"]
    assert found.paths["words"].startswith("Customising to these classes")
    assert "cut to" in paths_text(found)
    write_paths(found, tmp_path)
    assert "Critical paths" in (tmp_path / "paths.html").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image = np.zeros(session.get_inputs()[0].shape, np.float32)
    assert session.run(None, {session.get_inputs()[0].name: image})[0].shape == (1, 2)
    again = trace_build(path, Wanted(("Coat",), other=True, macs=0.5), False, second)
    assert "path scores" not in second.names and "teacher" not in second.names
    assert again.customised["macs"] <= 0.5 * again.customised["macs_before"]


def test_a_class_there_is_not_is_named(project):
    with pytest.raises(EdgewrightError, match="no class 'Sandle'"):
        trace_build(build_file(project, ONE_TARGET), Wanted(("Sandle",)), False, Listener())


def test_students_lose_blocks_and_then_channels(project, tmp_path):
    deep = ONE_TARGET.replace("macs = 0.5", "macs = 0.3\ndepth = true") + TRIAGE
    entries = Session(build_file(project, deep)).run_only("gate export student", "triage")
    plan = json.loads((entries["structure student"].out / "plan.json").read_text())
    assert {*plan["replaced"]} == {"stages.0.0", "stages.1.0"}
    assert plan["cost"]["predicted"] <= plan["cost"]["limit"]
    facts = json.loads((entries["student"].out / "facts.json").read_text())
    assert facts["macs"] <= plan["cost"]["limit"]
    assert json.loads((entries["gate export student"].out / "gate.json").read_text())["passed"]
    found = triage_build(project / "build.toml", False, Listener())
    assert "replaced in the students" in triage_text(found.triage)
    write_triage(found, tmp_path)
    assert "stages.1.0" in (tmp_path / "triage.html").read_text()
    assert {row["initialisation"] for row in found.triage["blocks"]} == {"random", "mean", "least-squares"}


def test_a_grafted_teacher_says_how_it_fared(project):
    grafted = ONE_TARGET.replace("[model.training]\nepochs = 2", "[model.training]\nepochs = 1\ngraft = 2")
    entry = Session(build_file(project, grafted)).run_only("teacher")["teacher"]
    origin = json.loads((entry.out / "facts.json").read_text())["origin"]
    assert "2 grafted networks reached" in origin and "is kept" in origin


@pytest.mark.parametrize("table", ["[paths]", "[triage]"])
def test_an_onnx_file_has_neither_gradients_nor_blocks(tmp_path, table):
    text = ONE_TARGET.replace(
        'factory = "pipeline.zoo:resnet"\n'
        "arguments = { classes = 10, channels = 1, blocks = [1, 1], widths = [16, 32] }",
        'onnx = "model.onnx"',
    )
    text = text.replace("[student]\nmacs = 0.5\n\n[student.training]\nepochs = 2\nbatch_size = 64\n", "")
    with pytest.raises(ConfigError, match="paths and triage need a torch model"):
        Session(build_file(tmp_path, f"{text}\n{table}\n"))
