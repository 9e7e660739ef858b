"""Which CPU this is: what a compiled engine and a measurement on it depend on. Read from Linux's files."""

from __future__ import annotations

import platform
import re
from pathlib import Path

ROOT = Path("/")

# Instruction sets that decide which kernels a runtime picks; every other flag changes with the Linux kernel.
INSTRUCTION_SETS = re.compile(r"(sse4|avx|amx|fma|f16c|neon|asimd|fphp|i8mm|bf16|sve|sme(?!p))")


def read(path: Path) -> str | None:
    """Return a small text file's content without the blanks around it; None when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:
        return None


def cpuinfo(root: Path = ROOT) -> dict[str, str]:
    """Return the first processor's entry of /proc/cpuinfo and the lines that stand for all; {} without it."""
    entries: dict[str, str] = {}
    for line in (read(root / "proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            entries.setdefault(key.strip(), value.strip())
    return entries


def cpu_model(root: Path = ROOT) -> str | None:
    """Return the CPU's name: "model name" on x86; on Arm implementer and parts, of every kind of core."""
    info = cpuinfo(root)
    if "CPU part" not in info:
        return info.get("model name")
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\S+)", read(root / "proc/cpuinfo") or "", re.MULTILINE)))
    return f"Arm implementer {info.get('CPU implementer', 'unknown')} part {' + '.join(parts)}"


def cpu_flags(root: Path = ROOT) -> frozenset[str]:
    """Return the feature flags as Linux names them ("avx2", "asimd"); empty when unknown."""
    info = cpuinfo(root)
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def cores(root: Path = ROOT) -> int | None:
    """Return how many logical CPUs are online."""
    ranges = read(root / "sys/devices/system/cpu/online")
    if ranges is None:
        return None
    bounds = [piece.partition("-") for piece in ranges.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in bounds)


def cpu_limit(root: Path = ROOT) -> float | None:
    """Return the tightest cgroup CPU quota in whole CPUs (1.5 = one and a half); None without one."""
    limits = [limit for limit in map(_quota, cgroup_folders(root)) if limit is not None]
    return min(limits) if limits else None


def cgroup_folders(root: Path = ROOT) -> list[Path]:
    """Return the folders of this process's CPU cgroup and all above it, innermost first (v2, then v1)."""
    folders = []
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inner = base / inside.strip("/")
        folders += [inner, *(folder for folder in inner.parents if base in (folder, *folder.parents))]
    return folders


def _quota(folder: Path) -> float | None:
    text = read(folder / "cpu.max")
    if text is None:
        text = f"{read(folder / 'cpu.cfs_quota_us')} {read(folder / 'cpu.cfs_period_us')}"
    quota, _, period = text.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def cpu_fingerprint(root: Path = ROOT) -> dict[str, str]:
    """Return what engines and measurements depend on: architecture, model, instruction sets, cores, quota."""
    found = {
        "architecture": platform.machine(),
        "cpu_model": cpu_model(root),
        "cpu_flags": " ".join(sorted(flag for flag in cpu_flags(root) if INSTRUCTION_SETS.match(flag))),
        "cores": cores(root),
        "cpu_limit": cpu_limit(root),
    }
    return {name: str(value) for name, value in found.items() if value}
