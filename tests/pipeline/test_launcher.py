"""Stages of several processes: who writes, whose error is told, that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store
from targets.errors import ModelError, StageError

HERE = Path(__file__).parent


class Steps(Listener):
    def __init__(self):
        self.seen = []

    def progress(self, what, done, total):
        self.seen.append((what, done, total))


def new_run(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    (tmp_path / "build").mkdir(exist_ok=True)
    return Run(store, tmp_path / "build", tmp_path / "debris", HERE, Steps())


@pytest.fixture(autouse=True)
def functions_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def stage(function, **settings):
    return Stage("s", f"stage_functions:{function}", settings=settings, processes=2)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


def test_two_processes_meet_and_only_the_first_writes_and_speaks(tmp_path):
    run = new_run(tmp_path)
    run.run([stage("meet")])
    entry = run.entries["s"]
    assert [path.name for path in entry.out.iterdir()] == ["0.txt"]
    told = json.loads((entry.out / "0.txt").read_text())
    assert [rank for rank, _ in told] == [0, 1] and told[0][1] != told[1][1]
    assert not any(alive(process) for _, process in told)
    assert run.listener.seen == [("meeting", 1, 1)]
    assert sorted(path.name for path in entry.folder.iterdir()) == ["entry.json", "out"]


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("refuse", ModelError, "this model is no good"),
        ("bug", StageError, "nobody thought of this"),
        ("die", StageError, "SIGSEGV"),
        ("leave_quietly", StageError, "code 5"),
    ],
)
def test_the_failure_of_any_process_is_the_stages(tmp_path, how, kind, words):
    with pytest.raises(kind, match=words):
        new_run(tmp_path).run([stage("one_fails", how=how)])
    assert not list((tmp_path / "store" / "objects").rglob("entry.json"))
    assert not list((tmp_path / "store" / "work").iterdir())


def test_the_number_of_processes_is_part_of_the_key_but_one_is_as_none_said(tmp_path):
    run = new_run(tmp_path)
    one, two = Stage("s", "stage_functions:meet"), stage("meet")
    assert "processes" not in run.parts(one)
    assert run.parts(two)["processes"] == 2


# A shell tells its background jobs to ignore Ctrl-C, and so would tests it runs there.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {here!r})
from pathlib import Path
from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store
store = Store(Path({root!r}) / "store"); store.prepare()
run = Run(store, Path({root!r}), Path({root!r}) / "debris", Path({here!r}), Listener())
run.run([Stage("s", "stage_functions:meet_then_wait", settings={{"marks": {marks!r}}}, processes=2)])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_when_the_parent_ends_no_process_is_left(tmp_path, how):
    marks = tmp_path / "marks"
    text = textwrap.dedent(SCRIPT).format(here=str(HERE), root=str(tmp_path), marks=str(marks))
    parent = subprocess.Popen([sys.executable, "-c", text], cwd=HERE.parents[1], stderr=subprocess.DEVNULL)
    until(lambda: marks.exists() and marks.read_text().count("\n") == 2)
    processes = [int(line) for line in marks.read_text().split()]
    assert all(alive(process) for process in processes)
    parent.send_signal(how)
    parent.wait(60)
    until(lambda: not any(alive(process) for process in processes))


def until(come_true):
    deadline = time.monotonic() + 120
    while not come_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
