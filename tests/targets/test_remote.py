"""Devices over SSH, against a real OpenSSH server on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from small_graphs import CASES, conv_relu
from ssh_server import WHY_NOT, Link, Server, make_key

from pipeline.cli import main
from targets.errors import DeviceBusy, DeviceError, LinkLost, ModelError, ToolchainMissing
from targets.remote.connection import Patience
from targets.remote.device import Device
from targets.remote.ssh import Host
from targets.remote.toolchain import RemoteToolchain
from targets.timing import MeasureSettings
from targets.toolchain import Engine, EngineOptions, load_toolchain
from targets.zipapp import device_zipapp

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

ROOT = Path(__file__).parents[2]
QUICK = MeasureSettings(warmup_min_s=0.01, min_samples=8, min_s=0.01, resamples=10)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server.start(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("EDGEWRIGHT_SSH", running.ssh_command())
    running.trust("host")
    yield running
    assert eventually(lambda: not running.left_over()), running.left_over()


@pytest.fixture
def device(server: Server) -> Iterator[Device]:
    found = Device(Host.parse(server.url(), sys.executable))
    yield found
    found.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(conv_relu(), path)
    return path


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def compiled(toolchain: RemoteToolchain, model: Path, folder: Path) -> Engine:
    folder.mkdir()
    return toolchain.compile(model, "any-onnxruntime", EngineOptions(), folder)


def big_file(path: Path, size: int = 3_000_000) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return path


def test_a_device_does_what_this_machine_does(device: Device, model: Path, tmp_path: Path) -> None:
    here, there = load_toolchain("onnxruntime"), RemoteToolchain("onnxruntime", device)
    assert there.probe() == here.probe()
    assert there.fingerprint() == here.fingerprint()
    engine = compiled(there, model, tmp_path / "engine")
    assert not list(engine.folder.glob(".*"))

    x = np.random.default_rng(0).normal(size=(40, 3, 12, 12)).astype(np.float32)
    runner, own = there.open(engine), here.open(engine)
    found = runner.infer({"x": x})["y"]
    expected = np.concatenate([own.infer({"x": x[i : i + 1]})["y"] for i in range(len(x))])
    np.testing.assert_array_equal(found, expected)

    with pytest.raises(ModelError, match="the engine takes"):
        runner.infer({"z": x})
    runner.close()

    timed = there.bench({"a b": engine, "c": engine}, {"x": x}, QUICK)
    assert set(timed["variants"]) == {"a b", "c"}
    assert timed["variants"]["c"]["samples"] >= 8 and timed["environment"]["facts"]


def test_two_engines_are_open_at_once(device: Device, tmp_path: Path) -> None:
    toolchain = RemoteToolchain("onnxruntime", device)
    runners = []
    for number, name in enumerate(["conv", "dynamic batch"]):
        case = CASES[name] if name in CASES else next(iter(CASES.values()))
        path = tmp_path / f"{number}.onnx"
        onnx.save(case.model, path)
        (tmp_path / str(number)).mkdir()
        engine = toolchain.compile(
            path, "any-onnxruntime", EngineOptions(case.precision), tmp_path / str(number)
        )
        runners.append((toolchain.open(engine), case.inputs()))
    for runner, inputs in [*runners, *reversed(runners)]:
        assert all(array.size for array in runner.infer(inputs).values())


def test_what_the_device_refuses_is_said_here(device: Device, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="ONNX Runtime refuses") as caught:
        compiled(RemoteToolchain("onnxruntime", device), tmp_path / "broken.onnx", tmp_path / "engine")
    assert str(device.host) in str(caught.value.where)


def test_a_shell_that_greets_is_no_obstacle(server: Server, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "Welcome to JetPack"; echo; exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    device = Device(Host.parse(server.url(), str(python)))
    assert RemoteToolchain("onnxruntime", device).fingerprint()
    device.close()


# What keeps a connection from being made, each told in words; none may wait for an answer to a question.


def refusal(url: str, python: str = sys.executable, patience: Patience | None = None) -> str:
    device = Device(Host.parse(url, python), patience=patience)
    with pytest.raises((DeviceError, ToolchainMissing)) as caught:
        device.ask("shut", number=1)
    assert url in str(caught.value.where)
    return str(caught.value)


def test_a_changed_host_key(server: Server) -> None:
    server.trust("stranger")
    assert "ssh-keygen -R '[127.0.0.1]" in refusal(server.url())


def test_an_unknown_host_key(server: Server) -> None:
    server.trust(None)
    said = refusal(server.url())
    assert "host key is not known" in said and f"ssh -p {server.port}" in said


@pytest.mark.parametrize("passphrase", ["", "secret"])
def test_a_key_that_is_refused_or_locked(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passphrase: str
) -> None:
    key = server.folder / f"another{passphrase}"
    make_key(key, passphrase)
    monkeypatch.setenv("EDGEWRIGHT_SSH", server.ssh_command(key.name))
    said = refusal(server.url())
    assert "none of your keys" in said and "ssh-add" in said


def test_no_server_no_host_no_python(server: Server) -> None:
    assert "cannot be reached" in refusal("ssh://127.0.0.1:1")
    assert "no host of that name" in refusal("ssh://nowhere.invalid")
    assert "no 'python9'" in refusal(server.url(), "python9")


def test_a_python_that_is_too_old(server: Server, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho edgewright-device old 3.6.9\nexit 3\n")
    python.chmod(0o755)
    assert "is 3.6.9; 3.8 or newer" in refusal(server.url(), str(python))


def test_a_device_without_numpy(server: Server, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    device = Device(Host.parse(server.url(), str(tmp_path / "bare" / "bin" / "python")))
    toolchain = RemoteToolchain("onnxruntime", device)
    with pytest.raises(ToolchainMissing, match="numpy is not installed on this device"):
        toolchain.fingerprint()
    assert "python3-numpy" in str(toolchain.probe().mend)
    device.close()


# Transfers.


def test_what_is_there_already_is_not_sent_again(server: Server, tmp_path: Path) -> None:
    link = Link(server.port)
    device = Device(Host.parse(server.url(link.port), sys.executable))
    path = big_file(tmp_path / "file")
    device.push(path)
    once = link.sent
    device.push(path)
    assert once > 3_000_000 and link.sent - once < 10_000
    device.close()
    link.close()


def test_a_transfer_goes_on_where_the_link_broke(server: Server, tmp_path: Path) -> None:
    link = Link(server.port, break_after=(1_500_000, 2_500_000))
    device = Device(Host.parse(server.url(link.port), sys.executable))
    path = big_file(tmp_path / "there", 4_000_000)
    path.write_bytes(path.read_bytes()[::-1])
    sha256 = device.push(path)
    assert link.breaks == 2
    # Each break costs at most what was under way; a transfer from the start would be twice as much.
    assert link.sent < 5_500_000
    stored = server.home / "edgewright" / "blobs" / sha256
    assert stored.read_bytes() == path.read_bytes() and not stored.with_name(f"{sha256}.part").exists()

    device.pull(sha256, path.stat().st_size, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    device.close()
    link.close()


def test_what_was_damaged_on_the_way_is_sent_again(device: Device, server: Server, tmp_path: Path) -> None:
    path = big_file(tmp_path / "file", 200_001)
    device.claim()
    sha256 = device.push(path)
    blobs = server.home / "edgewright" / "blobs"
    (blobs / sha256).rename(blobs / f"{sha256}.part")
    with (blobs / f"{sha256}.part").open("r+b") as part:
        part.write(b"damage")
        part.truncate(100_000)
    assert device.push(path) == sha256
    assert (blobs / sha256).read_bytes() == path.read_bytes()


def test_damage_on_the_device_is_found_before_use(device: Device, server: Server, tmp_path: Path) -> None:
    sha256 = device.push(big_file(tmp_path / "file", 1000))
    (server.home / "edgewright" / "blobs" / sha256).write_bytes(b"other")
    with pytest.raises(DeviceError, match="damaged"):
        device.ask("place", sha256=sha256, path="somewhere/file")


def test_a_device_cannot_write_outside_and_neither_can_it_be_told_to(device: Device, tmp_path: Path) -> None:
    sha256 = device.push(big_file(tmp_path / "file", 10))
    for path in ("../out", "/tmp/out", "."):
        with pytest.raises(DeviceError, match="outside"):
            device.ask("place", sha256=sha256, path=path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this kernel lets nobody mount a disk")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nXDG_CACHE_HOME={disk} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    device = Device(Host.parse(server.url(), str(python)))
    try:
        with pytest.raises(DeviceError, match=r"disk has \d+ MiB left"):
            device.push(big_file(tmp_path / "file", 8_000_000))
        # The session is as good as before.
        assert device.push(big_file(tmp_path / "small", 1000))
    finally:
        device.close()
        eventually(lambda: not list((disk / "edgewright" / "work").glob("[!.]*")))
        subprocess.run(["umount", "-l", disk], check=True)


# The device belongs to one at a time.


def test_a_busy_device_names_who_has_it(device: Device, server: Server) -> None:
    device.claim()
    told: list[str] = []
    other = Device(
        Host.parse(server.url(), sys.executable),
        progress=lambda what, _share: told.append(what),
        busy_wait_s=0.2,
    )
    with pytest.raises(DeviceBusy, match=r"in use by .* since"):
        other.claim()
    assert any(what.startswith("waiting for") for what in told)
    device.close()
    other.claim()
    other.close()


def test_the_lock_of_a_session_that_was_killed_is_free(device: Device, server: Server) -> None:
    device.claim()
    agents = [line for line in server.sessions() if " agent" in line]
    assert len(agents) == 1
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.read_bytes().replace(b"\0", b" ").decode(errors="replace") == agents[0]:
            os.kill(int(path.parent.name), signal.SIGKILL)
    other = Device(Host.parse(server.url(), sys.executable), busy_wait_s=5.0)
    other.claim()
    other.close()
    with pytest.raises(LinkLost):
        device.claim()


# What happens to a link.


def test_a_silent_link_is_noticed(server: Server, tmp_path: Path) -> None:
    link = Link(server.port)
    patience = Patience(ping_s=0.1, dead_s=1.0)
    device = Device(Host.parse(server.url(link.port), sys.executable), patience=patience)
    device.ask("put", sha256="0" * 64, size=0, content=lambda _offset: [])
    link.silent.set()
    with pytest.raises(LinkLost, match="nothing came from the device for 1 s"):
        device.claim()
    link.silent.clear()
    link.close()


def test_a_silent_link_is_noticed_in_the_middle_of_sending(server: Server, tmp_path: Path) -> None:
    link = Link(server.port)
    device = Device(
        Host.parse(server.url(link.port), sys.executable), patience=Patience(ping_s=0.1, dead_s=1.0)
    )

    def content(offset: int) -> Iterator[bytes]:
        yield b"x" * 1000
        link.silent.set()
        while True:
            yield b"x" * 60_000

    with pytest.raises(LinkLost):
        device.ask("put", sha256="1" * 64, size=10**9, content=content)
    link.silent.clear()
    link.close()
    (server.home / "edgewright" / "blobs" / ("1" * 64 + ".part")).unlink()


def test_a_link_that_breaks_while_the_device_works(server: Server, tmp_path: Path, model: Path) -> None:
    link = Link(server.port)
    device = Device(Host.parse(server.url(link.port), sys.executable))
    toolchain = RemoteToolchain("onnxruntime", device)
    engine = compiled(toolchain, model, tmp_path / "engine")
    runner = toolchain.open(engine)
    link.cut()
    with pytest.raises(LinkLost, match="broke off"):
        runner.infer({"x": np.zeros((1, 3, 12, 12), np.float32)})
    runner.close()
    # What comes next connects again by itself.
    assert toolchain.fingerprint()
    device.close()
    link.close()


def test_a_slow_link_is_not_a_dead_one(server: Server, tmp_path: Path) -> None:
    link = Link(server.port, delay_s=0.05)
    patience = Patience(ping_s=0.1, dead_s=1.5)
    device = Device(Host.parse(server.url(link.port), sys.executable), patience=patience)
    begun = time.monotonic()
    device.push(big_file(tmp_path / "file", 700_000))
    assert time.monotonic() - begun > patience.dead_s
    device.close()
    link.close()


# Leaving.

LONG_BENCH = """
import json, sys
from pathlib import Path
import numpy as np
from targets.remote.device import Device
from targets.remote.ssh import Host
from targets.remote.toolchain import RemoteToolchain
from targets.timing import MeasureSettings
from targets.toolchain import Engine

