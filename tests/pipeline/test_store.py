"""The store: all or nothing, whoever dies and whoever else is there."""

import json
import os
import threading
from pathlib import Path

import pytest

from pipeline.store import Store, key_of
from targets.errors import StoreError

PARTS = {"stage": "a:b", "settings": {"x": 1}}
KEY = key_of(PARTS)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def commit(store, work, text="hello"):
    (work / "out" / "folder").mkdir()
    (work / "out" / "folder" / "a.txt").write_text(text)
    (work / "out" / "b.txt").write_text(text)
    return store.commit(
        work, stage="s", key=KEY, parts=PARTS, seconds=1.0, memory=2, now="2026-01-01T00:00:00+00:00"
    )


def test_what_was_committed_is_found_with_its_contents(store):
    with store.making(KEY) as work:
        made = commit(store, work)
    found = store.find(KEY)
    assert found == made
    assert (found.out / "folder" / "a.txt").read_text() == "hello"
    assert list((store.root / "work").iterdir()) == []


def test_nothing_is_found_of_work_that_was_given_up(store):
    with pytest.raises(ZeroDivisionError), store.making(KEY) as work:
        (work / "out" / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert store.find(KEY) is None


def test_leftovers_of_a_killed_process_are_not_part_of_the_next_output(store):
    leftover = store.root / "work" / KEY / "out"
    leftover.mkdir(parents=True)
    (leftover / "stale.txt").write_text("stale")
    with store.making(KEY) as work:
        entry = commit(store, work)
    assert sorted(entry.files) == ["b.txt", "folder/a.txt"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "entry"])
def test_a_damaged_entry_is_not_found_and_can_be_made_again(store, damage):
    with store.making(KEY) as work:
        entry = commit(store, work)
    if damage == "truncate":
        (entry.out / "b.txt").write_text("h")
    elif damage == "remove":
        (entry.out / "b.txt").unlink()
    else:
        (entry.folder / "entry.json").write_text('{"schema"')
    assert store.find(KEY) is None
    with store.making(KEY) as work:
        commit(store, work)
    assert store.find(KEY) is not None


def test_an_artefacts_digest_tells_contents_and_names_but_not_dates(store, tmp_path):
    with store.making(KEY) as work:
        first = commit(store, work)
    other = Store(tmp_path / "other")
    other.prepare()
    with other.making(KEY) as work:
        second = commit(other, work)
    os.utime(second.out / "b.txt", (0, 0))
    assert first.digest("folder") == second.digest("folder")
    assert first.digest("folder") != first.digest("b.txt")
    with pytest.raises(KeyError):
        first.digest("fold")


def test_one_key_is_made_by_one_at_a_time(store):
    held, waited = threading.Event(), []

    def hold():
        with store.making(KEY) as work:
            held.set()
            waiting.wait(10)
            commit(store, work)

    waiting = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)

    def note():
        waited.append(True)
        waiting.set()

    with store.making(KEY, note):
        assert store.find(KEY) is not None
    other.join()
    assert waited == [True]


def test_the_key_changes_with_every_part_and_not_with_their_order():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 1, "b": 3})


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "store").prepare()
    assert "file is where a folder should be" in caught.value.what
    assert str(tmp_path / "store") in caught.value.where


def test_a_store_that_cannot_be_written_is_named():
    # /proc refuses new folders even to root.
    with pytest.raises((StoreError, FileNotFoundError)):
        Store(Path("/proc/nowhere")).prepare()


def test_entries_are_plain_json(store):
    with store.making(KEY) as work:
        entry = commit(store, work)
    document = json.loads((entry.folder / "entry.json").read_text())
    assert document["parts"] == PARTS and document["stage"] == "s"
