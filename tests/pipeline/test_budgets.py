"""Budgets of a build in every unit: what is decided holds them, what cannot be held is refused."""

import json
import shutil

import pytest

from pipeline.session import Session
from targets.errors import ConfigError, EdgewrightError
from tests.conftest import SMALL_BUILD

ONE_TARGET = SMALL_BUILD.partition('\n[[targets]]\ndevice = "this-machine"')[0]


@pytest.fixture(scope="module")
def project(small_build, tmp_path_factory):
    """Folder with the store of the small build: its teacher need not learn again."""
    folder = tmp_path_factory.mktemp("budgets") / "project"
    shutil.copytree(small_build, folder)
    return folder


def decide(project, budget):
    """The plan of a student with this budget."""
    (project / "build.toml").write_text(ONE_TARGET.replace("macs = 0.5", budget))
    entry = Session(project / "build.toml").run_only("structure student")["structure student"]
    return json.loads((entry.out / "plan.json").read_text())


@pytest.mark.parametrize(
    ("budget", "kind"),
    [("parameters = 0.5", "parameters"), ("bytes = 14000", "bytes"), ("macs = 0.4", "macs")],
)
def test_counted_budgets_hold(project, budget, kind):
    cost = decide(project, budget)["cost"]
    assert cost["kind"] == kind and cost["predicted"] <= cost["limit"] < cost["before"]


def test_a_budget_in_milliseconds_is_held_by_what_was_measured_on_the_target(project):
    whole = decide(project, "latency_ms = 1000.0")
    assert all(len(kept) == whole["widths"][leader] for leader, kept in whole["keep"].items())
    limit = 0.98 * whole["cost"]["before"]
    cost = decide(project, f"latency_ms = {limit}")["cost"]
    assert cost["predicted"] <= limit and cost["before"] == whole["cost"]["before"]


def test_a_budget_that_nothing_can_hold_says_the_least_that_can_be(project):
    with pytest.raises(EdgewrightError, match=r"smallest reachable costs .* ms") as refused:
        decide(project, "latency_ms = 0.00001")
    assert "student.latency_ms" in str(refused.value) and refused.value.exit_code == 2


def test_the_target_of_a_budget_must_be_one_of_the_build(project):
    with pytest.raises(ConfigError, match="no target 'nowhere'") as refused:
        decide(project, 'latency_ms = 1.0\ntarget = "nowhere"')
    assert "any-onnxruntime" in str(refused.value)
