"""Many builds from one file: what differs, what fails, what is chosen, what is kept when something dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import sweep_points
from browser import NAMES, find, look
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.cluster import VARIABLE, connect, over_shards
from pipeline.config import load_settings
from pipeline.config.overrides import overridden, parse_overrides
from pipeline.sweep import executors, point
from pipeline.sweep.document import costs, dominates, json_schema, with_fronts
from pipeline.sweep.executors import Cluster
from pipeline.sweep.file import json_schema as file_schema
from pipeline.sweep.file import load_sweep
from pipeline.sweep.grid import grid_points
from pipeline.sweep.point import Job, Point
from pipeline.sweep.search import objective_values
from pipeline.verbs.sweep import run_sweep, sweep_text
from targets.errors import ConfigError

HERE = Path(__file__).parent
GRID = """
[sweep]
name = "sizes"
[[axes]]
name = "budget"
key = "student.macs"
values = [1.0, 0.5, 2.0]
[[axes]]
name = "classes"
[axes.choices]
shoes = { "task.classes" = ["Sandal", "Sneaker"], "task.other" = true }
all = { "task.other" = false }
"""
SEARCH = """
[sweep]
name = "sizes"
[search]
trials = 6
[[axes]]
name = "budget"
key = "student.macs"
low = 0.1
high = 0.9
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sweep whose points are built in no time."""
    (tmp_path / "build.toml").write_text("")
    monkeypatch.setattr(executors, "build_point", sweep_points.by_share)
    return tmp_path


def sweep_file(folder: Path, text: str) -> Path:
    (folder / "sweep.toml").write_text(text)
    return folder / "sweep.toml"


def test_overrides_reach_tables_places_and_all_places():
    document = {"targets": [{"device": "a"}, {"device": "b"}]}
    changed = overridden(document, {"targets.*.precisions": ["fp32"], "targets.1.device": "c", "x.y": 1})
    assert changed == {
        "targets": [{"device": "a", "precisions": ["fp32"]}, {"device": "c", "precisions": ["fp32"]}],
        "x": {"y": 1},
    }
    assert "precisions" not in document["targets"][0]
    with pytest.raises(ConfigError, match="no place in an array of 2"):
        overridden(document, {"targets.2.device": "d"})
    with pytest.raises(ConfigError, match="which is no table"):
        overridden({"a": 1}, {"a.b": 2})


def test_a_command_line_gives_toml_values_or_text():
    given_ = ["student.macs=0.5", 'a=["x", "y"]', "b=fp32", "c = true", "d=a = b"]
    assert parse_overrides(given_) == {
        "student.macs": 0.5,
        "a": ["x", "y"],
        "b": "fp32",
        "c": True,
        "d": "a = b",
    }
    with pytest.raises(ConfigError, match="not of the form key=value"):
        parse_overrides(["student.macs"])


def test_a_grid_is_every_combination_and_later_axes_win(tmp_path):
    file = load_sweep(sweep_file(tmp_path, GRID))
    points = grid_points(file.axes)
    assert [each.name for each in points[:3]] == ["1_shoes", "1_all", "0.5_shoes"] and len(points) == 6
    assert points[0].overrides == {
        "student.macs": 1.0,
        "task.classes": ["Sandal", "Sneaker"],
        "task.other": True,
    }


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("values = [1.0]\nlow = 0.1", "either values, choices, or low and high"),
        ("low = 0.1\nhigh = 0.9", "a grid has no end along x"),
        ('values = [1.0, "1"]', "written alike"),
        ("valeus = [1.0]", "did you mean 'values'"),
    ],
)
def test_what_is_wrong_in_a_sweep_file_is_said(tmp_path, wrong, words):
    text = f'[sweep]\nname = "s"\n[[axes]]\nname = "x"\nkey = "student.macs"\n{wrong}\n'
    with pytest.raises(ConfigError, match=words):
        load_sweep(sweep_file(tmp_path, text))


results = st.builds(
    sweep_points.result,
    st.sampled_from([0.5, 0.6, 0.7]),
    st.sampled_from([None, 1.0, 2.0, 3.0]),
    st.sampled_from([10, 20, 30]),
    st.sampled_from(["a", "b"]),
)


@settings(deadline=None)
@given(st.lists(results, min_size=1, max_size=12))
def test_a_front_is_what_nothing_beats_and_beats_all_else(found):
    job = Job(Point("p", {}, {}), Path(), "s", Path(), False)
    (marked,) = with_fronts([sweep_points.outcome_of(job, *found)])
    for one in marked.results:
        own = [other for other in marked.results if other.target == one.target]
        beaten = [other for other in own if dominates(costs(other), costs(one))]
        assert one.front == (not beaten)
        assert one.front or any(other.front for other in beaten)


def test_a_grid_is_built_and_what_fails_is_shown(folder):
    done = CliRunner().invoke(main, ["sweep", str(sweep_file(folder, GRID))])
    assert done.exit_code == 0, done.output
    assert "4 of 6 points are built, 2 failed." in done.output and "more than there is" in done.output
    assert len(done.stderr.splitlines()) == 6, "a line for every point, whoever watches"
    sweep = json.loads((folder / "out-sweep" / "sweep.json").read_text())
    jsonschema.validate(sweep, json_schema())
    assert [each["name"] for each in sweep["points"]][:2] == ["1_shoes", "1_all"]
    assert all(result["front"] for each in sweep["points"] for result in each["results"])
    page = (folder / "out-sweep" / "sweep.html").read_text()
    assert "2_all failed: more than there is" in page and "--set student.macs=0.5" in page


def test_the_page_fits_and_asks_for_nothing(folder):
    run_sweep(sweep_file(folder, GRID))
    source = (folder / "out-sweep" / "sweep.html").read_text(encoding="utf-8")
    browser = find()
    if browser is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the path")
    widths, console = look(browser, [(source, 390), (source, 1280)], folder)
    assert widths == [(390, 390), (1280, 1280)] and console == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_survives_ctrl_c_and_sigterm(folder, monkeypatch, how):
    # A shell tells its background jobs to ignore Ctrl-C, and so it would tests it runs there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    built = []

    def interrupted(job, listener=None):
        if len(built) == 2:
            signal.raise_signal(how)
        built.append(job.point.name)
        return sweep_points.by_share(job)

    monkeypatch.setattr(executors, "build_point", interrupted)
    done = CliRunner().invoke(main, ["sweep", str(sweep_file(folder, GRID))])
    signal.signal(signal.SIGINT, before)
    assert done.exit_code == 128 + how
    kept = json.loads((folder / "out-sweep" / "sweep.json").read_text())
    assert [each["name"] for each in kept["points"]] == built
    assert (folder / "out-sweep" / "sweep.html").is_file()


@pytest.mark.parametrize("storage", ["search.journal", "sqlite:///{folder}/search.db"])
def test_a_search_goes_on_where_it_was_stopped(folder, monkeypatch, storage):
    text = SEARCH.replace("trials = 6", f'trials = 6\nstorage = "{storage.format(folder=folder)}"')
    built = []

    def dies_in_the_third(job, listener=None):
        built.append(dict(job.point.overrides))
        if len(built) == 3:
            raise SystemExit(9)
        return sweep_points.by_share(job)

    monkeypatch.setattr(executors, "build_point", dies_in_the_third)
    with pytest.raises(SystemExit):
        run_sweep(sweep_file(folder, text))
    swept = run_sweep(folder / "sweep.toml")
    assert len(built) == 7 and len(swept.sweep.points) == 6
    assert built[3] == built[2], "what was under way is asked again first"
    assert len({json.dumps(each) for each in built}) == 6, "nothing else is asked twice"
    assert run_sweep(folder / "sweep.toml").sweep.points == swept.sweep.points and len(built) == 7
    assert "6 of 6 points are built" in sweep_text(swept)


def test_a_search_is_after_the_worst_of_what_ships():
    one, other = sweep_points.result(0.9, 1.0, 10), sweep_points.result(0.8, 2.0, 5)
    assert objective_values([one, other], ["accuracy", "latency_ms", "size_bytes"]) == [0.8, 2.0, 10.0]
    assert objective_values([], ["accuracy"]) is None
    assert objective_values([sweep_points.result(0.9, None, 1)], ["latency_ms"]) is None


def test_two_sweeps_never_write_one_folder(folder, monkeypatch):
    path = sweep_file(folder, GRID)

    def nested(job, listener=None):
        with pytest.raises(ConfigError, match="another sweep is writing here"):
            run_sweep(path)
        return sweep_points.by_share(job)

    monkeypatch.setattr(executors, "build_point", nested)
    assert len(run_sweep(path).sweep.points) == 6


def test_a_build_that_cannot_be_is_a_failed_point(tmp_path):
    job = Job(Point("p", {}, {"student.macs": 2.0}), tmp_path / "build.toml", "s", tmp_path / "out", False)
    found = point.build_point(job)
    assert found.state == "failed" and "no such build file" in found.reason and not found.results


def test_no_scheduler_is_said_with_what_to_start(folder, monkeypatch):
    monkeypatch.setattr("pipeline.cluster.CONNECT_S", 0.5)
    with pytest.raises(ConfigError, match="no Dask scheduler answers") as caught:
        run_sweep(sweep_file(folder, GRID), scheduler="tcp://127.0.0.1:9")
    assert "dask worker" in str(caught.value)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each a process of its own as `dask` starts them: address and processes."""
    told = tmp_path / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    started = [subprocess.Popen([*dask, "--no-dashboard", "--scheduler-file", told], **quiet)]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "--scheduler-file",
        told,
        "--nthreads",
        "1",
    ]
    started += [
        subprocess.Popen([*worker, "--no-nanny", "--no-dashboard", "--local-directory", tmp_path], **quiet)
        for _ in range(2)
    ]
    deadline = time.monotonic() + 300
    while not (told.exists() and told.read_text().endswith("}")):
        assert time.monotonic() < deadline and started[0].poll() is None
        time.sleep(0.05)
    yield json.loads(told.read_text())["address"], started[1:]
    for process in started:
        process.kill()
        process.wait()


