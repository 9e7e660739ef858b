"""The second signature of a bundle: good for minisign alone, and as strictly verified as the first."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from release_builds import TARGETS, tiny_build

from pipeline.cli import main
from pipeline.release.archives import write_tar_gz
from pipeline.release.keys import new_key, read_secret_key
from pipeline.release.make import Order, release_build
from targets.bundle.minisign import is_minisignature, minisignature
from targets.bundle.verify import unpack, verify
from targets.errors import BundleError, ConfigError

SIGNATURE = "manifest.json.minisig"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return new_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tiny_build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def original(build, keys, tmp_path_factory):
    order = Order(Path("build.toml"), tmp_path_factory.mktemp("out"), key=keys[0])
    return release_build(build, [build.target(TARGETS[0])], [], order)[0].forms[0]


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original, tmp_path / original.name)


needs_minisign = pytest.mark.skipif(
    shutil.which("minisign") is None, reason="minisign is not on this machine"
)


@needs_minisign
def test_the_command_in_the_readme_is_good_for_minisign_alone(bundle, keys):
    command = next(
        line for line in (bundle / "README.md").read_text().splitlines() if line.startswith("minisign -V")
    )
    shown = CliRunner().invoke(main, ["keys", "show", str(keys[1])]).output
    assert command.rpartition(" ")[2] in shown and shown.startswith("fingerprint ")
    for more in ("", " -H"):
        done = subprocess.run(
            command + more, shell=True, cwd=bundle, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and f"Trusted comment: {bundle.name}" in done.stdout, done.stderr
    (bundle / "manifest.json").write_bytes((bundle / "manifest.json").read_bytes() + b"\n")
    assert subprocess.run(command, shell=True, cwd=bundle, capture_output=True, check=False).returncode != 0


def test_it_is_the_same_every_time_and_the_keys_alone(keys, tmp_path):
    secret = read_secret_key(keys[0])
    public = secret.public_key().public_bytes_raw()
    text = minisignature(b"content", public, "a comment", secret.sign).encode()
    assert text == minisignature(b"content", public, "a comment", secret.sign).encode()
    assert is_minisignature(text, b"content", public, "a comment")
    stranger = read_secret_key(new_key(tmp_path / "other")[0]).public_key().public_bytes_raw()
    assert not is_minisignature(text, b"content!", public, "a comment")
    assert not is_minisignature(text, b"content", public, "another comment")
    assert not is_minisignature(text, b"content", stranger, "a comment")
    for place in range(0, len(text), 7):
        changed = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
        assert not is_minisignature(changed, b"content", public, "a comment")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / SIGNATURE).unlink(), f"{SIGNATURE} (is missing|should be)"),
        (lambda folder: (folder / SIGNATURE).write_text("good\n"), f"{SIGNATURE} was changed"),
    ],
)
def test_one_that_was_changed_or_is_missing_is_refused_in_every_form(bundle, build, keys, change, words):
    archive = bundle.with_suffix(".tar.gz")
    write_tar_gz(bundle, archive, bundle.name, build.finished)
    unpack(archive, keys[1], bundle.with_name("good"))
    assert (bundle.with_name("good") / SIGNATURE).read_bytes() == (bundle / SIGNATURE).read_bytes()
    change(bundle)
    write_tar_gz(bundle, archive, bundle.name, build.finished)
    for form in (bundle, archive):
        with pytest.raises(BundleError, match=words):
            verify(form, keys[1])


def test_one_that_the_manifest_does_not_speak_of_was_added(bundle, keys):
    document = json.loads((bundle / "manifest.json").read_text())
    del document["key"]["minisign"]
    content = json.dumps(document).encode()
    (bundle / "manifest.json").write_bytes(content)
    (bundle / "manifest.json.sig").write_bytes(read_secret_key(keys[0]).sign(content))
    with pytest.raises(BundleError, match=f"{SIGNATURE} was added"):
        verify(bundle, keys[1])
    (bundle / SIGNATURE).unlink()
    assert verify(bundle, keys[1]).name == bundle.name


def test_a_new_key_may_be_named_by_either_of_its_files(tmp_path):
    expected = (tmp_path / "release.key", tmp_path / "release.pub")
    assert new_key(tmp_path / "release.key") == expected
    with pytest.raises(ConfigError, match="there is a key already"):
        new_key(tmp_path / "release.pub")
