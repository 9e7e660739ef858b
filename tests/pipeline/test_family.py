"""A family of students in one build: what its members share, and the verb that only decides structures."""

import json
import shutil

import pytest
from click.testing import CliRunner

from pipeline.build import needed, plan
from pipeline.cli import main
from pipeline.report import load
from pipeline.session import Session
from tests.conftest import LEAN_BUILD, SMALL_BUILD


@pytest.fixture(scope="module")
def family(small_build, tmp_path_factory):
    """Folder of a family of two, built in a copy of the small build's store, and what the build did."""
    folder = tmp_path_factory.mktemp("family") / "project"
    shutil.copytree(small_build, folder)
    text = LEAN_BUILD.replace("macs = 0.5", "macs = [0.5, 0.25]")
    (folder / "build.toml").write_text(text)
    return folder, Session(folder / "build.toml").build()


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_members_share_everything_up_to_their_scores(family):
    folder, result = family
    entries = [
        json.loads(path.read_text()) for path in folder.glob(".edgewright/store/objects/*/*/entry.json")
    ]
    assert [entry["stage"] for entry in entries].count("scores") == 1
    assert not {"data", "task", "teacher", "scores"} & set(result.ran)
    # Half of the operations is what the build of one student was cut to.
    assert "structure student-25" in result.ran and "student-25" in result.ran
    assert "structure student-50" not in result.ran and "student-50" not in result.ran


def test_the_record_holds_what_every_member_keeps_and_costs(family):
    folder, _ = family
    record = load(folder / "out" / "report.json")
    assert [student.network for student in record.structure.students] == ["student-50", "student-25"]
    macs = {network.name: network.macs for network in record.networks}
    wide, narrow = record.structure.students
    for student in (wide, narrow):
        assert student.budget.predicted == student.budget.achieved == macs[student.network]
        assert student.budget.achieved <= student.budget.limit and student.budget.verdict == "holds"
        plan_file = json.loads((folder / "out" / "models" / f"{student.network}.plan.json").read_text())
        assert {kept.leader: kept.channels for kept in student.groups} == plan_file["keep"]
    for more, less in zip(wide.groups, narrow.groups, strict=True):
        # One order for both: what the narrower one keeps, the wider one keeps too.
        assert set(less.channels) <= set(more.channels) and less.lost >= more.lost
    assert "student-25 keeps" in (folder / "out" / "report.html").read_text()


def test_scores_decides_without_training_and_prints_what_the_build_has(family, tmp_path):
    folder, _ = family
    record = load(folder / "out" / "report.json")
    done = call("scores", folder / "build.toml", "--json", "--out", tmp_path / "new")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert [group["leader"] for group in found["scores"]["groups"]] == [
        group.leader for group in record.structure.groups
    ]
    assert list(found["plans"]) == ["student-50", "student-25"]
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {"scores.json", "scores.html", "student-50.plan.json", "student-25.plan.json"}
    assert json.loads((tmp_path / "new" / "student-25.plan.json").read_text()) == found["plans"]["student-25"]
    table = call("scores", folder / "build.toml").stdout
    first, budget = record.structure.groups[0], record.structure.students[1].budget
    assert f"{first.leader} " in table and " ".join(first.members) in table
    assert f"predicted {budget.predicted:,.0f}" in table


def test_deciding_takes_no_student_and_no_test_image(family):
    folder, _ = family
    stages = plan(Session(folder / "build.toml").request)
    chosen = needed(stages, ["structure student-25"])
    assert [stage.name for stage in chosen] == ["data", "task", "teacher", "scores", "structure student-25"]
    taken = {(ref.stage, ref.artefact) for stage in chosen for ref in stage.inputs.values()}
    assert ("data", "train") in taken and ("data", "test") not in taken


def test_without_a_student_there_is_nothing_to_decide(tmp_path):
    before, _, rest = SMALL_BUILD.partition("[student]")
    (tmp_path / "build.toml").write_text(before + rest[rest.index("[quantize]") :])
    done = call("scores", tmp_path / "build.toml")
    assert done.exit_code == 2 and "no student to decide a structure for" in done.stderr
    assert "mend:" in done.stderr
