"""The runner: what runs, what is reused, what it says of failures, what survives them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline import child
from pipeline.run import Listener, Run, outside_digest
from pipeline.sources import Sources
from pipeline.stage import Ref, Stage, code_digest
from pipeline.store import Store
from targets.device.claims import DeviceLock
from targets.errors import ConfigError, ModelError, StageError, StoreError

HERE = Path(__file__).parent


class Notes(Listener):
    def __init__(self):
        self.outcomes = {}
        self.steps = []

    def progress(self, what, done, total):
        self.steps.append((what, done, total))

    def finished(self, stage, entry, outcome):
        self.outcomes[stage.name] = outcome


@pytest.fixture(autouse=True)
def functions_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def new_run(tmp_path, build="build"):
    store = Store(tmp_path / "store")
    store.prepare()
    (tmp_path / build).mkdir(exist_ok=True)
    return Run(store, tmp_path / build, tmp_path / "debris", HERE, Notes())


def stage(name, function, **rest):
    return Stage(name, f"stage_functions:{function}", **rest)


def chain(number=1):
    return [
        stage("number", "write_number", settings={"number": number}),
        stage("sum", "add_one", inputs={"number": Ref("number", "number.txt")}),
    ]


def test_a_second_run_does_nothing(tmp_path):
    first = new_run(tmp_path)
    first.run(chain())
    assert first.listener.outcomes == {"number": "ran", "sum": "ran"}
    assert ("adding", 1, 1) in first.listener.steps
    second = new_run(tmp_path)
    second.run(chain())
    assert second.listener.outcomes == {"number": "reused", "sum": "reused"}
    assert (second.entries["sum"].out / "number.txt").read_text() == "2"


def test_a_changed_setting_runs_what_depends_on_it(tmp_path):
    new_run(tmp_path).run(chain(1))
    run = new_run(tmp_path)
    run.run(chain(5))
    assert run.listener.outcomes == {"number": "ran", "sum": "ran"}
    assert (run.entries["sum"].out / "number.txt").read_text() == "6"


def test_equal_output_of_a_changed_stage_stops_the_change(tmp_path):
    def stages(setting):
        return [
            stage("number", "constant", settings={"setting": setting}),
            stage("sum", "add_one", inputs={"number": Ref("number", "number.txt")}),
        ]

    new_run(tmp_path).run(stages(1))
    run = new_run(tmp_path)
    run.run(stages(2))
    assert run.listener.outcomes == {"number": "ran", "sum": "reused"}


def test_explain_names_the_part_of_the_key_that_differs(tmp_path):
    new_run(tmp_path).run(chain(1))
    number, total = new_run(tmp_path).explain(chain(5))
    assert number.action == "run" and number.reasons == ("settings.number: 1 → 5",)
    assert total.action == "wait" and "number" in total.reasons[0]
    assert [decision.action for decision in new_run(tmp_path).explain(chain(1))] == ["reuse", "reuse"]


def test_explain_says_when_an_output_is_gone(tmp_path):
    run = new_run(tmp_path)
    run.run(chain())
    (run.entries["number"].out / "number.txt").unlink()
    number, _ = new_run(tmp_path).explain(chain())
    assert number.action == "run" and "no longer in the store" in number.reasons[0]


def test_tool_versions_and_the_device_are_part_of_the_key(tmp_path, monkeypatch):
    run = new_run(tmp_path)
    plain = stage("n", "constant")
    versions = iter(["1.0", "2.0"])
    monkeypatch.setattr("pipeline.stage._version", lambda _: next(versions))
    tooled = stage("n", "constant", tools=("thing",))
    assert run.parts(tooled) != run.parts(tooled)
    assert run.parts(plain) != run.parts(stage("n", "constant", fingerprint={"cpu": "x"}))


def test_comments_and_docstrings_are_not_part_of_the_key(tmp_path, monkeypatch):
    import pipeline.stage

    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for number, text in enumerate(
        ['"""Doc."""\ndef f(c):\n    return 1', "# c\ndef f(c):\n\n    return 1", "def f(c):\n    return 2"]
    ):
        (tmp_path / f"version{number}.py").write_text(text)
        digests.append(code_digest(Stage("s", f"version{number}:f")))
    # The module's name is part of the digest, so compare the trees alone.
    trees = [pipeline.stage._facts(f"version{number}").digest for number in range(3)]
    assert trees[0] != trees[2] and trees[1] != trees[2]
    assert len(set(digests)) == 3


def test_a_stage_that_measures_waits_for_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = DeviceLock()
    other.take("somebody else", 0, print)
    seen = []

    class Patient(Listener):
        def queued(self, stage, holder):
            seen.append(holder)
            other.release()

    run = new_run(tmp_path)
    run.listener = Patient()
    run.run([stage("quiet", "constant")])
    assert not seen
    run.run([stage("loud", "constant", alone=True, settings={"value": 2})])
    assert len(seen) == 1 and seen[0].startswith("somebody else, since")
    DeviceLock().take("the next one", 0, print)


def test_what_a_text_says_is_kept_by_its_content(tmp_path, monkeypatch):
    texts = [b"import a.b", b"from c import d", b"import a.b  # as above"]
    first = Sources(tmp_path / "cache" / "sources.json")
    found = [first.facts(text) for text in texts]
    assert found[0] == found[2] != found[1] and found[1].names == ["c", "c.d"]
    first.save()
    monkeypatch.setattr("pipeline.sources.examine", None)
    assert [Sources(tmp_path / "cache" / "sources.json").facts(text) for text in texts] == found


@pytest.mark.parametrize("damage", ["", "[1]", '{"a": 3}', '{"a": ["b"'])
def test_a_damaged_cache_of_sources_only_costs_time(tmp_path, damage):
    (tmp_path / "sources.json").write_text(damage)
    kept = Sources(tmp_path / "sources.json")
    assert kept.facts(b"import a").names == ["a"]
    kept.save()
    assert Sources(tmp_path / "sources.json").facts(b"import a").names == ["a"]


def test_code_reached_through_imports_is_part_of_the_key():
    from pipeline.stage import _reachable

    reached = _reachable(("pipeline.stages.networks",))
    assert {"pipeline.fit", "pipeline.compress.distill", "targets.preprocess"} <= reached
    assert "pipeline.cli" not in reached


def test_an_error_of_a_stage_arrives_whole_and_nothing_of_it_stays(tmp_path):
    run = new_run(tmp_path)
    with pytest.raises(ModelError) as caught:
        run.run([*chain(), stage("bad", "refuse")])
    assert (caught.value.what, caught.value.where, caught.value.mend) == (
        "this model is no good",
        "model.onnx",
        "use another",
    )
    assert new_run(tmp_path).explain(chain())[1].action == "reuse"
    assert list((tmp_path / "store" / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("bug", StageError, "nobody thought of this"),
        ("die", StageError, "SIGSEGV"),
        ("exhaust", StageError, "out of memory"),
        ("leave_quietly", StageError, "code 5"),
        ("half_then_die", StageError, "out of memory"),
        ("fill_disk", StoreError, "disk is full"),
    ],
)
def test_every_way_to_die_is_told_in_words(tmp_path, function, kind, words):
    run = new_run(tmp_path)
    with pytest.raises(kind, match=words):
        run.run([stage("bad", function)])
    assert not list((tmp_path / "store" / "objects").rglob("entry.json"))


def test_stages_leave_nothing_to_each_other_and_see_the_environment_of_their_build(tmp_path, monkeypatch):
    for mark in ("first", "second"):
        monkeypatch.setenv("MARK", mark)
        run = new_run(tmp_path)
        run.run([stage(mark, "leave_a_trace", settings={"mark": mark})])
        assert json.loads((run.entries[mark].out / "traces.json").read_text()) == [1, mark]


def test_threads_of_stages_do_not_spin_for_long_unless_somebody_wants_it(tmp_path, monkeypatch):
    for name, expected in (("default", "1000"), ("asked", "300000")):
        if name == "asked":
            monkeypatch.setenv("GOMP_SPINCOUNT", expected)
        monkeypatch.setattr(child, "_idle", {})
        (tmp_path / name).mkdir()
        run = new_run(tmp_path / name)
        run.run([stage("s", "how_threads_wait")])
        assert (run.entries["s"].out / "spins.txt").read_text() == f"GOMP_SPINCOUNT={expected}"


def test_a_process_that_is_killed_between_two_stages_is_replaced(tmp_path):
    new_run(tmp_path).run(chain(1))
    assert child._idle
    for server in child._idle.values():
        server.process.kill()
        server.process.wait()
    run = new_run(tmp_path)
    run.run(chain(5))
    assert run.listener.outcomes == {"number": "ran", "sum": "ran"}


def test_the_log_of_a_bug_holds_what_it_printed(tmp_path):
    run = new_run(tmp_path)
    with pytest.raises(StageError) as caught:
        run.run([stage("bad", "bug")])
    log = Path(caught.value.where).read_text()
    assert "about to fail" in log and "KeyError" in log


def test_a_folder_is_known_by_its_listing_and_a_file_by_its_contents(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("a")
    before = outside_digest(folder)
    (folder / "sub" / "b").write_text("b")
    assert outside_digest(folder) != before
    file = folder / "sub" / "a"
    contents = outside_digest(file)
    os.utime(file, (0, 0))
    assert outside_digest(file) == contents
    with pytest.raises(ConfigError, match="no such file"):
        outside_digest(tmp_path / "nothing")


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store
store = Store(Path({root!r}) / "store"); store.prepare()
build = Path({root!r}) / {build!r}; build.mkdir(exist_ok=True)
run = Run(store, build, build / "debris", Path({here!r}), Listener())
run.run([Stage("slow", "stage_functions:count_runs", settings={settings!r})])
"""


