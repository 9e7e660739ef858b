"""What a session with a device is made of, each part alone."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from targets.device.blobs import KEPT_DAYS, Blobs
from targets.device.children import Child
from targets.device.frames import pack_arrays, pieces, read_frame, unpack_arrays, write_frame
from targets.errors import ConfigError, DeviceError, LinkLost, ToolchainMissing, described, revived
from targets.remote.ssh import Host, failure, python_command

NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
WORD = "c'd"
BOARD = Host("board", "anna", 2222)


@settings(deadline=None)
@given(NAMES, st.none() | NAMES, st.none() | st.integers(1, 65535))
def test_an_address_is_read_as_it_is_written(name: str, user: str | None, port: int | None) -> None:
    host = Host(name, user, port)
    assert Host.parse(str(host)) == host


def test_an_address_of_ipv6() -> None:
    host = Host.parse("ssh://root@[fe80::1%usb0]:22")
    assert host.name == "fe80::1%usb0" and Host.parse(str(host)) == host


@pytest.mark.parametrize(
    "url",
    ["board", "ssh://", "ssh://-oProxyCommand=id", "ssh://a@-x", "ssh://a b", "ssh://a:0", "ssh://a:99999"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a device"):
        Host.parse(url)


def test_ssh_is_never_left_to_ask_and_never_told_to_trust() -> None:
    command = BOARD.command("true")
    assert "BatchMode=yes" in command and command[-3:] == ["--", "board", "true"]
    assert not any("StrictHostKeyChecking" in word or "UserKnownHostsFile" in word for word in command)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "tcsh", "zsh", "fish"])
def test_every_shell_passes_the_first_program_on(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    source = "import sys\nprint('!$HOME `id` \"\\'', sys.argv[1:])"
    command = python_command(Host("board", python=sys.executable), source, "a b", WORD)
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == f"!$HOME `id` \"' {['a b', WORD]}\n"


SAID = {
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.": "-R '[board]:",
    "No ED25519 host key is known for board\nHost key verification failed.": "not known",
    "anna@board: Permission denied (publickey,password).": "a password is needed",
    "Received disconnect from 10.0.0.1: 2: Too many authentication failures": "none of your keys",
    "ssh: Could not resolve hostname board: Name or service not known": "no host of that name",
    "ssh: connect to host board port 2222: Connection refused": "cannot be reached",
    "ssh: connect to host board port 2222: No route to host": "cannot be reached",
    "ssh: connect to host board port 2222: Connection timed out": "cannot be reached",
    "/home/anna/.ssh/config: line 1: Bad configuration option: hots": "ssh refuses its configuration",
    "client_loop: send disconnect: Broken pipe": "broke off",
    "Timeout, server board not responding.": "broke off",
}


@pytest.mark.parametrize("said", SAID)
def test_what_ssh_says_is_told_in_words(said: str) -> None:
    error = failure(BOARD, 255, said)
    assert isinstance(error, DeviceError)
    assert SAID[said] in str(error) and error.mend and "ssh://anna@board:2222" in str(error)
    assert isinstance(error, LinkLost) == ("broke off" in SAID[said] or "reached" in SAID[said])


def test_a_missing_python_is_a_missing_toolchain() -> None:
    assert isinstance(failure(BOARD, 127, "sh: 1: exec: python3: not found"), ToolchainMissing)


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text()), st.binary(max_size=2000), st.data())
def test_messages_arrive_whole_or_not_at_all(header: dict, payload: bytes, data: st.DataObject) -> None:
    stream = io.BytesIO()
    write_frame(stream, header, payload)
    whole = stream.getvalue()
    frame = read_frame(io.BytesIO(whole))
    assert frame is not None and (frame.header, frame.payload) == (header, payload)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert read_frame(io.BytesIO(whole[:cut])) is None


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ValueError, match="no message"):
        read_frame(io.BytesIO(b"Last login: Mon Nov 16 08:00:00 2026"))


@settings(deadline=None)
@given(st.binary(max_size=300_000))
def test_pieces_join_to_what_they_were_cut_from(content: bytes) -> None:
    assert b"".join(pieces(content)) == content


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.int8, np.uint8, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), ARRAYS, max_size=3))
def test_arrays_come_back_as_they_went(arrays: dict[str, np.ndarray]) -> None:
    found = unpack_arrays(pack_arrays(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_arrays_that_would_run_code_are_refused() -> None:
    stream = io.BytesIO(b'["x"]\n')
    stream.seek(0, io.SEEK_END)
    np.lib.format.write_array(stream, np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="only plain numbers"):
        unpack_arrays(stream.getvalue())


def test_errors_travel() -> None:
    error = DeviceError("what", where="where", mend="mend")
    found = revived(described(error))
    assert type(found) is DeviceError and str(found) == str(error)


# Commands on the device, and how they may end.


def child(tmp_path: Path, source: str, progress: list[object] | None = None) -> Child:
    program = tmp_path / "program.py"
    program.write_text(source)
    told = [] if progress is None else progress
    return Child(str(program), ["build"], tmp_path, lambda *what: told.append(what))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ran out of memory during build"),
        ("import os; os.kill(os.getpid(), 11)", "build died of SIGSEGV"),
        ("import sys; sys.stderr.write('out of luck\\n'); sys.exit(4)", "code 4.*\n.*out of luck"),
    ],
)
def test_a_command_that_dies_is_told_in_words(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        child(tmp_path, source).finish(60.0)


def test_a_command_tells_its_progress_and_its_result(tmp_path: Path) -> None:
    told: list[object] = []
    source = "import sys; sys.stderr.write('progress [\"timing\", 0.5]\\n'); print('{\"answer\": 1}')"
    assert child(tmp_path, source, told).finish(60.0) == {"answer": 1}
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told == [("timing", 0.5)]


# Files kept on the device.


def test_room_is_made_by_what_was_used_longest_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path / "blobs")
    for age, name in enumerate(["newest", "older", "oldest"]):
        (blobs.folder / name).write_bytes(b"x")
        os.utime(blobs.folder / name, (time.time() - age * 3600,) * 2)
    room = {3: 0, 2: 20 << 20, 1: 40 << 20}
    monkeypatch.setattr(Blobs, "_free", lambda self: room.get(len([*self.folder.glob("[no]*")]), 80 << 20))
    with blobs.receiving("f" * 64, 10 << 20):
        pass
    assert (blobs.folder / "newest").exists() and not (blobs.folder / "oldest").exists()


def test_what_nobody_used_for_long_is_forgotten(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    for days, name in ((1, "fresh"), (KEPT_DAYS + 1, "stale"), (KEPT_DAYS + 1, "half.part")):
        (blobs.folder / name).write_bytes(b"x")
        os.utime(blobs.folder / name, (time.time() - days * 86400,) * 2)
    blobs.forget_old()
    assert [path.name for path in blobs.folder.iterdir()] == ["fresh"]
