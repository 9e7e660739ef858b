"""The timing loop, on a clock that only fake engines move."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import groupby, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.measured import Latency
from targets.errors import ConfigError
from targets.measure import MeasureSettings, compare, open_timed, speedup
from targets.toolchain import TensorSpec

QUICK = MeasureSettings(warmup_min_s=0.02, warmup_max_s=0.2, min_samples=40, min_s=0.0, max_s=10.0)


class Lab:
    """A clock in nanoseconds and the log of what ran on it."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[tuple[str, int]] = []

    def clock(self) -> int:
        return self.now


class FakeRunner:
    """An engine whose inference takes what a function of the time and the number of calls says, in ms."""

    def __init__(self, lab: Lab, name: str, cost: Callable[[float, int], float]) -> None:
        self.inputs = self.outputs = (TensorSpec("x", "float32", (1,)),)
        self._lab, self._name, self._cost = lab, name, cost
        self.calls = 0

    def infer(self, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        self._lab.log.append((self._name, int(inputs["x"][0])))
        self._lab.now += round(self._cost(self._lab.now / 1e9, self.calls) * 1e6)
        self.calls += 1
        return {"x": inputs["x"]}

    def close(self) -> None:
        raise AssertionError("compare does not own the runners")


def constant(milliseconds: float) -> Callable[[float, int], float]:
    return lambda *_: milliseconds


def inputs(count: int) -> list[dict[str, NDArray[np.float32]]]:
    return [{"x": np.array([number], np.float32)} for number in range(count)]


def lab_with(costs: dict[str, Callable[[float, int], float]]) -> tuple[Lab, dict[str, FakeRunner]]:
    lab = Lab()
    return lab, {name: FakeRunner(lab, name, cost) for name, cost in costs.items()}


def measured(lab: Lab, runners: dict[str, FakeRunner], settings: MeasureSettings = QUICK):
    return compare(runners, {name: inputs(5) for name in runners}, settings, lab.clock)


def test_constant_engines_are_measured_exactly() -> None:
    lab, runners = lab_with({"a": constant(2.0), "b": constant(1.0)})
    timings = measured(lab, runners)
    assert timings["a"].median_ms == timings["a"].min_ms == timings["a"].max_ms == 2.0
    assert timings["b"].median_interval_ms == (1.0, 1.0)
    assert timings["a"].coefficient_of_variation == 0.0
    assert speedup(timings["a"].samples_ms, timings["b"].samples_ms)[:2] == (2.0, (2.0, 2.0))


def test_a_timing_has_the_fields_of_the_record() -> None:
    lab, runners = lab_with({"a": constant(1.0)})
    timing = measured(lab, runners)["a"]
    Latency.model_validate({**vars(timing), "load_ms": 1.0, "first_inference_ms": 1.0})
    others = {"load_ms", "first_inference_ms", "verdict", "reasons"}
    assert set(vars(timing)) == set(Latency.model_fields) - others


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
def test_turns_go_there_and_back(names: str) -> None:
    lab, runners = lab_with({name: constant(1.0) for name in names})
    settings = MeasureSettings(warmup_min_s=0.01, warmup_max_s=0.02, min_samples=24, min_s=0.0)
    measured(lab, runners, settings)
    turns = "".join(name for name, _ in groupby(name for name, _ in lab.log))
    there_and_back = (names + names[::-1]) * 3
    expected = "".join(name for name, _ in groupby(names + there_and_back))
    assert turns == expected


def test_every_variant_has_the_same_number_of_samples() -> None:
    lab, runners = lab_with({"a": constant(0.3), "b": constant(7.0), "c": constant(2.0)})
    timings = measured(lab, runners)
    assert len({timing.samples for timing in timings.values()}) == 1
    assert timings["a"].samples == len(timings["a"].samples_ms) >= 40


def test_inputs_rotate() -> None:
    lab, runners = lab_with({"a": constant(1.0), "b": constant(3.0)})
    measured(lab, runners)
    for name in runners:
        used = [number for logged, number in lab.log if logged == name]
        assert all((before + 1) % 5 == after for before, after in pairwise(used))


def test_a_drift_of_the_machine_does_not_favour_a_variant() -> None:
    def drifting(base: float) -> Callable[[float, int], float]:
        return lambda now_s, _: base * (1 + now_s)

    lab, runners = lab_with({"a": drifting(1.0), "b": drifting(1.0)})
    timings = measured(lab, runners)
    ratio, (low, high), _ = speedup(timings["a"].samples_ms, timings["b"].samples_ms)
    assert abs(ratio - 1) < 0.01 and low <= 1 <= high
    assert timings["a"].max_ms > 1.1 * timings["a"].min_ms


def test_what_another_variant_left_in_the_caches_is_not_measured() -> None:
    lab = Lab()

    class Cached(FakeRunner):
        def infer(self, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
            cold = not lab.log or lab.log[-1][0] != self._name
            self._cost = constant(2.0 if cold else 1.0)
            return super().infer(inputs)

    runners = {name: Cached(lab, name, constant(1.0)) for name in "ab"}
    timings = measured(lab, runners)
    assert timings["a"].max_ms == timings["b"].max_ms == 1.0


def test_warming_up_ends_when_windows_agree() -> None:
    def warming(now_s: float, call: int) -> float:
        return 1.0 + 4.0 * 0.98**call

    settings = MeasureSettings(warmup_min_s=0.2, warmup_max_s=60.0, min_samples=16, min_s=0.0)
    lab, runners = lab_with({"a": warming})
    timing = measured(lab, runners, settings)["a"]
    assert 0.25 < timing.warmup_s < 2.0
    assert timing.max_ms < 1.5


def test_warming_up_has_an_end() -> None:
    lab, runners = lab_with({"a": lambda _, call: 1.0 + call})
    timing = measured(lab, runners)["a"]
    assert QUICK.warmup_max_s <= timing.warmup_s < 2 * QUICK.warmup_max_s


def test_the_most_seconds_end_a_slow_engine() -> None:
    lab, runners = lab_with({"slow": constant(4000.0), "fast": constant(1.0)})
    settings = MeasureSettings(warmup_min_s=0.1, min_samples=1000, min_s=5.0, max_s=30.0)
    before = lab.now
    timings = measured(lab, runners, settings)
    assert timings["slow"].samples == timings["fast"].samples == 6
    assert (lab.now - before) / 1e9 < 60.0
    assert timings["slow"].p90_ms is None and timings["slow"].median_ms == 4000.0


def test_the_fewest_seconds_are_kept() -> None:
    lab, runners = lab_with({"a": constant(1.0)})
    settings = MeasureSettings(warmup_min_s=0.01, min_samples=10, min_s=3.0)
    assert 2990 <= measured(lab, runners, settings)["a"].samples <= 3010


def test_progress_grows_to_one() -> None:
    told: list[tuple[str, float]] = []
    lab, runners = lab_with({"a": constant(1.0), "b": constant(1.0)})
    sources = {name: inputs(2) for name in runners}
    compare(runners, sources, QUICK, lab.clock, lambda what, fraction: told.append((what, fraction)))
    assert [what for what, _ in told][:2] == ["warming up a", "warming up b"]
    timing = [fraction for what, fraction in told if what == "timing"]
    assert timing == sorted(timing) and timing[-1] == 1.0


def test_the_garbage_collector_rests_meanwhile_and_is_back_after_an_error() -> None:
    seen: list[bool] = []

    def cost(now_s: float, call: int) -> float:
        seen.append(gc.isenabled())
        if call == 30:
            raise RuntimeError("broken")
        return 1.0

    lab, runners = lab_with({"a": cost})
    with pytest.raises(RuntimeError, match="broken"):
        measured(lab, runners)
    assert not any(seen) and gc.isenabled()


def test_a_variant_without_inputs_is_refused() -> None:
    lab, runners = lab_with({"a": constant(1.0), "b": constant(1.0)})
    with pytest.raises(ConfigError, match="no inputs to time b"):
        compare(runners, {"a": inputs(1), "b": []}, QUICK, lab.clock)


def test_opening_and_the_first_inference_are_timed_apart() -> None:
    lab = Lab()

    class Opening:
        def open(self, engine: object) -> FakeRunner:
            lab.now += 40_000_000
            return FakeRunner(lab, "a", constant(2.5))

    opened = open_timed(Opening(), None, inputs(1)[0], lab.clock)
    assert (opened.load_ms, opened.first_inference_ms) == (40.0, 2.5)
    assert opened.runner.calls == 1
