"""Small systems in folders, to try bundles in: x86-64 as it is, arm64 by qemu. Made once, then kept.

Root, mmdebstrap, a network, and for arm64 qemu-user-static are needed; `make test-devices` says where they
are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from targets.versions import installed_version

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
QEMU = "/usr/bin/qemu-aarch64-static"
GLIBC = ("manylinux_2_35", "manylinux_2_31", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# What runs unpacked, without any package having been installed: nothing of another processor has to run.
UNPACKED = ("libstdc++6", "zlib1g", "python3-minimal")

# A Neoverse N1, as qemu's largest Arm processor is none that was ever made.
CPUINFO = """\
processor\t: {number}
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm crc32 atomics fphp asimdhp asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
MIDR = "0x00000000413fd0c1\n"
PROCESSORS = "sys/devices/system/cpu"
LISTS = ("online", "possible", "present")

# Debian has no package of it; its keys are those that sign Ubuntu's archive since 2012 and 2018.
UBUNTU = "http://archive.ubuntu.com/ubuntu"
UBUNTU_KEYS = f"{UBUNTU}/pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb"
UBUNTU_KEYS_SHA256 = "0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f"


@dataclass(frozen=True)
class System:
    """What a tree is made of.

    Args:
        suite: of Debian, or of Ubuntu.
        architecture: as Debian names it.
        python: version its packages are for.
        variant: of mmdebstrap.
        packages: besides those of the variant.
        wheels: runtime → wheels in a folder of their own, without what they depend on; without a
            version, the one that is installed here.
    """

    suite: str
    architecture: str
    python: str
    variant: str
    packages: tuple[str, ...]
    wheels: Mapping[str, tuple[str, ...]]


NUMPY = "numpy==1.26.4"
CLEAN = System(
    "bookworm",
    "amd64",
    "3.11",
    "essential",
    ("python3-numpy", "libstdc++6"),
    {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",)},
)
ARM64 = System(
    "bookworm",
    "arm64",
    "3.11",
    "extract",
    (*UNPACKED, "libpython3.11-stdlib"),
    {"onnxruntime": ("onnxruntime", NUMPY), "openvino": ("openvino", NUMPY)},
)
# The last wheels for Python 3.8, which JetPack 5 has.
OLDEST = System(
    "focal",
    "amd64",
    "3.8",
    "extract",
    (*UNPACKED, "libpython3.8-stdlib"),
    {"onnxruntime": ("onnxruntime==1.19.2", "numpy==1.24.4")},
)


@dataclass(frozen=True)
class Tree:
    """A system in a folder."""

    folder: Path
    system: System

    def run(
        self, *command: str, runtime: str = "onnxruntime", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the tree in it, with one runtime to be found."""
        prefix = (QEMU, "-cpu", "max") if self.system.architecture == "arm64" else ()
        whole = ["chroot", str(self.folder), *prefix, *command]
        # Without a home OpenVINO's telemetry, without a path its Python would not be found.
        variables = {"PATH": PATH, "HOME": "/root", "PYTHONPATH": f"/opt/{runtime}", **environment}
        return subprocess.run(whole, env=variables, capture_output=True, text=True, check=False, timeout=900)

    def python(self, *arguments: str, runtime: str = "onnxruntime") -> subprocess.CompletedProcess[str]:
        """Run its Python."""
        return self.run(f"/usr/bin/python{self.system.python}", *arguments, runtime=runtime)


def tree_of(system: System, trees: Path) -> Tree:
    """Return a system below a folder; made the first time."""
    folder = trees / f"{system.suite}-{system.architecture}"
    if not folder.is_dir():
        beside = folder.with_name(f"{folder.name}.{os.getpid()}")
        trees.mkdir(parents=True, exist_ok=True)
        try:
            _bootstrap(system, beside)
            for runtime, wheels in system.wheels.items():
                _add_wheels(system, beside / "opt" / runtime, wheels)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    _stand_in(system, folder)
    return Tree(folder, system)


def _bootstrap(system: System, folder: Path) -> None:
    options = [f"--architectures={system.architecture}", f"--include={','.join(system.packages)}"]
    command = ["mmdebstrap", *options, f"--variant={system.variant}", system.suite, str(folder)]
    with tempfile.TemporaryDirectory() as work:
        if system.suite == "focal":
            command.append(f"deb [signed-by={_ubuntu_keys(Path(work))}] {UBUNTU} {system.suite} main")
        _checked(*command)


def _ubuntu_keys(folder: Path) -> Path:
    """The keys Ubuntu's archive is signed with; what is fetched is pinned by its digest."""
    with urllib.request.urlopen(UBUNTU_KEYS, timeout=60) as answer:
        content = answer.read()
    assert hashlib.sha256(content).hexdigest() == UBUNTU_KEYS_SHA256
    (folder / "keys.deb").write_bytes(content)
    _checked("dpkg-deb", "-x", str(folder / "keys.deb"), str(folder))
    return folder / "usr/share/keyrings/ubuntu-archive-keyring.gpg"


def _add_wheels(system: System, folder: Path, wheels: tuple[str, ...]) -> None:
    exact = [name if "==" in name else f"{name}=={installed_version(name)}" for name in wheels]
    platforms = [f"--platform={glibc}_{MACHINES[system.architecture]}" for glibc in GLIBC]
    target = ["--target", str(folder), "--no-deps", "--only-binary=:all:"]
    version = f"--python-version={system.python}"
    _checked(sys.executable, "-m", "pip", "install", "--quiet", *target, version, *platforms, *exact)


def _stand_in(system: System, folder: Path) -> None:
    """Small files in place of /proc, /sys and /dev, which are not mounted.

    Without them OpenVINO waits for ever for its threads, or dies of a processor it does not know; given the
    host's, ONNX Runtime for Arm dies of a processor that is none.
    """
    files = _host_files() if system.architecture == "amd64" else _arm_files()
    if system.architecture == "arm64":
        shutil.copy2(str(shutil.which(Path(QEMU).name)), folder / QEMU.lstrip("/"))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "root").mkdir(exist_ok=True)
    for name, minor in (("null", 3), ("urandom", 9)):
        device = folder / "dev" / name
        device.parent.mkdir(exist_ok=True)
        if not device.exists():
            os.mknod(device, 0o020666, os.makedev(1, minor))


def _host_files() -> dict[str, str]:
    paths = ("proc/cpuinfo", *(f"{PROCESSORS}/{name}" for name in LISTS))
    return {path: (Path("/") / path).read_text() for path in paths}


def _arm_files(count: int = 2) -> dict[str, str]:
    """A machine of so many processors, one thread each, in one package."""
    files = {f"{PROCESSORS}/{name}": f"0-{count - 1}\n" for name in LISTS}
    files["proc/cpuinfo"] = "".join(CPUINFO.format(number=number) for number in range(count))
    for number in range(count):
        one = f"{PROCESSORS}/cpu{number}"
        files |= {
            f"{one}/regs/identification/midr_el1": MIDR,
            f"{one}/topology/physical_package_id": "0\n",
            f"{one}/topology/core_id": f"{number}\n",
            f"{one}/topology/thread_siblings": f"{1 << number:x}\n",
            f"{one}/topology/core_siblings": f"{(1 << count) - 1:x}\n",
        }
    return files


def _checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
