"""Verdicts on fake devices: steady, drifting, throttling, contended, bimodal, hardly measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_measure import constant, lab_with, measured

from targets.measure import MeasureSettings
from targets.timing import summarise
from targets.trends import drift, scatter, two_modes
from targets.verdict import judge

SETTINGS = MeasureSettings(warmup_min_s=0.05, warmup_max_s=1.0, min_samples=400, min_s=0.0, max_s=60.0)
IDLE = {"uptime_s": "100.00", "frequency_mhz": "1500", "cpu_pressure_us": "0", "cpu_steal_ticks": "0"}


def verdict_of(
    cost: Callable[[float, int], float],
    after: dict[str, str] | None = None,
    settings: MeasureSettings = SETTINGS,
) -> tuple[str, list[str]]:
    """Time a fake device and judge it by what its machine says before and after."""
    lab, runners = lab_with({"a": cost})
    timing = measured(lab, runners, settings)["a"]
    end = {**IDLE, "uptime_s": f"{100 + lab.now / 1e9:.2f}", **(after or {})}
    return judge(timing, IDLE, end, settings)


def noisy(milliseconds: float, share: float = 0.01, seed: int = 0) -> Callable[[float, int], float]:
    random = np.random.default_rng(seed)
    return lambda *_: milliseconds * (1 + share * random.standard_normal())


def test_a_steady_device_is_stable() -> None:
    assert verdict_of(constant(1.0)) == ("stable", [])
    assert verdict_of(noisy(1.0, 0.03)) == ("stable", [])


def test_late_samples_do_not_condemn_a_run() -> None:
    assert verdict_of(lambda _, call: 30.0 if call % 100 == 99 else 1.0) == ("stable", [])


def test_a_device_that_gets_slower_drifts() -> None:
    verdict, reasons = verdict_of(lambda now, _: 1.0 + 0.2 * now)
    assert verdict == "drifting" and any(reason.startswith("slower by") for reason in reasons)


def throttling(now: float, _call: int) -> float:
    """Full speed for a third of a second, then 40 % slower: the clock was lowered."""
    return 1.0 if now < 0.3 else 1.4


def test_a_device_that_throttles_is_found_by_its_clock_and_without_one_by_its_drift() -> None:
    verdict, reasons = verdict_of(throttling, {"frequency_mhz": "1000"})
    assert verdict == "throttled" and "frequency mhz fell from 1500 to 1000" in reasons
    assert verdict_of(throttling)[0] in ("drifting", "contended")
    assert any("slower by" in reason for reason in verdict_of(throttling)[1])


def test_a_clock_that_falls_without_slowing_anything_down_is_no_throttling() -> None:
    assert verdict_of(constant(1.0), {"frequency_mhz": "800"})[0] == "stable"


@pytest.mark.parametrize(
    ("after", "verdict", "reason"),
    [
        ({"throttle_events": "3"}, "throttled", "3 thermal throttle events"),
        ({"overcurrent_events": "1"}, "throttled", "1 over-current events"),
        ({"firmware_throttled": "50005"}, "throttled", "0x50005"),
        ({"cooling_level": "2"}, "throttled", "2 levels"),
        ({"cgroup_throttled_periods": "9"}, "contended", "in 9 periods"),
        ({"cpu_steal_ticks": "30"}, "contended", "other virtual machines took"),
        ({"cpu_pressure_us": "300000"}, "contended", "waited for a CPU"),
    ],
)
def test_counters_of_the_machine_decide(after: dict[str, str], verdict: str, reason: str) -> None:
    lab, runners = lab_with({"a": constant(1.0)})
    timing = measured(lab, runners, SETTINGS)["a"]
    zeros = dict.fromkeys(after, "0")
    found = judge(timing, {**IDLE, **zeros}, {**IDLE, "uptime_s": "101.00", **after}, SETTINGS)
    assert found.verdict == verdict and reason in " ".join(found.reasons)
    assert judge(timing, IDLE, {**IDLE, "uptime_s": "101.00"}, SETTINGS).verdict == "stable"


def test_a_bimodal_device_is_not_stable_and_both_modes_are_named() -> None:
    random = np.random.default_rng(1)
    verdict, reasons = verdict_of(lambda *_: float(random.choice([1.0, 2.0])))
    assert verdict == "contended"
    assert "samples have two modes, 1 and 2 ms: something switches" in reasons


def test_a_device_whose_samples_scatter_is_contended() -> None:
    random = np.random.default_rng(2)
    verdict, reasons = verdict_of(lambda *_: float(random.uniform(1.0, 2.0)))
    assert verdict == "contended" and any("scatter" in reason for reason in reasons)


def test_few_samples_come_before_every_other_complaint() -> None:
    short = MeasureSettings(warmup_min_s=0.01, min_samples=700, min_s=0.0, max_s=0.05)
    verdict, reasons = verdict_of(throttling, {"frequency_mhz": "1000", "cooling_level": "1"}, short)
    assert verdict == "too few samples"
    assert "700 were wanted" in reasons[0] and len(reasons) > 1


def test_few_samples_are_few_even_when_no_more_were_asked_for() -> None:
    short = MeasureSettings(warmup_min_s=0.01, min_samples=8, min_s=0.0)
    assert verdict_of(constant(1.0), settings=short)[0] == "too few samples"


def test_a_warm_up_that_never_settles_is_said() -> None:
    timing = summarise([1.0] * 200, 5.0, MeasureSettings(), settled=False)
    found = judge(timing, {}, {}, MeasureSettings())
    assert found == ("drifting", ["windows of the warm-up did not agree within 5.0 s"])


@given(st.floats(0.1, 100), st.floats(-0.4, 0.4))
def test_the_drift_of_a_straight_line_is_its_rise(level: float, rise: float) -> None:
    found = drift(level * (1 + rise * (np.linspace(0, 1, 400) - 0.5)))
    assert found is not None and math.isclose(found.change, rise, abs_tol=0.06 * abs(rise) + 1e-9)
    assert found.p < 0.01 or abs(rise) < 1e-9


def test_samples_without_a_trend_seldom_look_like_one() -> None:
    random = np.random.default_rng(3)
    found = [drift(1 + 0.05 * random.standard_normal(400)) for _ in range(300)]
    assert np.mean([each is not None and each.p < 0.01 for each in found]) < 0.03


def test_too_few_samples_have_no_drift_and_no_modes() -> None:
    samples = np.tile([1.0, 2.0], 39)
    assert drift(samples) is None and two_modes(samples) is None


def test_scatter_of_normal_samples_is_their_coefficient_of_variation() -> None:
    samples = 5 + 0.5 * np.random.default_rng(4).standard_normal(20_000)
    assert math.isclose(scatter(samples), 0.1, rel_tol=0.05)


@pytest.mark.parametrize("kind", ["normal", "uniform", "exponential", "lognormal"])
def test_one_heap_is_not_taken_for_two(kind: str) -> None:
    random = np.random.default_rng(5)
    for _ in range(40):
        draw = getattr(random, kind)
        samples = draw(size=400) if kind != "lognormal" else draw(0.0, 0.3, size=400)
        assert two_modes(10 + samples) is None


@given(st.floats(0.15, 0.85), st.floats(1.15, 3.0), st.integers(0, 99))
def test_two_modes_are_found_where_they_are(share: float, factor: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = (1 + 0.01 * random.standard_normal(400)) * np.where(random.random(400) < share, factor, 1.0)
    found = two_modes(samples)
    assert found is not None
    assert math.isclose(found[0], 1.0, rel_tol=0.02) and math.isclose(found[1], factor, rel_tol=0.02)
