"""The machine a measurement is taken on: facts that stay, and state to compare before and after.

Read from /proc and /sys alone, under a root folder that tests replace. What the system does not say is left
out, never guessed.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from targets.cpu import ROOT, cgroup_folders, cores, cpu_fingerprint, cpu_flags, cpu_limit, cpu_model, read
from targets.jetson import jetson_facts, jetson_state
from targets.versions import installed_version

CPU_FOLDER = "sys/devices/system/cpu"
# Cooling devices that only work when something is too hot; fans and display brightness do not count.
COOLING = re.compile(r"processor|throttle|cpufreq|devfreq|thermal-cpufreq|hot-surface", re.IGNORECASE)
# Variables that change what a runtime does or how fast it does it.
VARIABLES = re.compile(
    r"^(OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|ORT|OV|TBB|CUDA|TRT|MALLOC)_|^(GLIBC_TUNABLES|LD_PRELOAD)$"
)


def facts(root: Path = ROOT) -> dict[str, str]:
    """Return what does not change while a measurement runs; every name says its unit.

    Args:
        root: folder that holds proc/, sys/ and etc/.
    """
    found: list[tuple[str, str | None]] = [
        ("board", read(root / "proc/device-tree/model")),
        ("cpu_model", cpu_model(root)),
        ("cpu_flags", cpu_fingerprint(root).get("cpu_flags")),
        ("cores", _text(cores(root))),
        ("cpu_limit", _text(cpu_limit(root))),
        ("smt", read(root / CPU_FOLDER / "smt/control")),
        ("governor", _governors(root)),
        ("frequency_min_mhz", _megahertz(root, "cpuinfo_min_freq")),
        ("frequency_max_mhz", _megahertz(root, "cpuinfo_max_freq")),
        ("turbo", _turbo(root)),
        ("virtual_machine", "yes" if "hypervisor" in cpu_flags(root) else None),
        ("memory_mib", _mebibytes(root, "MemTotal")),
        ("memory_limit_mib", _memory_limit(root)),
        ("system", _system(root)),
        ("kernel", read(root / "proc/sys/kernel/osrelease")),
    ]
    return {**{name: value for name, value in found if value}, **jetson_facts(root)}


def cores_allowed() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_facts(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a measurement depends on that belongs to this process: Python, numpy, cores, variables.

    Args:
        variables: environment variables; only those that steer a runtime are kept.
    """
    found = {"python": platform.python_version(), "numpy": installed_version("numpy") or "missing"}
    found["cores_allowed"] = str(cores_allowed())
    found.update((f"${name}", variables[name]) for name in sorted(variables) if VARIABLES.match(name))
    return found


def state(root: Path = ROOT) -> dict[str, str]:
    """Return what a measurement can suffer from: load, clocks, temperatures, throttle and steal counters.

    Args:
        root: folder that holds proc/ and sys/.
    """
    found: dict[str, str | None] = {
        "uptime_s": _word(read(root / "proc/uptime"), 0),
        "load_average_1min": _word(read(root / "proc/loadavg"), 0),
        "memory_available_mib": _mebibytes(root, "MemAvailable"),
        "governor": _governors(root),
        "frequency_mhz": _megahertz(root, "scaling_cur_freq"),
        "cpu_steal_ticks": _steal(root),
        "cgroup_throttled_periods": _cgroup_throttled(root),
        "throttle_events": _throttle_events(root),
        "firmware_throttled": _firmware_throttled(root),
        "cpu_pressure_us": _pressure(root),
        "cooling_level": _cooling(root),
        **jetson_state(root),
        **_temperatures(root),
    }
    return {name: value for name, value in found.items() if value}


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _word(text: str | None, index: int) -> str | None:
    words = (text or "").split()
    return words[index] if index < len(words) else None


def _present(values: Iterable[str | None]) -> list[str]:
    return [value for value in values if value]


def _per_cpu(root: Path, pattern: str) -> list[str]:
    return _present(read(path) for path in sorted((root / CPU_FOLDER).glob(f"cpu[0-9]*/{pattern}")))


