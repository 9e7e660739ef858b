"""Where a target's toolchain is: on this machine, or on the device its `host` names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.stage import Progress
from targets.toolchain import load_toolchain

# By name: what only targets with a host can reach is no part of the keys of all others' stages.
DEVICE_MODULE = "targets.remote.device"
ADDRESS_MODULE = "targets.remote.ssh"
TOOLCHAIN_MODULE = "targets.remote.toolchain"
REMOTE_MODULES = (TOOLCHAIN_MODULE, DEVICE_MODULE, "targets.device.program")

Place = Mapping[str, str]


def toolchain_at(name: str, place: Place | None, progress: Progress | None = None) -> Any:
    """Return a toolchain where it is; one on a device can `bench` as well.

    Args:
        name: in `targets.toolchain.TOOLCHAINS`.
        place: "url" and "python" of a device, or None for this machine.
        progress: told of transfers and of what the device is doing.

    Raises:
        ToolchainMissing: no toolchain of that name exists.
        ConfigError: the address is none.
    """
    if place is None:
        return load_toolchain(name)
    host = importlib.import_module(ADDRESS_MODULE).Host.parse(place["url"], place["python"])
    report = None if progress is None else in_thousandths(progress)
    device = importlib.import_module(DEVICE_MODULE).Device(host, report)
    return importlib.import_module(TOOLCHAIN_MODULE).RemoteToolchain(name, device)


def toolchain_of(settings: Mapping[str, Any], progress: Progress) -> Any:
    """Return the toolchain that a stage's settings name, where they say it is."""
    return toolchain_at(settings["toolchain"], settings.get("host"), progress)


def in_thousandths(progress: Progress) -> Callable[[str, float], None]:
    """Return what tells shares, 0 to 1, to a stage's progress."""
    return lambda what, share: progress(what, round(share * 1000), 1000)
