"""Devices behind a slow, lossy or dead network: an OpenSSH server in a network namespace of its own.

Server and ssh are alone in the namespace and speak over its loopback interface: `tc` limits its bandwidth,
and `nft` drops packets. For root, on a kernel that has both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ssh_server import WHY_NOT, Server

from targets.errors import LinkLost
from targets.remote.connection import Patience
from targets.remote.device import Device
from targets.remote.ssh import Host

NAMESPACE = f"edgewright-{os.getpid()}"
INSIDE = ("ip", "netns", "exec", NAMESPACE)


def why_not() -> str | None:
    if WHY_NOT:
        return WHY_NOT
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (iproute2, nftables)"
    return None if os.geteuid() == 0 else "only root may make a network namespace"


REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def inside(command: str) -> None:
    subprocess.run([*INSIDE, *command.split()], check=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    server = None
    try:
        # Packets of a real network: the limit of tc is below those of a loopback interface.
        inside("ip link set lo mtu 1500 up")
        server = Server.start(tmp_path_factory.mktemp("sshd"), INSIDE)
        yield server
    finally:
        if server:
            server.stop()
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("EDGEWRIGHT_SSH", running.ssh_command())
    yield running
    for mend in ("tc qdisc del dev lo root", "nft flush ruleset"):
        subprocess.run([*INSIDE, *mend.split()], stderr=subprocess.DEVNULL, check=False)
    assert eventually(lambda: not running.left_over(), 60), running.left_over()


def drop(server: Server, what: str = "") -> None:
    """Lose packets to and from the device: all, or those that `what` matches."""
    inside("nft add table inet far")
    inside("nft add chain inet far lossy { type filter hook input priority 0 ; }")
    for side in ("sport", "dport"):
        inside(f"nft add rule inet far lossy tcp {side} {server.port} {what} drop")


def device_of(server: Server, dead_s: float) -> Device:
    patience = Patience(ping_s=0.5, dead_s=dead_s)
    return Device(Host.parse(server.url(), sys.executable), patience=patience)


def file_of(path: Path, size: int, seed: int) -> Path:
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def there(server: Server, sha256: str) -> bytes:
    return (server.home / "edgewright" / "blobs" / sha256).read_bytes()


def test_little_bandwidth_and_long_queues(server: Server, tmp_path: Path) -> None:
    """2 Mbit/s with a second of buffer: the upload takes far longer than a dead link would be given."""
    device = device_of(server, dead_s=3.0)
    device.push(file_of(tmp_path / "first", 10, 0))
    inside("tc qdisc add dev lo root tbf rate 2mbit burst 16kb latency 1000ms")
    path = file_of(tmp_path / "file", 1_500_000, 1)
    begun = time.monotonic()
    assert there(server, device.push(path)) == path.read_bytes()
    assert time.monotonic() - begun > 4.0
    device.close()


def test_packets_are_lost(server: Server, tmp_path: Path) -> None:
    device = device_of(server, dead_s=10.0)
    device.push(file_of(tmp_path / "first", 10, 0))
    drop(server, "numgen random mod 100 < 3")
    path = file_of(tmp_path / "file", 1_000_000, 2)
    sha256 = device.push(path)
    device.pull(sha256, path.stat().st_size, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    device.close()


def test_a_link_that_dies_in_mid_transfer_and_comes_back(server: Server, tmp_path: Path) -> None:
    inside("tc qdisc add dev lo root tbf rate 4mbit burst 16kb latency 200ms")
    device = device_of(server, dead_s=2.0)
    path = file_of(tmp_path / "file", 2_000_000, 3)
    sent: list[str] = []
    transfer = threading.Thread(target=lambda: sent.append(device.push(path)))
    transfer.start()
    part = server.home / "edgewright" / "blobs"
    assert eventually(lambda: any(each.stat().st_size > 300_000 for each in part.glob("*.part")), 30)
    drop(server)
    time.sleep(4.0)
    kept = max(each.stat().st_size for each in part.glob("*.part"))
    assert kept > 300_000
    inside("nft flush ruleset")
    transfer.join(60)
    assert sent and there(server, sent[0]) == path.read_bytes()
    device.close()


def test_a_dead_link_is_noticed_at_both_ends(server: Server, tmp_path: Path) -> None:
    device = device_of(server, dead_s=2.0)
    device.claim()
    drop(server)
    begun = time.monotonic()
    with pytest.raises(LinkLost, match="nothing came from the device for 2 s"):
        device.claim()
        device.push(file_of(tmp_path / "file", 10, 4))
    assert time.monotonic() - begun < 10
    # The agent cannot be told: it leaves by itself, and gives the device free.
    assert server.sessions()
    assert eventually(lambda: not server.left_over(), 60)
