"""A real OpenSSH server on the loopback interface, and a link to it that can be cut."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
WHY_NOT = None if SSHD and shutil.which("ssh") else "OpenSSH's server is not installed (openssh-server)"
ALIAS = "edgewright-test-device"


@dataclass
class Server:
    """A server with its own host key that lets one throw-away user key in.

    Args:
        folder: keys, configurations, log.
        port: it listens on, on 127.0.0.1.
        home: XDG_CACHE_HOME and TMPDIR of those who log in.
        inside: command that puts server and clients into a network of their own.
    """

    folder: Path
    port: int
    home: Path
    inside: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, folder: Path, inside: tuple[str, ...] = ()) -> Server:
        server = cls(folder, free_port(), folder / "home", inside)
        server.home.mkdir()
        for key in ("host", "user", "stranger"):
            make_key(folder / key)
        shutil.copy(folder / "user.pub", folder / "authorized")
        server.trust("host")
        server.configure()
        server.run()
        return server

    def run(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        path = self.folder / "sshd.log"
        command = [*self.inside, str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while b"Server listening" not in path.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(path.read_text())
            time.sleep(0.02)

    def configure(self, host_key: str = "host", more: str = "") -> None:
        environment = f"XDG_CACHE_HOME={self.home} TMPDIR={self.home}"
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder / 'authorized'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"PermitRootLogin prohibit-password\nMaxStartups 100\nSetEnv {environment}\n{more}"
        )

    def trust(self, host_key: str | None) -> None:
        """Let clients know this host key, or none."""
        key = (self.folder / f"{host_key}.pub").read_text() if host_key else ""
        (self.folder / "known_hosts").write_text(f"{ALIAS} {key}" if key else "")

    def ssh_command(self, identity: str = "user") -> str:
        """What EDGEWRIGHT_SSH is set to: as a user's own ~/.ssh/config would be, but apart from it."""
        config = self.folder / f"ssh_config_{identity}"
        config.write_text(
            f"HostKeyAlias {ALIAS}\nIdentityFile {self.folder / identity}\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.folder / 'known_hosts'}\nGlobalKnownHostsFile none\n"
            "IdentityAgent none\n"
        )
        return " ".join([*self.inside, "ssh", "-F", str(config)])

    def url(self, port: int | None = None) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{port or self.port}"

    def sessions(self) -> list[str]:
        """Command lines of the device's programs that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.home / "edgewright") in line:
                found.append(line)
        return found

    def left_over(self) -> list[str]:
        """What a session leaves beside what is kept on purpose."""
        folders = [path.name for path in (self.home / "edgewright" / "work").glob("[!.]*")]
        return folders + self.sessions()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class Link:
    """A TCP link to a port of this machine that counts, delays, breaks and falls silent.

    Args:
        port: it leads to.
        delay_s: each way.
        break_after: bytes towards the device after which it breaks, each in its turn; then it holds.
    """

    def __init__(self, port: int, delay_s: float = 0.0, break_after: tuple[int, ...] = ()) -> None:
        self.silent = threading.Event()
        self.sent = 0
        self.received = 0
        self.breaks = 0
        self._port = port
        self._delay_s = delay_s
        self._break_after = list(break_after)
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, as a cable that is pulled out of a router would."""
        ends, self._ends = self._ends, []
        for end in ends:
            shut(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            device = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [client, device]
            threading.Thread(target=self._carry, args=(client, device, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(device, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, to_device: bool) -> None:
        try:
            for piece in iter(lambda: source.recv(16384), b""):
                while self.silent.is_set():
                    time.sleep(0.02)
                time.sleep(self._delay_s)
                sink.sendall(piece)
                self._count(len(piece), to_device)
        except OSError:
            pass
        # Closing alone says nothing to the other side while another thread reads from it.
        shut(source)
        shut(sink)

    def _count(self, size: int, to_device: bool) -> None:
        if not to_device:
            self.received += size
            return
        self.sent += size
        if self._break_after and self.sent >= self._break_after[0]:
            del self._break_after[0]
            self.breaks += 1
            self.cut()


def shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def make_key(path: Path, passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
