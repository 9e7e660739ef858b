"""Disks that are full, read-only, slow or gone; many builds on one store; clocks that jump."""

import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import pipeline.run
from pipeline.housekeeping import damaged, unneeded
from pipeline.run import Listener, Run
from pipeline.stage import Ref, Stage
from pipeline.store import Store
from tests.reliability.crash import PATIENCE_S, STORE, kept_clean, whole
from tests.reliability.tiny import digests, start, write_build

FAULTS = Path(__file__).parent / "faults"
FUNCTIONS = Path(__file__).parents[1] / "pipeline"
BUILD = f"{sys.executable} -m pipeline.cli build"
# A mount of one's own needs no root where namespaces of users are allowed.
APART = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]


def apart(script):
    """Run a shell script where it may mount; skip where the system does not allow that."""
    if subprocess.run([*APART, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mounts without root")
    return subprocess.run([*APART, script], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def leftovers_alone(store):
    return {each.what for each in damaged(Store(store), lambda *_: None)} <= {
        "half-made, its process is gone"
    }


def test_a_full_disk_is_named_and_the_build_goes_on_when_there_is_room(tmp_path):
    write_build(tmp_path / "disk")
    shutil.copytree(tmp_path / "disk", tmp_path / "files")
    ended = apart(
        f"cd {tmp_path}; mount -t tmpfs -o size=64k none disk; cp files/* disk;"
        f"{BUILD} disk/build.toml || echo ended with $? >&2; mount -o remount,size=64m disk;"
        f"{sys.executable} -m pipeline.cli store verify disk/build.toml --remove"
    )
    assert "the disk is full" in ended.stderr and "ended with 2" in ended.stderr, ended
    assert "Traceback" not in ended.stderr and "damaged" not in ended.stdout, ended
    assert ended.returncode == 0


def test_a_store_that_is_read_only_is_named_and_can_still_be_asked(tiny_build, tmp_path):
    script = (
        f"mount --bind {tiny_build} {tmp_path}; mount -o remount,ro,bind {tmp_path}; cd {tmp_path};"
        f"{sys.executable} -m pipeline.cli explain build.toml; {BUILD} build.toml || echo ended with $? >&2"
    )
    ended = apart(script)
    assert "the file system is read-only" in ended.stderr and "ended with 2" in ended.stderr, ended
    assert "reuse" in ended.stdout and "Traceback" not in ended.stderr


def test_a_limit_on_the_size_of_files_is_named(tmp_path):
    build = write_build(tmp_path)
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; exec {BUILD} {build}"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "larger than a limit allows" in ended.stderr, ended
    assert leftovers_alone(tmp_path / STORE)


def vanishing(folder, operations):
    """A build whose store is gone after so many operations of one process; what it ended with and said."""
    build = write_build(folder)
    store = folder / "disk" / "store"
    text = build.read_text().replace('version = "1.0.0"', f'version = "1.0.0"\nstore = "{store}"')
    build.write_text(text)
    (folder / "disk").mkdir(exist_ok=True)
    paths = os.pathsep.join(filter(None, (str(FAULTS), os.environ.get("PYTHONPATH"))))
    process = start(build, PYTHONPATH=paths, FAULT=f"vanish|{folder / 'disk'}|{operations}")
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said, store


@pytest.mark.parametrize("operations", [15, 40])
def test_a_store_that_vanishes_is_said_to_be_gone_and_is_whole_when_it_is_back(tmp_path, operations):
    code, said, store = vanishing(tmp_path, operations)
    assert code == 2 and "gone" in said and "Traceback" not in said, said
    # Nothing is written to the place where it was.
    assert not (tmp_path / "disk").exists()
    (tmp_path / "disk.gone").rename(tmp_path / "disk")
    if store.exists():
        assert leftovers_alone(store)


@pytest.mark.reliability
@pytest.mark.parametrize("operations", [80, 150, 300, 600])
def test_a_build_ends_when_its_store_is_back(tiny_build, tmp_path, operations):
    code, said, store = vanishing(tmp_path, operations)
    if code:
        assert "gone" in said and "Traceback" not in said, said
        (tmp_path / "disk.gone").rename(tmp_path / "disk")
        assert start(tmp_path / "build.toml").wait(PATIENCE_S) == 0
    assert digests(store) == digests(tiny_build / STORE)


@pytest.mark.reliability
@pytest.mark.parametrize("room", ["96k", "128k", "160k", "192k", "256k", "384k", "512k", "768k"])
def test_a_build_ends_when_there_is_room_again(tiny_build, tmp_path, room):
    write_build(tmp_path / "disk")
    shutil.copytree(tmp_path / "disk", tmp_path / "files")
    ended = apart(
        f"cd {tmp_path}; mount -t tmpfs -o size={room} none disk; cp files/* disk;"
        f"{BUILD} disk/build.toml || echo ended with $? >&2; mount -o remount,size=64m disk;"
        f"{BUILD} disk/build.toml; cp -r disk result"
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended
    assert "the disk is full" in ended.stderr or "ended with" not in ended.stderr, ended
    assert whole(tmp_path / "result") == whole(tiny_build)


@pytest.mark.reliability
def test_a_slow_store_changes_nothing(tiny_build, tmp_path):
    build = write_build(tmp_path)
    paths = os.pathsep.join(filter(None, (str(FAULTS), os.environ.get("PYTHONPATH"))))
    process = start(build, PYTHONPATH=paths, FAULT=f"slow|{tmp_path / STORE}|0.02")
    said, _ = process.communicate(timeout=3 * PATIENCE_S)
    assert process.returncode == 0, said
    assert whole(tmp_path) == whole(tiny_build)


@pytest.mark.reliability
@pytest.mark.parametrize("count", [2, 4, 8])
def test_builds_that_share_a_store_do_the_work_once(tiny_build, tmp_path, count):
    store = tmp_path / "store"
    builds = [start(write_build(tmp_path / f"{number}", store)) for number in range(count)]
    said = [build.communicate(timeout=3 * PATIENCE_S)[0] for build in builds]
    assert [build.returncode for build in builds] == [0] * count, said
    assert digests(store) == digests(tiny_build / STORE)
    assert kept_clean(tmp_path / "0") == []


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store
store = Store(Path({root!r}, "store"))
store.prepare()
folder = Path({root!r}, {build!r})
folder.mkdir()
settings = {{"marks": {root!r} + "/marks", "seconds": 0.3}}
stages = [Stage(str(n), "stage_functions:count_runs", settings=settings | {{"n": n}}) for n in range(2)]
Run(store, folder, folder / "debris", Path({here!r}), Listener()).run(stages)
"""


def test_six_builds_at_once_do_the_work_once(tmp_path):
    texts = [
        SCRIPT.format(here=str(FUNCTIONS), root=str(tmp_path), build=f"build-{number}") for number in range(6)
    ]
    builds = [subprocess.Popen([sys.executable, "-c", text]) for text in texts]
    assert [build.wait(PATIENCE_S) for build in builds] == [0] * 6
    assert (tmp_path / "marks").read_text() == "xx"
    assert damaged(Store(tmp_path / "store"), lambda *_: None) == []


class Jumping(datetime):
    """A clock that somebody sets, or that starts at 1970 on a board without a battery."""

    moments = (timedelta(0), timedelta(days=-20000), timedelta(days=30000))
    asked = 0

    @classmethod
    def now(cls, _=None):
        cls.asked += 1
        return datetime(2026, 1, 1, tzinfo=timezone.utc) + cls.moments[cls.asked % 3]


def test_a_clock_that_jumps_changes_neither_what_runs_nor_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.run, "datetime", Jumping)
    monkeypatch.syspath_prepend(str(FUNCTIONS))
    store = Store(tmp_path / "store")
    store.prepare()
    stages = [
        Stage("number", "stage_functions:write_number", settings={"number": 1}),
        Stage("sum", "stage_functions:add_one", inputs={"number": Ref("number", "number.txt")}),
    ]

    def run():
        (tmp_path / "build").mkdir(exist_ok=True)
        made = Run(store, tmp_path / "build", tmp_path / "debris", FUNCTIONS, Listener())
        made.run(stages)
        return made

    first = run()
    assert first.ran == ["number", "sum"]
    for moment in (0, 2**31, 4_000_000_000):
        for path in (tmp_path / "store").rglob("*"):
            os.utime(path, (moment, moment))
        again = run()
        assert again.ran == [] and damaged(store, lambda *_: None) == []
        assert unneeded(store, list(again.entries.values())) == []
