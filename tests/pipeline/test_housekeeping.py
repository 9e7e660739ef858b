"""A store is looked through and cleaned; nothing that is used or being made is touched."""

import json
import shutil

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.housekeeping import damaged, unneeded
from pipeline.store import Store, key_of
from targets.errors import StoreError


def silent(what, done, total):
    del what, done, total


def put(store, stage):
    parts = {"stage": stage}
    key = key_of(parts)
    with store.making(key) as work:
        (work / "out" / "a.bin").write_bytes(b"x" * 100)
        store.commit(work, stage=stage, key=key, parts=parts, seconds=0.0, memory=0, now="2026-01-01")
    return store.find(key)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def flipped(entry):
    (entry.out / "a.bin").write_bytes(b"y" * 100)


def added(entry):
    (entry.out / "b.bin").write_bytes(b"")


def shortened(entry):
    (entry.out / "a.bin").write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "words"), [(flipped, "a.bin"), (added, "b.bin"), (shortened, "size is wrong")]
)
def test_every_change_is_found_and_nothing_else(store, spoil, words):
    spoil(put(store, "one"))
    put(store, "two")
    (finding,) = damaged(store, silent)
    assert words in finding.what and finding.size_bytes > 0
    finding.remove()
    assert damaged(store, silent) == []


def test_what_is_being_made_is_left_alone_and_what_was_left_half_made_is_found(store):
    entry = put(store, "one")
    with store.making(key_of({"stage": "now"})):
        assert unneeded(store, [entry]) == []
    (store.root / "work" / "abcd" / "out").mkdir(parents=True)
    (finding,) = unneeded(store, [entry])
    assert "its process is gone" in finding.what


def test_outputs_no_build_uses_are_named(store):
    entry, other = put(store, "one"), put(store, "two")
    (finding,) = unneeded(store, [entry])
    assert finding.folder == other.folder and finding.what.startswith("two, made 2026-01-01")


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no store"):
        damaged(Store(tmp_path), silent)


def test_the_verbs_on_a_real_build(small_build, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(small_build, project)

    def call(*arguments):
        return CliRunner().invoke(main, ["store", *arguments], catch_exceptions=False)

    build = str(project / "build.toml")
    assert "what it was when it was made" in call("verify", build).stdout
    assert call("gc", build).exit_code == 0
    victim = next((project / ".edgewright/store/objects").glob("*/*/out/weights.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    refused = call("verify", build, "--json")
    (found,) = json.loads(refused.stdout)["found"]
    assert refused.exit_code == 1 and "weights.safetensors" in found["what"]
    assert call("verify", build, "--remove").exit_code == 0 and call("verify", build).exit_code == 0