url, engine = sys.argv[1:]
def progress(what, share):
    print(what, flush=True)
device = Device(Host.parse(url, sys.executable), progress)
samples = {"x": np.zeros((2, 3, 12, 12), np.float32)}
settings = MeasureSettings(warmup_min_s=0.01, min_s=100.0, max_s=200.0)
engine = Engine.load(Path(engine))
RemoteToolchain("onnxruntime", device).bench({"a": engine}, samples, settings)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_after_an_interruption(
    server: Server, device: Device, model: Path, tmp_path: Path, how: signal.Signals
) -> None:
    engine = compiled(RemoteToolchain("onnxruntime", device), model, tmp_path / "engine")
    device.close()
    child = subprocess.Popen(
        [sys.executable, "-c", LONG_BENCH, server.url(), str(engine.folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    assert any(line.startswith("timing") for line in child.stdout)
    assert any(" bench " in line for line in server.sessions())
    child.send_signal(how)
    assert child.wait(20) != 0
    child.stdout.close()
    assert eventually(lambda: not server.left_over()), server.left_over()
    other = Device(Host.parse(server.url(), sys.executable), busy_wait_s=0.0)
    other.claim()
    other.close()


def test_a_command_that_takes_too_long_is_stopped(device: Device, model: Path, tmp_path: Path) -> None:
    engine = compiled(RemoteToolchain("onnxruntime", device), model, tmp_path / "engine")
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 3, 12, 12), np.float32))
    files = {name: device.push(engine.folder / name) for name in ("engine.json", *engine.files)}
    files["in.npz"] = device.push(tmp_path / "in.npz")
    for name, sha256 in files.items():
        device.ask("place", sha256=sha256, path=f"late/{name}")
    settings = json.dumps({"min_s": 60.0})
    with pytest.raises(DeviceError, match="took longer than 2 s"):
        device.command("bench", "late", "--inputs", "late/in.npz", "--settings", settings, limit_s=2.0)


def test_the_verbs_of_devices(server: Server, tmp_path: Path) -> None:
    program = tmp_path / "edgewright-device.pyz"
    assert CliRunner().invoke(main, ["device", "app", "--out", str(program)]).exit_code == 0
    assert program.read_bytes() == device_zipapp() and os.access(program, os.X_OK)
    (tmp_path / "mine").write_text("something else")
    assert CliRunner().invoke(main, ["device", "app", "--out", str(tmp_path / "mine")]).exit_code == 2
    done = CliRunner().invoke(main, ["device", "probe", server.url(), "--python", sys.executable])
    assert done.exit_code == 0 and json.loads(done.output)["toolchains"]["onnxruntime"]["available"]
    done = CliRunner().invoke(main, ["device", "probe", "ssh://127.0.0.1:1"])
    assert done.exit_code == 2 and "cannot be reached" in done.output