def _governors(root: Path) -> str | None:
    return " + ".join(sorted(set(_per_cpu(root, "cpufreq/scaling_governor")))) or None


def _megahertz(root: Path, name: str) -> str | None:
    """Lowest and highest over the cores, from the kHz of cpufreq: "1800" or "1800 to 2400"."""
    values = sorted({int(text) // 1000 for text in _per_cpu(root, f"cpufreq/{name}") if text.isdigit()})
    return " to ".join(str(value) for value in dict.fromkeys(values[:1] + values[-1:])) or None


def _turbo(root: Path) -> str | None:
    no_turbo = read(root / CPU_FOLDER / "intel_pstate/no_turbo")
    boost = read(root / CPU_FOLDER / "cpufreq/boost")
    return {"0": "on", "1": "off"}.get(no_turbo or "") or {"1": "on", "0": "off"}.get(boost or "")


def _mebibytes(root: Path, name: str) -> str | None:
    for line in (read(root / "proc/meminfo") or "").splitlines():
        if line.startswith(f"{name}:"):
            return str(int(line.split()[1]) // 1024)
    return None


def _system(root: Path) -> str | None:
    for line in (read(root / "etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return None


def _steal(root: Path) -> str | None:
    """Ticks other virtual machines took, the eighth figure of /proc/stat (proc(5))."""
    return _word(next(iter((read(root / "proc/stat") or "").splitlines()), None), 8)


def _cgroup_throttled(root: Path) -> str | None:
    for folder in cgroup_folders(root):
        for line in (read(folder / "cpu.stat") or "").splitlines():
            if line.startswith("nr_throttled "):
                return line.split()[1]
    return None


def _throttle_events(root: Path) -> str | None:
    counts = _per_cpu(root, "thermal_throttle/core_throttle_count")
    return str(sum(int(count) for count in counts)) if counts else None


def _firmware_throttled(root: Path) -> str | None:
    """Raspberry Pi's bit field: 0x1 under-voltage now, 0x4 throttled now, 0x40000 throttled since boot."""
    return next(
        iter(_present(map(read, root.glob("sys/devices/platform/soc/*firmware/get_throttled")))), None
    )


def _pressure(root: Path) -> str | None:
    """Microseconds since boot in which some task waited for a CPU (Linux's pressure stall information)."""
    found = re.search(r"^some .*\btotal=(\d+)", read(root / "proc/pressure/cpu") or "", re.MULTILINE)
    return found[1] if found else None


def _cooling(root: Path) -> str | None:
    """Levels at which cooling devices that slow something down are at work, added up; 0 is none."""
    levels = [
        read(folder / "cur_state")
        for folder in root.glob("sys/class/thermal/cooling_device*")
        if COOLING.search(read(folder / "type") or "")
    ]
    known = [int(level) for level in levels if level and level.isdigit()]
    return str(sum(known)) if known else None


def _memory_limit(root: Path) -> str | None:
    limits = [read(folder / "memory.max") for folder in cgroup_folders(root)]
    known = [int(limit) for limit in limits if limit and limit.isdigit()]
    return str(min(known) >> 20) if known else None


def _temperatures(root: Path) -> dict[str, str]:
    zones = [(zone / "type", zone / "temp") for zone in root.glob("sys/class/thermal/thermal_zone*")]
    sensors = [(path.with_name("name"), path) for path in root.glob("sys/class/hwmon/hwmon*/temp*_input")]
    temperatures: dict[str, str] = {}
    for name_path, value_path in sorted(zones) + sorted(sensors):
        name, value = read(name_path), read(value_path)
        if name and value and value.lstrip("-").isdigit():
            key = next(key for key in _numbered(name) if key not in temperatures)
            temperatures[key] = f"{int(value) / 1000:.1f}"
    return temperatures


def _numbered(name: str) -> Iterator[str]:
    yield f"temperature_{name}_c"
    yield from (f"temperature_{name}_{number}_c" for number in itertools.count(2))
