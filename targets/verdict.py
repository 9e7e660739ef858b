"""Whether a timing can be trusted: a verdict, and what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterator, Mapping, NamedTuple

from targets.timing import P90_SAMPLES

if TYPE_CHECKING:
    from targets.timing import MeasureSettings, Timing

    State = Mapping[str, str]

STABLE = "stable"
# The first that has a reason is the verdict; reasons for all others are kept beside it.
ORDER = ("too few samples", "throttled", "contended", "drifting")

MOST_DRIFT = 0.05
CHANCE = 0.01
MOST_SCATTER = 0.15
WIDEST_INTERVAL = 0.05
LATE = 1.5
MOST_LATE = 0.05
SLOWER_CLOCK = 0.9
MOST_STOLEN = 0.01
MOST_WAITING = 0.1
TICKS_A_SECOND = 100.0

# Counters of a machine's state that only count when something held it back.
THROTTLE_COUNTERS = {
    "throttle_events": "the CPU counted {} thermal throttle events",
    "overcurrent_events": "the board counted {} over-current events",
}


class Finding(NamedTuple):
    """A complaint and its reason."""

    verdict: str
    reason: str


class Judgement(NamedTuple):
    """A verdict and the reasons for it and for every other complaint; none when stable."""

    verdict: str
    reasons: list[str]


def judge(timing: Timing, before: State, after: State, settings: MeasureSettings) -> Judgement:
    """Say whether a timing can be trusted. Nothing is thrown away: an unstable timing stays as it is.

    Args:
        timing: of one variant.
        before: `environment.state()` before the first sample.
        after: the same after the last one.
        settings: what was asked for.
    """
    found = [finding for check in CHECKS for finding in check(timing, before, after, settings)]
    complaints = {finding.verdict for finding in found}
    verdict = next((each for each in ORDER if each in complaints), STABLE)
    found.sort(key=lambda finding: ORDER.index(finding.verdict))
    return Judgement(verdict, [finding.reason for finding in found])


def _few(timing: Timing, _before: State, _after: State, settings: MeasureSettings) -> Iterator[Finding]:
    wanted = max(P90_SAMPLES, settings.min_samples)
    if timing.samples < wanted:
        yield Finding("too few samples", f"{timing.samples} samples; {wanted} were wanted")


def _throttled(timing: Timing, before: State, after: State, _: MeasureSettings) -> Iterator[Finding]:
    for name, words in THROTTLE_COUNTERS.items():
        if _rise(name, before, after) > 0:
            yield Finding("throttled", words.format(int(_rise(name, before, after))))
    if _bits("firmware_throttled", after) & ~_bits("firmware_throttled", before):
        yield Finding(
            "throttled", f"the firmware reports throttling: 0x{_bits('firmware_throttled', after):x}"
        )
    if _number("cooling_level", after) > 0:
        yield Finding(
            "throttled", f"cooling was at work: {after['cooling_level']} levels of all cooling devices"
        )
    slower = (timing.drift or 0.0) > MOST_DRIFT
    for name in ("frequency_mhz", "gpu_frequency_mhz"):
        was, now = _number(name, before), _number(name, after)
        if slower and now < SLOWER_CLOCK * was:
            yield Finding("throttled", f"{name.replace('_', ' ')} fell from {before[name]} to {after[name]}")


def _contended(_: Timing, before: State, after: State, __: MeasureSettings) -> Iterator[Finding]:
    periods = _rise("cgroup_throttled_periods", before, after)
    if periods > 0:
        yield Finding("contended", f"the cgroup's CPU quota held it back in {int(periods)} periods")
    seconds = _rise("uptime_s", before, after)
    if seconds > 0:
        stolen = _rise("cpu_steal_ticks", before, after) / TICKS_A_SECOND / seconds
        if stolen > MOST_STOLEN:
            yield Finding("contended", f"other virtual machines took {stolen:.0%} of a CPU")
        # The kernel's two clocks are read one after the other: never more than all of the time.
        waiting = min(_rise("cpu_pressure_us", before, after) / 1e6 / seconds, 1.0)
        if waiting > MOST_WAITING:
            yield Finding("contended", f"some task waited for a CPU {waiting:.0%} of the time")


def _scattered(timing: Timing, *_: object) -> Iterator[Finding]:
    if timing.modes_ms:
        low, high = timing.modes_ms
        yield Finding("contended", f"samples have two modes, {low:.4g} and {high:.4g} ms: something switches")
    elif timing.scatter > MOST_SCATTER:
        yield Finding("contended", f"the middle 68 % of samples scatter by ± {timing.scatter:.0%}")
    bottom, top = timing.median_interval_ms
    if (top - bottom) / 2 > WIDEST_INTERVAL * timing.median_ms:
        yield Finding(
            "contended", f"the median is known to ± {(top - bottom) / 2 / timing.median_ms:.0%} only"
        )
    late = sum(sample > LATE * timing.median_ms for sample in timing.samples_ms) / timing.samples
    if late > MOST_LATE:
        yield Finding("contended", f"{late:.0%} of samples took more than {LATE:g} times the median")


def _drifting(timing: Timing, *_: object) -> Iterator[Finding]:
    change, p = timing.drift, timing.drift_p
    if change is not None and p is not None and abs(change) > MOST_DRIFT and p < CHANCE:
        yield Finding("drifting", f"{'slower' if change > 0 else 'faster'} by {abs(change):.0%} over the run")
    if not timing.settled:
        yield Finding("drifting", f"windows of the warm-up did not agree within {timing.warmup_s:.1f} s")


CHECKS: tuple[Callable[..., Iterator[Finding]], ...] = (_few, _throttled, _contended, _scattered, _drifting)


def _number(name: str, state: State) -> float:
    """The first number of a reading ("2000 to 3200" is 2000); 0 where there is none."""
    word = (state.get(name) or "0").split()[0]
    try:
        return float(word)
    except ValueError:
        return 0.0


def _rise(name: str, before: State, after: State) -> float:
    """How far a counter rose; 0 where either reading lacks it."""
    return _number(name, after) - _number(name, before) if name in before and name in after else 0.0


def _bits(name: str, state: State) -> int:
    try:
        return int(state.get(name) or "0", 16)
    except ValueError:
        return 0
