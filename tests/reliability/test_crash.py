"""kill -9 at any step: what is there is whole, and the next run ends as an undisturbed one."""

import itertools
import json
import os
import shutil
import signal
import sys

import pytest

from pipeline.disk import write_whole
from pipeline.housekeeping import damaged
from pipeline.publish import LIST_FILE, publish
from pipeline.stage import Ref
from pipeline.store import Store, key_of
from tests.reliability.crash import disturb_until, undisturbed

PARTS = {"stage": "a:b", "settings": {"x": 1}}
KEY = key_of(PARTS)
# Operations on files as Python audits them, each just before it happens.
OPERATIONS = ("open", "os.", "shutil.", "fcntl.")


def killed_at(step, work):
    """Do the work in a process that is killed before its operation number `step`; whether that happened."""
    child = os.fork()
    if not child:
        seen = itertools.count(1)

        def count(event, _):
            if event.startswith(OPERATIONS) and next(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def steps(work, check):
    """Kill the work at its first operation, its second and so on until it is done; how many there are."""
    step, killed = 0, True
    while killed:
        step += 1
        killed = killed_at(step, work)
        check()
    return step


def make(root):
    store = Store(root)
    store.prepare()
    with store.making(KEY) as work:
        (work / "out" / "folder").mkdir()
        (work / "out" / "folder" / "a.txt").write_text("a")
        (work / "out" / "b.txt").write_text("b")
        return store.commit(work, stage="s", key=KEY, parts=PARTS, seconds=1.0, memory=2, now="2026-01-01")


def test_an_output_is_there_whole_or_not_at_all_wherever_its_process_dies(tmp_path):
    expected = make(tmp_path / "undisturbed")
    root = tmp_path / "store"

    def check():
        store = Store(root)
        if (root / "objects").is_dir():
            assert {finding.what for finding in damaged(store, lambda *_: None)} <= {
                "half-made, its process is gone"
            }
        found = store.find(KEY)
        assert found is None or found.digest() == expected.digest()
        assert make(root).digest() == expected.digest()
        assert damaged(store, lambda *_: None) == [] and not any((root / "work").glob("[!.]*"))
        shutil.rmtree(root)

    assert steps(lambda: make(root), check) > 30


def put(store, stage, **files):
    parts = {"stage": stage, **files}
    key = key_of(parts)
    with store.making(key) as work:
        for name, text in files.items():
            (work / "out" / name).write_text(text)
        return store.commit(work, stage=stage, key=key, parts=parts, seconds=0.0, memory=0, now="2026-01-01")


def test_what_is_handed_over_is_complete_after_the_next_build_wherever_the_last_one_died(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    before = {"one": put(store, "one", a="old", b="same", c="gone")}
    after = {"one": put(store, "one", a="new", b="same", d="added")}
    places = {"a": "a.txt", "b": "models/b.txt", "c": "engines/x/c.txt", "d": "engines/y/d.txt"}

    def wanted(entries):
        return {places[name]: Ref("one", name) for name in entries["one"].files}

    def hand_over(folder, entries):
        publish(folder, wanted(entries), entries)

    def content(folder):
        return {
            path.relative_to(folder).as_posix(): path.is_file() and path.read_text()
            for path in folder.rglob("*")
        }

    hand_over(tmp_path / "expected", after)
    out = tmp_path / "out"
    hand_over(out, before)

    def check():
        for path in out.rglob("*.txt"):
            assert path.read_text() in ("old", "new", "same", "gone", "added")
        json.loads((out / LIST_FILE).read_text())
        hand_over(out, after)
        assert content(out) == content(tmp_path / "expected")
        shutil.rmtree(out)
        hand_over(out, before)

    assert steps(lambda: hand_over(out, after), check) > 20


def test_what_a_killed_process_left_beside_a_file_is_removed_by_the_next_that_writes_it(tmp_path):
    path = tmp_path / "state.json"
    (tmp_path / ".state.json.999999999").write_text("half")
    (tmp_path / f".state.json.{os.getppid()}").write_text("another process is at it")
    write_whole(path, "whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == [f".state.json.{os.getppid()}", "state.json"]


def test_a_build_killed_again_and_again_ends_as_an_undisturbed_one(tiny_build, tmp_path):
    (tmp_path / "undisturbed").symlink_to(tiny_build)
    assert undisturbed(tmp_path / "undisturbed")["stages"]
    kills, ended = disturb_until(tmp_path, 3, seed=1)
    assert kills == 3 and ended >= 1


@pytest.mark.reliability
def test_builds_killed_two_hundred_times_end_as_undisturbed_ones(tiny_build, tmp_path):
    (tmp_path / "undisturbed").symlink_to(tiny_build)
    kills, _ = disturb_until(tmp_path, 200, seed=2)
    assert kills == 200