def spawn(tmp_path, build, settings):
    text = textwrap.dedent(SCRIPT).format(here=str(HERE), root=str(tmp_path), build=build, settings=settings)
    return subprocess.Popen([sys.executable, "-c", text], cwd=HERE.parents[1])


def test_two_builds_at_once_do_the_work_once(tmp_path):
    settings = {"marks": str(tmp_path / "marks"), "seconds": 0.5}
    builds = [spawn(tmp_path, name, settings) for name in ("one", "two")]
    assert [build.wait(60) for build in builds] == [0, 0]
    assert (tmp_path / "marks").read_text() == "x"


def test_after_kill_9_the_child_is_gone_and_the_next_run_does_it_again(tmp_path):
    marks = tmp_path / "marks"
    settings = {"marks": str(marks), "seconds": 3.0}
    build = spawn(tmp_path, "one", settings)
    deadline = time.monotonic() + 60
    while not marks.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    build.send_signal(signal.SIGKILL)
    build.wait(60)
    assert not list((tmp_path / "store" / "objects").rglob("entry.json"))
    assert spawn(tmp_path, "one", settings).wait(60) == 0
    assert marks.read_text() == "xx"
    # The first child died with its parent: three seconds on, it has not finished anything either.
    assert len(list((tmp_path / "store" / "objects").rglob("entry.json"))) == 1


def test_keys_are_made_without_importing_what_stages_need(small_build):
    code = (
        "import sys; from pathlib import Path; from pipeline.session import Session;"
        f"assert not Session(Path({str(small_build / 'build.toml')!r})).build().ran;"
        "print(sorted({'torch', 'onnx', 'onnxsim', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
