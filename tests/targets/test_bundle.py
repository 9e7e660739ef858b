"""Strict verification: whatever was done to a bundle on its way is found, named, and nothing is unpacked."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.release.archives import write_tar_gz, write_zip
from pipeline.release.keys import new_key, read_secret_key
from targets.bundle.ed25519 import ORDER
from targets.bundle.ed25519 import verify as verify_signature
from targets.bundle.keys import read_public_key
from targets.bundle.verify import unpack, verify
from targets.errors import BundleError, ConfigError

NAME = "sorter-1.0.0-board"
FILES = {
    "engines/a/model.bin": b"engine" * 400,
    "golden/input.npy": b"\x93NUMPY",
    "run.sh": b"#!/bin/sh\n",
    "b.txt": b"b\n",
    "c.txt": b"c\n",
}
DATE = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return new_key(folder / "mine"), new_key(folder / "other")


@pytest.fixture(scope="module")
def key(keys):
    return keys[0][1]


@pytest.fixture
def folder(tmp_path, keys):
    return write_folder(tmp_path / NAME, keys[0][0])


def write_folder(folder: Path, secret: Path, changes=None) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    sign(folder, secret, manifest() | (changes or {}))
    return folder


def manifest():
    entries = [
        {
            "path": name,
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "executable": name.endswith(".sh"),
        }
        for name, content in sorted(FILES.items())
    ]
    return {"schema": "edgewright.manifest/1", "bundle": NAME, "files": entries}


def sign(folder: Path, secret: Path, document) -> None:
    signing = read_secret_key(secret)
    raw = signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    document = document | {"key": {"fingerprint": hashlib.sha256(raw).hexdigest()}}
    content = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.json.sig").write_bytes(signing.sign(content))


def refused(bundle: Path, key: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words) as error:
        verify(bundle, key)
    assert error.value.exit_code == 1
    if bundle.is_file():
        out = bundle.parent / "unpacked"
        with pytest.raises(BundleError):
            unpack(bundle, key, out)
        assert not out.exists() and not list(bundle.parent.glob(".unpacked*"))


def test_a_bundle_as_it_was_made_is_good(folder, key):
    assert verify(folder, key).files.keys() == FILES.keys()
    assert verify(folder, None).signed is False


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def move_and_link(path: Path) -> None:
    path.rename(path.parent.parent / "moved")
    path.symlink_to("../moved")


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


SINCE = "changed since it was signed"
TAMPERED = {
    "changed": (lambda f: (f / "b.txt").write_bytes(b"B\n"), "b.txt was changed"),
    "longer": (lambda f: append(f / "b.txt", b"\n"), "b.txt has 3 bytes, not 2"),
    "missing": (lambda f: (f / "b.txt").unlink(), "b.txt is missing"),
    "added": (lambda f: (f / "golden/x").write_bytes(b""), "golden/x was added"),
    "hidden": (lambda f: (f / ".x").write_bytes(b""), ".x was added"),
    "renamed": (lambda f: (f / "b.txt").rename(f / "d.txt"), "b.txt was renamed to d.txt"),
    "swapped": (lambda f: swap(f / "b.txt", f / "c.txt"), "b.txt was changed; c.txt was changed"),
    "manifest": (lambda f: append(f / "manifest.json", b" "), SINCE),
    "signature": (lambda f: (f / "manifest.json.sig").write_bytes(bytes(64)), SINCE),
    "short signature": (lambda f: (f / "manifest.json.sig").write_bytes(bytes(63)), SINCE),
    "no signature": (lambda f: (f / "manifest.json.sig").unlink(), "not signed"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "no manifest"),
}
# What a writer of archives does not even take in.
FOLDERS_ONLY = {
    "strange name": (lambda f: (f / "a\nb\udcff").write_bytes(b""), r"'a\\nb\\udcff' was added"),
    "deep folders": (lambda f: (f / "/".join("d" * 900)).mkdir(parents=True), "the folder d was added"),
    "folder added": (lambda f: (f / "empty").mkdir(), "the folder empty was added"),
    "link": (lambda f: relink(f / "b.txt", "c.txt"), "b.txt is a link"),
    "link outside": (lambda f: relink(f / "b.txt", "/etc/hostname"), "b.txt is a link"),
    "folder linked": (lambda f: move_and_link(f / "golden"), "golden is a link"),
    "pipe": (lambda f: pipe(f / "b.txt"), "b.txt is a pipe"),
    "manifest linked": (lambda f: move_and_link(f / "manifest.json"), "manifest.json is a link"),
}


@pytest.mark.parametrize("case", [*TAMPERED, *FOLDERS_ONLY])
def test_a_folder_that_was_tampered_with_is_refused_and_it_says_which(folder, key, case):
    change, words = (TAMPERED | FOLDERS_ONLY)[case]
    change(folder)
    refused(folder, key, words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_node_is_refused(folder, key):
    (folder / "b.txt").unlink()
    os.mknod(folder / "b.txt", 0o666 | 0o020000, os.makedev(1, 5))
    refused(folder, key, "b.txt is a device node")


def test_the_wrong_key_is_refused_and_both_are_named(folder, keys):
    refused(folder, keys[1][1], "wrong key: it says it was signed by")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/x",
        "a/../../x",
        "a//x",
        "a\\x",
        "a\nx",
        "",
        ".",
        "..",
        "-rf",
        "a" * 201,
        "ä",
        "manifest.json",
    ],
)
def test_a_manifest_whose_paths_leave_the_folder_is_refused_even_if_signed(tmp_path, keys, path):
    document = manifest()
    document["files"][0]["path"] = path
    write_folder(tmp_path / NAME, keys[0][0], document)
    refused(tmp_path / NAME, keys[0][1], "manifest names|is no content")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "edgewright.manifest/9"},
        {"files": None},
        {"files": [{"path": "a"}]},
        {"files": [manifest()["files"][0] | {"size_bytes": -1}]},
        {"files": [manifest()["files"][0] | {"sha256": "0"}]},
        {"files": manifest()["files"] * 2},
        {"files": [*manifest()["files"], manifest()["files"][0] | {"path": "B.TXT"}]},
        {"files": [*manifest()["files"], manifest()["files"][0] | {"path": "b.txt/x"}]},
        {"bundle": "../x"},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_even_if_signed(tmp_path, keys, change):
    write_folder(tmp_path / NAME, keys[0][0], change)
    refused(tmp_path / NAME, keys[0][1], "manifest")


def archive(folder: Path, form: str) -> Path:
    path = folder.with_name(f"bundle.{form}")
    {"tar.gz": write_tar_gz, "zip": write_zip}[form](folder, path, NAME, DATE)
    return path


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_archives_verify_and_unpack_to_what_was_packed(folder, key, form, tmp_path):
    packed = archive(folder, form)
    assert verify(packed, key).signed
    unpack(packed, key, tmp_path / "out")
    for name, content in FILES.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    assert (tmp_path / "out" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert verify(tmp_path / "out", key).signed
    with pytest.raises(BundleError, match="something already"):
        unpack(packed, key, tmp_path / "out")
    with pytest.raises(BundleError, match="key"):
        verify(packed, None)


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
@pytest.mark.parametrize("case", TAMPERED)
def test_archives_of_a_tampered_folder_are_refused(folder, key, form, case):
    TAMPERED[case][0](folder)
    refused(archive(folder, form), key, ".")


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_archives_cut_short_anywhere_are_refused(folder, key, form):
    packed = archive(folder, form)
    content = packed.read_bytes()
    for end in [*range(5, len(content) - 1, len(content) // 25), len(content) - 1]:
        packed.write_bytes(content[:end])
        refused(packed, key, ".")


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_archives_with_any_byte_changed_never_unpack_to_something_else(tmp_path_factory, keys, form, data):
    base = tmp_path_factory.mktemp("flip")
    packed = archive(write_folder(base / NAME, keys[0][0]), form)
    content = bytearray(packed.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    packed.write_bytes(bytes(content))
    try:
        unpack(packed, keys[0][1], base / "out")
    except BundleError:
        assert not (base / "out").exists()
    else:
        assert {name: (base / "out" / name).read_bytes() for name in FILES} == FILES


def rewritten_tar(packed: Path, change) -> Path:
    """The same .tar.gz after `change` had its list of (header, content)."""
    with tarfile.open(packed) as source:
        found = [(info, source.extractfile(info).read()) for info in source.getmembers()]
    with (
        gzip.open(packed, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as out,
    ):
        for info, content in change(found):
            out.addfile(info, io.BytesIO(content))
    return packed


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (special(f"{NAME}/b.txt", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (special(f"{NAME}/b.txt", tarfile.LNKTYPE, f"{NAME}/c.txt"), "is a hard link"),
        (special(f"{NAME}/dev", tarfile.CHRTYPE), "is a device node"),
        (special(f"{NAME}/dev", tarfile.BLKTYPE), "is a device node"),
        (special(f"{NAME}/pipe", tarfile.FIFOTYPE), "is a pipe"),
        (special(f"{NAME}/more", tarfile.DIRTYPE), "is a folder"),
        (special("../outside", tarfile.REGTYPE), "not in the manifest"),
        (special("/etc/outside", tarfile.REGTYPE), "not in the manifest"),
        (special(f"{NAME}/../../outside", tarfile.REGTYPE), "not in the manifest"),
        (special("other/b.txt", tarfile.REGTYPE), "not in the manifest"),
        (special("x" * 300, tarfile.XHDTYPE), "no regular file"),
    ],
)
def test_what_is_no_regular_file_of_the_bundle_is_refused_in_tar(folder, key, entry, words):
    entry[0].name = entry[0].name[:90]
    packed = rewritten_tar(archive(folder, "tar.gz"), lambda found: [*found[:2], entry, *found[2:]])
    refused(packed, key, words)


def test_members_in_the_wrong_place_or_twice_are_refused(folder, key):
    packed = archive(folder, "tar.gz")
    content = packed.read_bytes()
    for change in (
        lambda found: [*found[2:], *found[:2]],
        lambda found: [found[1], found[0], *found[2:]],
        lambda found: [*found, found[-1]],
        lambda found: found[1:],
        lambda found: found[:1],
        lambda _: [],
    ):
        packed.write_bytes(content)
        refused(rewritten_tar(packed, change), key, ".")


def test_what_lies_behind_the_end_is_refused(folder, key):
    packed = archive(folder, "tar.gz")
    content = gzip.decompress(packed.read_bytes())
    for extra in (b"x", bytes(1 << 20), b"\0" * 512 + b"x" * 512):
        packed.write_bytes(gzip.compress(content + extra))
        refused(packed, key, "end")


def test_bombs_are_refused_without_being_blown_up(folder, key):
    """A member that claims and holds more than the manifest says, 256 MiB from 256 KiB."""
    import resource

    big = tarfile.TarInfo(f"{NAME}/b.txt")
    big.size = 1 << 28
    head = gzip.decompress(archive(folder, "tar.gz").read_bytes())
    packed = folder.with_name("bomb.tar.gz")
    with gzip.open(packed, "wb", compresslevel=1) as stream:
        start = head.index(b"b.txt") - len(NAME) - 1
        with tarfile.open(fileobj=io.BytesIO(head)) as source:
            stream.write(head[: source.getmembers()[2].offset])
        stream.write(big.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(256):
            stream.write(bytes(1 << 20))
    assert start > 0 and packed.stat().st_size < 1 << 22
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(packed, key, "b.txt has 268435456 bytes, not 2")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def rewritten_zip(packed: Path, change) -> Path:
    with zipfile.ZipFile(packed) as source:
        found = [(info, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(packed, "w") as out:
        for info, content in change(found):
            out.writestr(info, content)
    return packed


def zip_entry(name: str, mode: int) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info, b"/etc/passwd"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (zip_entry(f"{NAME}/b.txt", 0o120777), "is a link"),
        (zip_entry(f"{NAME}/dev", 0o020666), "no regular file"),
        (zip_entry(f"{NAME}/more/", 0o040755), "no regular file"),
        (zip_entry("../outside", 0o100644), "not in the manifest"),
        (zip_entry("/etc/outside", 0o100644), "not in the manifest"),
    ],
)
def test_what_is_no_regular_file_of_the_bundle_is_refused_in_zip(folder, key, entry, words):
    packed = rewritten_zip(archive(folder, "zip"), lambda found: [*found[:2], entry, *found[2:]])
    refused(packed, key, words)


def test_zip_bombs_and_strangers_are_refused(folder, key, tmp_path):
    def bomb(found):
        info = zipfile.ZipInfo(f"{NAME}/b.txt")
        info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o100644 << 16, 3
        return [*found[:2], (info, bytes(1 << 26))]

    refused(rewritten_zip(archive(folder, "zip"), bomb), key, "has 67108864 bytes, not 2")
    for content in (b"", b"PK\x03\x04", b"\x1f\x8b", b"hello", b"PK\x05\x06" + bytes(18)):
        stranger = tmp_path / "stranger"
        stranger.write_bytes(content)
        refused(stranger, key, ".")
    refused(tmp_path / "nothing", key, "does not exist")


@pytest.mark.parametrize(("which", "mode"), [(0, 0o640), (0, 0o604), (0, 0o660), (1, 0o664), (1, 0o646)])
def test_key_files_that_others_can_reach_are_refused(tmp_path, which, mode):
    files = new_key(tmp_path / "k")
    assert files[0].stat().st_mode & 0o777 == 0o600
    files[which].chmod(mode)
    with pytest.raises(BundleError, match="open") as error:
        (read_secret_key, read_public_key)[which](files[which])
    assert error.value.exit_code == 1 and "chmod" in str(error.value)


def test_keys_are_never_overwritten_and_other_files_are_no_keys(tmp_path):
    secret, public = new_key(tmp_path / "k")
    with pytest.raises(ConfigError, match="a key already"):
        new_key(tmp_path / "k")
    with pytest.raises(BundleError, match="not an Ed25519 public key"):
        read_public_key(secret)
    with pytest.raises(BundleError, match="not a secret key"):
        public.chmod(0o600)
        read_secret_key(public)
    with pytest.raises(BundleError, match="cannot be read"):
        read_public_key(tmp_path / "none")


@settings(max_examples=25, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_signatures_of_cryptography_verify_and_no_others(secret, message, bit):
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert verify_signature(public, message, signature)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not verify_signature(public, message, bytes(flipped))
    assert not verify_signature(public, message + b"x", signature)
    # Malleable: S + L signs the same in arithmetic, and must not pass (RFC 8032, section 5.1.7).
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify_signature(public, message, signature[:32] + scalar.to_bytes(32, "little"))


def test_signatures_of_rfc_8032_verify():
    """Section 7.1, TEST 2."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert verify_signature(public, b"\x72", signature)
    assert not verify_signature(b"\xff" * 32, b"\x72", signature)
    assert not verify_signature(public[:31], b"\x72", signature)


def test_the_verbs_exit_with_1_and_say_which_file(folder, key):
    """Both commands: the build machine's and the device's."""
    from targets.zipapp import device_zipapp

    program = folder.with_name("edgewright-device.pyz")
    program.write_bytes(device_zipapp())
    (folder / "c.txt").write_bytes(b"x\n")
    for command in (["-m", "pipeline.cli", "verify"], ["-I", str(program), "verify"]):
        done = subprocess.run(
            [sys.executable, *command, str(folder), "--key", str(key)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and "c.txt was changed" in done.stderr, done.stderr
    shutil.rmtree(folder)
