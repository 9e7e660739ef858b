"""Facts and state of a machine, read from recorded trees of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.cpu import cpu_fingerprint, cpu_flags, cpu_limit, cpu_model
from targets.environment import facts, process_facts, state

CPU = "sys/devices/system/cpu"

X86 = {
    "proc/cpuinfo": (
        "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\n"
        "flags\t\t: fpu sse4_2 smep avx2 avx512f avx512_vnni fma hypervisor\n\n"
        "processor\t: 1\nmodel name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\n"
    ),
    "proc/loadavg": "0.52 0.58 0.59 1/389 12345\n",
    "proc/meminfo": "MemTotal:       16303428 kB\nMemFree: 1 kB\nMemAvailable:   12000000 kB\n",
    "proc/stat": "cpu  10 20 30 40 50 60 70 80 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n",
    "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
    "proc/self/cgroup": "0::/box/job\n",
    "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/fs/cgroup/cpu.stat": "nr_throttled 0\n",
    "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/box/memory.max": "2147483648\n",
    "sys/fs/cgroup/box/job/memory.max": "max\n",
    "sys/fs/cgroup/box/job/cpu.max": "max 100000\n",
    "sys/fs/cgroup/box/job/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 7\n",
    f"{CPU}/online": "0-1,4\n",
    f"{CPU}/smt/control": "off\n",
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
    f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "3200000\n",
    f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3200000\n",
    f"{CPU}/cpu0/cpufreq/cpuinfo_min_freq": "800000\n",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "4\n",
    "sys/class/hwmon/hwmon0/name": "coretemp\n",
    "sys/class/hwmon/hwmon0/temp1_input": "45000\n",
    "sys/class/hwmon/hwmon0/temp2_input": "47500\n",
}

ARM = {
    "proc/cpuinfo": (
        "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\n"
        "processor\t: 4\nFeatures\t: fp asimd crc32 asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
    ),
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/loadavg": "1.00 0.9 0.8 2/100 77\n",
    "proc/self/cgroup": "3:cpu,cpuacct:/\n1:name=systemd:/\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    f"{CPU}/online": "0-3\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "ondemand\n",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "61850\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}

# A Jetson Orin Nano with JetPack 6, in its 15 W mode, clocks not locked, once held back by its supply.
JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=7W >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0000\nfmode:cool\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/uptime": "5321.18 30001.02\n",
    "proc/pressure/cpu": "some avg10=0.00 avg60=0.10 avg300=0.05 total=81234567\n",
    "proc/cpuinfo": (
        "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    ),
    f"{CPU}/online": "0-5\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "schedutil\n",
    f"{CPU}/cpu0/cpufreq/scaling_min_freq": "729600\n",
    f"{CPU}/cpu0/cpufreq/scaling_max_freq": "1510400\n",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "54312\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "1\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "2\n",
}


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_facts_of_an_x86_machine(tmp_path: Path) -> None:
    assert facts(machine(tmp_path, X86)) == {
        "cpu_model": "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
        "cpu_flags": "avx2 avx512_vnni avx512f fma sse4_2",
        "cores": "3",
        "cpu_limit": "1.5",
        "smt": "off",
        "governor": "performance + powersave",
        "frequency_min_mhz": "800",
        "frequency_max_mhz": "3200",
        "turbo": "off",
        "virtual_machine": "yes",
        "memory_mib": "15921",
        "memory_limit_mib": "2048",
        "system": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.8.0-45-generic",
    }


def test_state_of_an_x86_machine(tmp_path: Path) -> None:
    assert state(machine(tmp_path, X86)) == {
        "load_average_1min": "0.52",
        "memory_available_mib": "11718",
        "governor": "performance + powersave",
        "frequency_mhz": "2000 to 3200",
        "cpu_steal_ticks": "80",
        "cgroup_throttled_periods": "7",
        "throttle_events": "7",
        "temperature_coretemp_c": "45.0",
        "temperature_coretemp_2_c": "47.5",
    }


def test_an_arm_board(tmp_path: Path) -> None:
    root = machine(tmp_path, ARM)
    assert facts(root) == {
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "cpu_model": "Arm implementer 0x41 part 0xd05 + 0xd0b",
        "cpu_flags": "asimd asimddp",
        "cores": "4",
        "cpu_limit": "2.0",
        "governor": "ondemand",
    }
    assert state(root) == {
        "load_average_1min": "1.00",
        "governor": "ondemand",
        "frequency_mhz": "1500",
        "firmware_throttled": "50005",
        "temperature_cpu-thermal_c": "61.9",
    }


def test_a_jetson(tmp_path: Path) -> None:
    root = machine(tmp_path, JETSON)
    assert facts(root) == {
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "cpu_model": "Arm implementer 0x41 part 0xd42",
        "cpu_flags": "asimd asimddp",
        "cores": "6",
        "governor": "schedutil",
        "l4t": "36.3.0",
        "nvpmodel": "0 15W",
        "jetson_clocks": "off",
        "gpu_frequency_max_mhz": "624",
    }
    assert state(root) == {
        "uptime_s": "5321.18",
        "governor": "schedutil",
        "frequency_mhz": "1510",
        "cpu_pressure_us": "81234567",
        "cooling_level": "1",
        "gpu_frequency_mhz": "612",
        "overcurrent_events": "2",
        "temperature_cpu-thermal_c": "54.3",
    }


def test_jetson_clocks_leave_no_clock_any_room(tmp_path: Path) -> None:
    locked = {
        f"{CPU}/cpu0/cpufreq/scaling_min_freq": "1510400\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "624750000\n",
    }
    assert facts(machine(tmp_path, {**JETSON, **locked}))["jetson_clocks"] == "on"


def test_the_process_says_what_steers_a_runtime() -> None:
    found = process_facts({"OMP_NUM_THREADS": "1", "LD_PRELOAD": "libjemalloc.so", "HOME": "/root"})
    assert found["$OMP_NUM_THREADS"] == "1" and found["$LD_PRELOAD"] == "libjemalloc.so"
    assert "python" in found and not any("HOME" in name for name in found)


def test_what_is_absent_is_left_out(tmp_path: Path) -> None:
    assert facts(tmp_path) == {} and state(tmp_path) == {}
    assert cpu_model(tmp_path) is None and cpu_flags(tmp_path) == frozenset() and cpu_limit(tmp_path) is None


@pytest.mark.parametrize("unreadable", ["not a number", ""])
def test_a_sensor_that_fails_is_left_out(tmp_path: Path, unreadable: str) -> None:
    root = machine(tmp_path, {**ARM, "sys/class/thermal/thermal_zone0/temp": unreadable})
    assert not [name for name in state(root) if name.startswith("temperature")]


def test_zones_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    zones = {
        "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "-5000\n",
    }
    found = state(machine(tmp_path, {**ARM, **zones}))
    assert found["temperature_cpu-thermal_c"] == "61.9" and found["temperature_cpu-thermal_2_c"] == "-5.0"


def test_the_fingerprint_ignores_flags_that_pick_no_kernel(tmp_path: Path) -> None:
    first = machine(tmp_path / "one", X86)
    mitigated = {**X86, "proc/cpuinfo": X86["proc/cpuinfo"].replace("hypervisor", "hypervisor ibrs md_clear")}
    second = machine(tmp_path / "two", mitigated)
    lesser = {**X86, "proc/cpuinfo": X86["proc/cpuinfo"].replace("avx512_vnni", "")}
    third = machine(tmp_path / "three", lesser)
    assert cpu_fingerprint(first) == cpu_fingerprint(second) != cpu_fingerprint(third)
    assert cpu_fingerprint(first)["cpu_flags"] == "avx2 avx512_vnni avx512f fma sse4_2"


def test_this_machine_says_something() -> None:
    assert "cores" in facts() and "load_average_1min" in state()
