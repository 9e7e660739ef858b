"""Energy from recorded sensors, on a clock that only fake inferences and fake sleep move."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_environment import machine
from test_measure import Lab

from targets.energy import energy, find_sensor

HWMON = "sys/class/hwmon/hwmon3"
# A Jetson Orin: three rails, 5 V; VDD_IN holds the others.
RAILS = {
    f"{HWMON}/name": "ina3221\n",
    f"{HWMON}/in1_label": "VDD_IN\n",
    f"{HWMON}/in1_input": "5000\n",
    f"{HWMON}/curr1_input": "1200\n",
    f"{HWMON}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{HWMON}/in2_input": "5000\n",
    f"{HWMON}/curr2_input": "400\n",
    "sys/class/hwmon/hwmon0/name": "tmp451\n",
    "sys/class/hwmon/hwmon0/in1_input": "900\n",
}
RAPL = "sys/class/powercap/intel-rapl:0"
PACKAGES = {
    f"{RAPL}/name": "package-0\n",
    f"{RAPL}/energy_uj": "1000000\n",
    f"{RAPL}/max_energy_range_uj": "5000000\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "7\n",
    "sys/class/powercap/intel-rapl:1/name": "psys\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "7\n",
}


def test_without_a_sensor_there_is_no_energy(tmp_path: Path) -> None:
    assert find_sensor(tmp_path) is None
    dumb = {name: text for name, text in RAILS.items() if "label" not in name}
    assert find_sensor(machine(tmp_path, dumb)) is None


def test_a_counter_that_may_not_be_read_is_no_sensor(tmp_path: Path) -> None:
    root = machine(tmp_path, {**PACKAGES, f"{RAPL}/energy_uj": ""})
    assert find_sensor(root) is None


def test_a_board_is_read_from_its_whole_rail(tmp_path: Path) -> None:
    root = machine(tmp_path, RAILS)
    lab = Lab()
    sensor = find_sensor(root)
    assert sensor is not None and sensor.name == "INA3221 VDD_IN"

    def infer(_: object) -> None:
        """5 ms at 10 W."""
        lab.now += 5_000_000
        machine(root, {f"{HWMON}/curr1_input": "2000\n"})

    def idle(seconds: float) -> None:
        lab.now += round(seconds * 1e9)

    found = energy(sensor, infer, [0], 2.0, lab.clock, idle)
    assert found.inferences == 400
    assert math.isclose(found.idle_watts, 6.0)
    assert math.isclose(found.watts, 10.0, rel_tol=0.01)
    assert math.isclose(found.millijoules, 50.0, rel_tol=0.01)
    assert math.isclose(found.above_idle_millijoules, 20.0, rel_tol=0.03)


def test_rails_that_no_other_holds_are_added_up(tmp_path: Path) -> None:
    named = {**RAILS, f"{HWMON}/in1_label": "VDD_GPU_SOC\n"}
    sensor = find_sensor(machine(tmp_path, named))
    assert sensor is not None and sensor.name == "INA3221 VDD_CPU_GPU_CV + VDD_GPU_SOC"
    sensor.joules(0.0)
    assert math.isclose(sensor.joules(2.0), 2 * 8.0)


def test_packages_count_through_the_end_of_their_range(tmp_path: Path) -> None:
    root = machine(tmp_path, PACKAGES)
    sensor = find_sensor(root)
    assert sensor is not None and sensor.name == "RAPL package-0"
    machine(root, {f"{RAPL}/energy_uj": "4500000\n"})
    assert math.isclose(sensor.joules(1.0), 3.5)
    machine(root, {f"{RAPL}/energy_uj": "500000\n"})
    assert math.isclose(sensor.joules(2.0), 3.5 + 1.0)


@pytest.mark.parametrize("ms", [1, 100])
def test_a_package_draws_what_its_counter_says(tmp_path: Path, ms: int) -> None:
    root = machine(tmp_path, {**PACKAGES, f"{RAPL}/max_energy_range_uj": "262143328850\n"})
    lab, drawn = Lab(), [1_000_000]

    def pass_time(seconds: float, watts: float) -> None:
        lab.now += round(seconds * 1e9)
        drawn[0] += round(1e6 * watts * seconds)
        machine(root, {f"{RAPL}/energy_uj": f"{drawn[0]}\n"})

    sensor = find_sensor(root)
    assert sensor is not None
    found = energy(
        sensor, lambda _: pass_time(ms / 1e3, 25.0), [0], 1.0, lab.clock, lambda s: pass_time(s, 5.0)
    )
    assert math.isclose(found.millijoules, 25.0 * ms, rel_tol=1e-3)
    assert math.isclose(found.above_idle_millijoules, 20.0 * ms, rel_tol=1e-3)
