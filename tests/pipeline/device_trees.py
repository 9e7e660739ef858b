"""Small Debian systems in folders, to try bundles in: x86-64 as it is, arm64 by qemu. Made once, then kept.

Root, mmdebstrap, a network, and for arm64 qemu-user-static are needed; `make test-devices` says where they
are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from targets.versions import installed_version

SUITE, PYTHON = "bookworm", "3.11"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
WHEELS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
# What runtimes read of a machine; without it OpenVINO waits for ever, given the host's ONNX Runtime dies.
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


@dataclass(frozen=True)
class Tree:
    """A system in a folder.

    Args:
        folder: its root.
        prefix: what runs its programs: nothing, or qemu.
    """

    folder: Path
    prefix: tuple[str, ...] = ()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the tree in it."""
        whole = ["chroot", str(self.folder), *self.prefix, *command]
        variables = {"PATH": PATH, "HOME": "/root", "PYTHONPATH": "/opt/site", **environment}
        return subprocess.run(whole, env=variables, capture_output=True, text=True, check=False, timeout=900)


def amd64(trees: Path) -> Tree:
    """Debian's essential packages, its Python and numpy, and ONNX Runtime."""
    return Tree(
        _made(
            trees / f"{SUITE}-amd64", "amd64", "essential", ("python3-numpy", "libstdc++6"), ("onnxruntime",)
        )
    )


def arm64(trees: Path) -> Tree:
    """Python unpacked, not installed: nothing has to run for that. numpy and ONNX Runtime are wheels."""
    included = ("python3-minimal", "libpython3.11-stdlib", "libstdc++6", "zlib1g")
    folder = _made(trees / f"{SUITE}-arm64", "arm64", "extract", included, ("numpy==1.26.4", "onnxruntime"))
    return Tree(folder, ("/usr/bin/qemu-aarch64-static", "-cpu", "max"))


def _made(
    folder: Path, architecture: str, variant: str, included: tuple[str, ...], wheels: tuple[str, ...]
) -> Path:
    if folder.is_dir():
        return folder
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    options = [f"--architectures={architecture}", f"--include={','.join(included)}", f"--variant={variant}"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _checked("mmdebstrap", *options, SUITE, str(beside))
        _add_wheels(beside, {"amd64": "x86_64", "arm64": "aarch64"}[architecture], wheels)
        if architecture == "arm64":
            _stand_in(beside)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _add_wheels(folder: Path, machine: str, wheels: tuple[str, ...]) -> None:
    """The very ONNX Runtime that is installed here, for the tree's machine."""
    exact = [f"{name}=={installed_version(name)}" if "==" not in name else name for name in wheels]
    platforms = [f"--platform={name}_{machine}" for name in WHEELS]
    target = ["--target", str(folder / "opt/site"), "--only-binary=:all:", f"--python-version={PYTHON}"]
    _checked(sys.executable, "-m", "pip", "install", "--quiet", *target, *platforms, *exact)


def _stand_in(folder: Path) -> None:
    shutil.copy2(str(shutil.which("qemu-aarch64-static")), folder / "usr/bin/qemu-aarch64-static")
    files = {f"sys/devices/system/cpu/{name}": "0-1\n" for name in ("possible", "present", "online")}
    files["proc/cpuinfo"] = "".join(CPUINFO.format(number=number) for number in range(2))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "root").mkdir(exist_ok=True)
    for name, minor in (("null", 3), ("urandom", 9)):
        device = folder / "dev" / name
        device.parent.mkdir(exist_ok=True)
        if not device.exists():
            os.mknod(device, 0o020666, os.makedev(1, minor))


def _checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
