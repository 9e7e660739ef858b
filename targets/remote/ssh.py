"""The system's OpenSSH: how it is called, and what it says in words a user can act on.

Keys, agent, ~/.ssh/config with its jump hosts, and known_hosts are the user's own, and nothing is switched
off. Only asking is: without a terminal to answer on, a question would hang for ever.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
from dataclasses import dataclass

from targets.errors import ConfigError, DeviceError, LinkLost, ToolchainMissing

URL = re.compile(
    r"ssh://(?:(?P<user>[\w.][\w.-]*)@)?(?P<name>[\w.][\w.-]*|\[[0-9a-fA-F:.]+(?:%\w+)?\])(?::(?P<port>\d{1,5}))?/?"
)
# A command to use instead of `ssh`, as GIT_SSH_COMMAND is for git.
COMMAND_VARIABLE = "EDGEWRIGHT_SSH"
UNREACHABLE = r"Connection refused|No route to host|Network is unreachable|connect to host .* timed out"
OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
)


@dataclass(frozen=True)
class Host:
    """A device's address.

    Args:
        name: host name, address, or an alias of ~/.ssh/config.
        user: None leaves it to ssh.
        port: None leaves it to ssh.
        python: the Python on the device that has numpy and the runtime; "~/" is the home folder there.
    """

    name: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"

    @classmethod
    def parse(cls, url: str, python: str = "python3") -> Host:
        """Read "ssh://user@name:port"; user and port may be left out.

        Raises:
            ConfigError: it is something else.
        """
        found = URL.fullmatch(url)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or (port is not None and not 0 < port < 65536):
            raise ConfigError(
                f"{url!r} is no address of a device", mend="write it as ssh://user@name:port, or ssh://name"
            )
        return cls(found["name"].strip("[]"), found["user"], port, python)

    def __str__(self) -> str:
        """Return the address as the user wrote it."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{name}" + (f":{self.port}" if self.port else "")

    def command(self, remote: str) -> list[str]:
        """Return the command line that runs `remote` in the device's shell."""
        ssh = shlex.split(os.environ.get(COMMAND_VARIABLE, "")) or ["ssh"]
        options = [argument for option in OPTIONS for argument in ("-o", option)]
        address = [*(["-p", str(self.port)] if self.port else []), *(["-l", self.user] if self.user else [])]
        return [*ssh, "-T", *options, *address, "--", self.name, remote]

    def by_hand(self) -> str:
        """Return what a user types to connect."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{self.user + '@' if self.user else ''}{self.name}"


def python_command(host: Host, source: str, *arguments: str) -> str:
    """Return the shell command that has the device's Python run a program.

    The program travels in base64: no shell, however old, finds anything in it to expand.
    """
    encoded = base64.b64encode(source.encode()).decode()
    home, rest = ("~/", host.python[2:]) if host.python.startswith("~/") else ("", host.python)
    program = shlex.quote(f"import base64;exec(base64.b64decode('{encoded}'))")
    return " ".join(["exec", home + shlex.quote(rest), "-c", program, *map(shlex.quote, arguments)])


def failure(host: Host, code: int, said: str) -> DeviceError | ToolchainMissing:
    """Say why ssh ended.

    Args:
        host: it was to connect to.
        code: its exit code; 255 is ssh's own, all others the device's.
        said: all of its standard error.
    """
    where, hand = str(host), host.by_hand()
    name = f"[{host.name}]:{host.port}" if host.port else host.name
    if code in (126, 127):
        return ToolchainMissing(
            f"there is no {host.python!r} on the device",
            where=where,
            mend="install Python 3.8 or newer there, or name it in build.toml: python = …",
        )
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return DeviceError(
            "the device shows another host key than before: it was installed again, or is not the device",
            where=where,
            mend=f"if you know why, forget the old key with: ssh-keygen -R '{name}'; then once: {hand}",
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return DeviceError(
            "the device's host key is not known yet", where=where, mend=f"connect once by hand: {hand}"
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return DeviceError(
            "the device refuses the login: none of your keys is accepted, or a password is needed",
            where=where,
            mend=f"let it know your key (ssh-copy-id), unlock it (ssh-add), then try by hand: {hand}",
        )
    return _connection_failure(where, hand, said)


def _connection_failure(where: str, hand: str, said: str) -> DeviceError:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "nothing")
    if "Could not resolve hostname" in said:
        return DeviceError("there is no host of that name", where=where, mend="correct the address")
    if re.search(
        r"Connection refused|No route to host|Network is unreachable|connect to host .* timed out", said
    ):
        return LinkLost(
            f"the device cannot be reached: {last}",
            where=where,
            mend=f"see that it is on, on the network and runs an SSH server; try by hand: {hand}",
        )
    if re.search(r"Bad configuration|Bad owner or permissions|terminating, .* bad", said):
        return DeviceError(
            f"ssh refuses its configuration: {last}", where=where, mend="correct ~/.ssh/config"
        )
    return LinkLost(
        f"the connection to the device broke off; ssh said: {last}",
        where=where,
        mend="run the same command again; what was sent is kept on the device",
    )
