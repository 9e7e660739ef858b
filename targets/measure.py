"""Latency of several engines on one machine, interleaved, with intervals: see docs/measurement.md."""

from __future__ import annotations

import gc
import itertools
import time
from contextlib import contextmanager
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Iterator,
    Mapping,
    NamedTuple,
    Sequence,
)

import numpy as np

from targets.errors import ConfigError
from targets.timing import MeasureSettings, Speedup, Timing, speedup, summarise

if TYPE_CHECKING:
    from targets.toolchain import Engine, Runner, Tensors, Toolchain

    Clock = Callable[[], int]
    Progress = Callable[[str, float], None]
    Turn = Callable[[], float]

__all__ = [
    "MeasureSettings",
    "Opened",
    "Speedup",
    "Timing",
    "compare",
    "compare_turns",
    "open_timed",
    "speedup",
    "timed",
]

WARMUP_WINDOWS = 4

# Another variant leaves its weights in the caches, so the first inferences of a turn are slow (measured: up
# to twice for a 0.1 ms network). After 5 ms of unmeasured ones they are, on an idle machine, within 1 % of
# those of a variant alone; docs/measurement.md has the figures.
SETTLE_MS = 5.0
TURN_SAMPLES = 4
TURN_MS = 20.0


class WarmUp(NamedTuple):
    """How long a variant warmed up, the median of its last window, and whether the window before agreed."""

    seconds: float
    median_ms: float
    settled: bool


class Opened(NamedTuple):
    """An engine opened with a clock: the runner, and what opening and the first inference took."""

    runner: Runner
    load_ms: float
    first_inference_ms: float


def open_timed(
    toolchain: Toolchain, engine: Engine, inputs: Tensors, clock: Clock = time.perf_counter_ns
) -> Opened:
    """Open an engine and run it once, timing both.

    Raises:
        ModelError: the engine does not load, or the inputs do not fit.
    """
    start = clock()
    runner = toolchain.open(engine)
    opened = clock()
    runner.infer(inputs)
    return Opened(runner, (opened - start) / 1e6, (clock() - opened) / 1e6)


def compare(
    runners: Mapping[str, Runner],
    inputs: Mapping[str, Sequence[Tensors]],
    settings: MeasureSettings,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time variants against each other: warm each up, then take samples in blocks A B B A.

    Every variant has the same number of samples, and sample i of all variants is from the same block, so
    that `speedup` can pair them.

    Args:
        runners: variant → opened engine.
        inputs: variant → real inputs, used in rotation.
        settings: durations and counts.
        clock: nanoseconds, monotonic.
        progress: called with what is being done and the fraction done, 0 to 1.

    Raises:
        ConfigError: a variant without inputs.
        ModelError: inputs that do not fit the engine.
    """
    empty = [name for name in runners if not inputs.get(name)]
    if empty:
        raise ConfigError(f"no inputs to time {', '.join(empty)} with", mend="give at least one input")
    turns = {name: _turn(runner, inputs[name], clock) for name, runner in runners.items()}
    return compare_turns(turns, settings, clock, progress)


def _turn(runner: Runner, inputs: Sequence[Tensors], clock: Clock) -> Turn:
    """A runner whose inferences are processes of their own times them itself."""
    itself: Turn | None = runner.timed(inputs) if hasattr(runner, "timed") else None
    return itself or timed(runner.infer, inputs, clock)


def compare_turns(
    turns: Mapping[str, Turn],
    settings: MeasureSettings,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time anything against each other, as `compare` does.

    Args:
        turns: variant → function that runs it once and returns the milliseconds that took.
        settings: durations and counts.
        clock: nanoseconds, monotonic.
        progress: as in `compare`.
    """
    report = progress or _silent
    warm = {}
    with _no_garbage_collection():
        for number, (name, turn) in enumerate(turns.items()):
            report(f"warming up {name}", number / len(turns))
            warm[name] = _warm_up(turn, settings)
        slowest_ms = max(variant.median_ms for variant in warm.values())
        per_turn = max(1, min(TURN_SAMPLES, int(TURN_MS / slowest_ms)))
        samples = _interleave(turns, per_turn, settings, clock, report)
    return {
        name: summarise(samples[name], warm[name].seconds, settings, warm[name].settled) for name in turns
    }


def timed(
    function: Callable[[Any], object], inputs: Sequence[Any], clock: Clock = time.perf_counter_ns
) -> Turn:
    """Return a turn for `compare_turns`: each call runs the function on the next input."""
    rotation = itertools.cycle(inputs)

    def turn() -> float:
        given = next(rotation)
        start = clock()
        function(given)
        return (clock() - start) / 1e6

    return turn


def _warm_up(turn: Turn, settings: MeasureSettings) -> WarmUp:
    """Run until two successive windows agree, within the settings' bounds."""
    window_ms = settings.warmup_min_s * 1e3 / WARMUP_WINDOWS
    spent_ms, median_ms = _window(turn, window_ms)
    settled = False
    while spent_ms < settings.warmup_max_s * 1e3 and not (
        settled and spent_ms >= settings.warmup_min_s * 1e3
    ):
        before_ms = median_ms
        took_ms, median_ms = _window(turn, window_ms)
        spent_ms += took_ms
        settled = abs(median_ms - before_ms) <= settings.warmup_tolerance * before_ms
    return WarmUp(spent_ms / 1e3, median_ms, settled)


def _window(turn: Turn, window_ms: float) -> tuple[float, float]:
    """Run for a window, at least once; return the milliseconds spent and the median of its samples."""
    samples = [turn()]
    spent_ms = samples[0]
    while spent_ms < window_ms:
        samples.append(turn())
        spent_ms += samples[-1]
    return spent_ms, float(np.median(samples))


def _interleave(
    turns: Mapping[str, Turn], per_turn: int, settings: MeasureSettings, clock: Clock, report: Progress
) -> dict[str, list[float]]:
    """Take blocks of turns A B … B A: within a block a linear drift weighs on all variants alike."""
    samples: dict[str, list[float]] = {name: [] for name in turns}
    order = [*turns, *reversed(list(turns))]
    before = None
    start = clock()
    done = 0.0
    while done < 1.0:
        for name in order:
            if name != before:
                _settle(turns[name])
            samples[name] += [turns[name]() for _ in range(per_turn)]
            before = name
        done = _fraction_done(len(samples[order[0]]), (clock() - start) / 1e9, settings)
        report("timing", min(done, 1.0))
    return samples


def _settle(turn: Turn) -> None:
    """Run unmeasured, and do nothing else: even a median computed here would cool the caches again."""
    spent_ms = turn()
    while spent_ms < SETTLE_MS:
        spent_ms += turn()


def _fraction_done(samples: int, elapsed_s: float, settings: MeasureSettings) -> float:
    """Both the samples and the seconds asked for, or the most seconds allowed; at 1 it is over."""
    asked = [samples / settings.min_samples] if settings.min_samples else [1.0]
    if settings.min_s:
        asked.append(elapsed_s / settings.min_s)
    return max(min(asked), elapsed_s / settings.max_s)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector out of the samples, as timeit does: one pass can cost tens of milliseconds."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _silent(_what: str, _fraction: float) -> None:
    """Report to nobody."""
