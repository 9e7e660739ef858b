"""What only NVIDIA's Jetson boards say: power mode, locked clocks, the GPU's clock, over-current events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

from targets.cpu import ROOT, read

CPU_FREQ = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
GPU_FREQ = ("sys/class/devfreq/*", "sys/devices/gpu.0/devfreq/*", "sys/devices/platform/gpu.0/devfreq/*")
# Names of the GPU's clock device on Nano, TX2, Xavier, Orin and Thor.
GPU_NAME = re.compile(r"gp10b|gv11b|ga10b|gb10b|gpu", re.IGNORECASE)


def jetson_facts(root: Path = ROOT) -> dict[str, str]:
    """Return what does not change while a measurement runs; {} on any other machine.

    Args:
        root: folder that holds etc/, var/ and sys/.
    """
    release = read(root / "etc/nv_tegra_release")
    if release is None:
        return {}
    found = {
        "l4t": _release(release),
        "nvpmodel": _power_mode(root),
        "jetson_clocks": _locked(root),
        "gpu_frequency_max_mhz": _gpu(root, "max_freq"),
    }
    return {name: value for name, value in found.items() if value}


def jetson_state(root: Path = ROOT) -> dict[str, str]:
    """Return what a measurement can suffer from beside what every Linux machine says; {} on any other.

    Args:
        root: folder that holds sys/.
    """
    counts = [_digits(path) for path in root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")]
    events = [count for count in counts if count is not None]
    found = {
        "gpu_frequency_mhz": _gpu(root, "cur_freq"),
        "overcurrent_events": str(sum(events)) if events else None,
    }
    return {name: value for name, value in found.items() if value}


def _release(text: str) -> str:
    """Return "36.3.0" of "# R36 (release), REVISION: 3.0, …"; the whole line where it reads otherwise."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else text.splitlines()[0]


def _power_mode(root: Path) -> str | None:
    """Return the number of the power mode and its name: "0 MAXN"."""
    match = re.match(r"pmode:(\d+)", read(root / "var/lib/nvpmodel/status") or "")
    if match is None:
        return None
    number = int(match[1])
    named = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", read(root / "etc/nvpmodel.conf") or "")
    name = next((name for mode, name in named if int(mode) == number), "")
    return f"{number} {name}".strip()


def _locked(root: Path) -> str | None:
    """Say whether jetson_clocks runs: it leaves no clock any room between its least and its most."""
    pairs = [_range(folder, "scaling_min_freq", "scaling_max_freq") for folder in root.glob(CPU_FREQ)]
    pairs += [_range(folder, "min_freq", "max_freq") for folder in _gpus(root)]
    known = [pair for pair in pairs if None not in pair]
    if not known:
        return None
    return "on" if all(low == high for low, high in known) else "off"


def _range(folder: Path, low: str, high: str) -> tuple[int | None, int | None]:
    return _digits(folder / low), _digits(folder / high)


def _gpus(root: Path) -> Iterator[Path]:
    for pattern in GPU_FREQ:
        for folder in sorted(root.glob(pattern)):
            if GPU_NAME.search(folder.name):
                yield folder


def _gpu(root: Path, name: str) -> str | None:
    """Return a clock of the GPU in MHz; the file says Hz."""
    for folder in _gpus(root):
        hertz = _digits(folder / name)
        if hertz is not None:
            return str(hertz // 1_000_000)
    return None


def _digits(path: Path) -> int | None:
    text = read(path)
    return int(text) if text and text.isdigit() else None