def test_a_sweep_outlives_a_worker_killed_in_the_middle(folder, cluster, monkeypatch):
    address, workers = cluster
    monkeypatch.setattr("pipeline.verbs.sweep.Cluster", lambda where: Cluster(where, sweep_points.slowly))
    ended, killed = set(), []

    def kill_who_builds(outcome, done, planned):
        """When a point ends, one worker dies while it builds another."""
        ended.add(outcome.name)
        running = [
            path for path in (folder / "out-sweep" / "points").glob("*/*") if path.parent.name not in ended
        ]
        for path in running[:1] if not killed else []:
            killed.append(path.parent.name)
            os.kill(int(path.name), signal.SIGKILL)

    swept = run_sweep(sweep_file(folder, GRID), scheduler=address, told=kill_who_builds)
    assert len(killed) == 1 and sum(worker.poll() == -signal.SIGKILL for worker in workers) == 1
    assert [each.state for each in swept.sweep.points] == ["done"] * 4 + ["failed"] * 2
    assert len(list((folder / "out-sweep" / "points" / killed[0]).iterdir())) == 2, "built again elsewhere"
    monkeypatch.setenv(VARIABLE, address)
    assert list(over_shards(sum, [[1, 2], [3], [4, 5]])) == [3, 3, 9]


def test_a_scheduler_without_workers_is_said(cluster, monkeypatch):
    address, workers = cluster
    for worker in workers:
        worker.kill()
        worker.wait()
    monkeypatch.setattr("pipeline.cluster.WORKERS_S", 0.5)
    with pytest.raises(ConfigError, match=r"no worker for 0\.5 s"):
        connect(address)


def test_schemas_are_published():
    for name, schema in (("sweep", json_schema()), ("sweep-file", file_schema())):
        published = json.loads((HERE.parents[1] / "docs" / "schema" / f"{name}.schema.json").read_text())
        assert published == json.loads(json.dumps(schema)), f"write docs/schema/{name}.schema.json again"


def test_every_point_of_the_example_is_a_valid_build():
    example = HERE.parents[1] / "examples" / "footwear"
    for each in grid_points(load_sweep(example / "sweep.toml").axes):
        load_settings(example / "build.toml", overrides=each.overrides)
