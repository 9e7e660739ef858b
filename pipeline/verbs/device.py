"""Devices from the command line: the program that goes there, and what one says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.disk import explained
from targets.errors import ConfigError
from targets.remote.device import Device
from targets.remote.ssh import Host
from targets.remote.toolchain import PROBE_LIMIT_S
from targets.zipapp import device_zipapp


def write_program(out: Path) -> None:
    """Write edgewright-device.pyz, ready to be run.

    Raises:
        ConfigError: there is something already, and it is something else.
        StoreError: it cannot be written.
    """
    content = device_zipapp()
    if out.is_dir() or (out.exists() and out.read_bytes()[:2] != content[:2]):
        raise ConfigError("there is something already", where=str(out), mend="name another --out")
    with explained(out):
        out.write_bytes(content)
        out.chmod(0o755)


def probe_device(url: str, python: str) -> dict[str, Any]:
    """Return what a device says of itself, as `edgewright-device.pyz probe` prints it.

    Raises:
        DeviceError, ToolchainMissing, ConfigError: as they say.
    """
    device = Device(Host.parse(url, python))
    try:
        return device.command("probe", limit_s=PROBE_LIMIT_S)
    finally:
        device.close()
