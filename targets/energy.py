"""Energy of an inference, where a sensor says what the board or the processor draws; never estimated."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Protocol, Sequence

from targets.cpu import ROOT, read

if TYPE_CHECKING:
    Clock = Callable[[], int]

# A Jetson's rail that holds all others; without it every rail counts.
WHOLE_BOARD = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")
POLL_S = 0.02


class Sensor(Protocol):
    """Something that says how much energy was drawn. `name` says what it covers."""

    name: str

    def joules(self, now_s: float, /) -> float:
        """Energy since some moment; differences count. Needs to be read often enough."""
        ...


@dataclass(frozen=True)
class Energy:
    """Energy of one inference: the fields of the build record's `Energy`.

    Args:
        sensor: what was read.
        millijoules: of one inference, with everything on the sensor.
        above_idle_millijoules: what idling for as long would not have taken.
        watts: while inferences ran.
        idle_watts: before them.
        inferences: how many.
    """

    sensor: str
    millijoules: float
    above_idle_millijoules: float
    watts: float
    idle_watts: float
    inferences: int


def find_sensor(root: Path = ROOT) -> Sensor | None:
    """Return a readable sensor: a Jetson's INA3221, else the RAPL counters of x86; None without one.

    Args:
        root: folder that holds sys/.
    """
    return _rails(root) or _packages(root)


def energy(
    sensor: Sensor,
    function: Callable[[Any], object],
    inputs: Sequence[Any],
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> Energy:
    """Idle for half the time asked for, then run without a pause, reading the sensor all along.

    Args:
        sensor: of `find_sensor`.
        function: one inference.
        inputs: used in rotation.
        seconds: of running.
        clock: nanoseconds, monotonic.
        sleep: waits that many seconds.
    """
    idle_watts, _ = _drawn(sensor, lambda: sleep(POLL_S), seconds / 2, clock)
    rotation = itertools.cycle(inputs)
    count = itertools.count()

    def run() -> None:
        function(next(rotation))
        next(count)

    watts, elapsed_s = _drawn(sensor, run, seconds, clock)
    inferences = next(count)
    each_s = elapsed_s / inferences
    return Energy(
        sensor=sensor.name,
        millijoules=1e3 * watts * each_s,
        above_idle_millijoules=1e3 * (watts - idle_watts) * each_s,
        watts=watts,
        idle_watts=idle_watts,
        inferences=inferences,
    )


def _drawn(sensor: Sensor, act: Callable[[], object], seconds: float, clock: Clock) -> tuple[float, float]:
    """Act until the time is over; return mean watts and the seconds it took."""
    start = now = polled = clock() / 1e9
    first = sensor.joules(start)
    while now - start < seconds:
        act()
        now = clock() / 1e9
        if now - polled >= POLL_S:
            sensor.joules(now)
            polled = now
    return (sensor.joules(now) - first) / (now - start), now - start


class _Rails:
    """Rails of an INA3221: power now, added up over time by the trapezoidal rule.

    Args:
        pairs: files of millivolts and milliamperes, one pair a rail.
        names: of the rails.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], names: Sequence[str]) -> None:
        self.name = f"INA3221 {' + '.join(names)}"
        self._pairs = pairs
        self._last: tuple[float, float] | None = None
        self._sum = 0.0

    def joules(self, now_s: float) -> float:
        """Energy since the first reading."""
        watts = sum(_number(volts) * _number(amperes) / 1e6 for volts, amperes in self._pairs)
        if self._last is not None:
            then_s, before = self._last
            self._sum += (now_s - then_s) * (watts + before) / 2
        self._last = now_s, watts
        return self._sum


class _Packages:
    """RAPL counters of all processor packages, in microjoules, which start again at a range of their own.

    Args:
        folders: of the packages.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.name = f"RAPL {' + '.join(read(folder / 'name') or folder.name for folder in folders)}"
        self._folders = folders
        self._last = [_number(folder / "energy_uj") for folder in folders]
        self._sum = 0.0

    def joules(self, _now_s: float) -> float:
        """Energy since the first reading."""
        for place, folder in enumerate(self._folders):
            value = _number(folder / "energy_uj")
            rise = value - self._last[place]
            if rise < 0:
                rise += _number(folder / "max_energy_range_uj")
            self._sum += rise / 1e6
            self._last[place] = value
        return self._sum


def _rails(root: Path) -> Sensor | None:
    found: dict[str, tuple[Path, Path]] = {}
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if read(folder / "name") != "ina3221":
            continue
        for volts in sorted(folder.glob("in[0-9]_input")):
            number = volts.name[2]
            label = read(folder / f"in{number}_label")
            amperes = folder / f"curr{number}_input"
            if label and _readable(volts) and _readable(amperes):
                found[label] = (volts, amperes)
    names = next(([name] for name in WHOLE_BOARD if name in found), sorted(found))
    return _Rails([found[name] for name in names], names) if names else None


def _packages(root: Path) -> Sensor | None:
    folders = [
        folder
        for folder in sorted(root.glob("sys/class/powercap/intel-rapl:*"))
        if folder.name.count(":") == 1
        and (read(folder / "name") or "").startswith("package")
        and _readable(folder / "energy_uj")
    ]
    return _Packages(folders) if folders else None


def _readable(path: Path) -> bool:
    text = read(path)
    return text is not None and text.lstrip("-").isdigit()


def _number(path: Path) -> float:
    """A sensor's reading; 0 where it fails for a moment."""
    text = read(path)
    return float(text) if text and text.lstrip("-").isdigit() else 0.0
