"""Devices from the command line: the program that goes there, and what one says of itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.disk import explained
from targets.errors import ConfigError, ModelError
from targets.nvidia.log import TrtexecLog, read_log
from targets.remote.device import Device
from targets.remote.ssh import Host
from targets.remote.toolchain import PROBE_LIMIT_S
from targets.zipapp import device_zipapp

# Below so many samples a 99th percentile means nothing (docs/measurement.md).
P99_SAMPLES = 662


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


def read_trtexec_log(path: Path) -> TrtexecLog:
    """Read a saved log of trtexec.

    Raises:
        ModelError: it cannot be read, or is something else.
    """
    try:
        return read_log(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ModelError(f"the log cannot be read: {error}", where=str(path)) from error
    except ModelError as error:
        error.where = str(path)
        raise


def log_document(log: TrtexecLog) -> dict[str, Any]:
    """What a log says, as JSON values; its other lines are left out."""
    document = asdict(log)
    del document["said"]
    return document


def log_text(log: TrtexecLog) -> str:
    """What a log says, for people."""
    lines = [f"trtexec {log.version}: {'passed' if log.passed else f'FAILED: {log.reason()}'}"]
    lines.append(f"  command     {log.command}")
    told = ("Selected Device", "Precision", "Data transfers", "Spin-wait", "CUDA Graph", "DLACore")
    lines += [f"  {name.lower():<16} {log.settings[name]}" for name in told if log.settings.get(name)]
    for name, figures in log.figures.items():
        p99 = figures.get("percentile(99%)")
        tail = f", p99 {p99:g} ms" if p99 is not None and log.queries >= P99_SAMPLES else ""
        lines.append(f"  {name:<26} median {figures['median']:g} ms{tail}")
    if log.throughput is not None:
        lines.append(f"  {log.queries} inferences, {log.throughput:g} a second")
    lines += [f"  ! {warning}" for warning in log.warnings]
    if log.dla_left:
        lines.append(f"  ! the DLA leaves {len(log.dla_left)} layers to the GPU: {', '.join(log.dla_left)}")
    return "\n".join(lines)
