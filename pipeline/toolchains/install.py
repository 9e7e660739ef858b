"""Install a toolchain into a folder of edgewright's own: pinned files, checked by sha256, and nothing else.

pip fetches, with the index, proxy and certificates the user has configured for it, and refuses every file
whose sha256 is another. The folder is made beside its place and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.disk import explained
from pipeline.toolchains.pins import PinnedFile, PinnedToolchain, Program
from targets.errors import ToolchainMissing
from targets.private import packages_folder, private_folder

NOTE = "installed.json"
NOTE_SCHEMA = "edgewright.installed/1"
TARGETS = Path(__file__).parents[2] / "targets"
# Where pip would put things by the user's own settings; here it is told where.
PLACES = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")


@dataclass(frozen=True)
class Plan:
    """What installing a toolchain will do.

    Args:
        name: of the toolchain.
        toolchain: its pins.
        files: what is fetched.
        folder: what is made; replaced when it is there.
        missing: Debian packages it needs that are not installed.
    """

    name: str
    toolchain: PinnedToolchain
    files: Sequence[PinnedFile]
    folder: Path
    missing: Sequence[str]

    @property
    def size_bytes(self) -> int:
        """Bytes to fetch."""
        return sum(file.size_bytes for file in self.files)

    @property
    def next_step(self) -> str | None:
        """What is left to the user, who alone may change the system; None when nothing is."""
        return f"as root: apt-get install {' '.join(self.missing)}" if self.missing else None


def plan(name: str, toolchain: PinnedToolchain) -> Plan:
    """Find out what installing would do; fetches and changes nothing.

    Raises:
        ToolchainMissing: there are no files for this Python, or a compiler it needs is missing.
    """
    missing = [package for package in toolchain.system if not _has_package(package)]
    program = toolchain.program
    if program and shutil.which(program.compiler) is None:
        raise ToolchainMissing(
            f"{name} needs {program.compiler} first",
            mend=f"as root: apt-get install {' '.join(missing or toolchain.system)}",
        )
    folder = packages_folder(name) if toolchain.way == "packages" else private_folder(name) / "unpacked"
    return Plan(name, toolchain, toolchain.chosen(), folder, missing)


def install(plan: Plan) -> None:
    """Do it. Interrupted or failing, it leaves what was there before.

    Raises:
        ToolchainMissing: pip is missing, or cannot fetch a file, or its sha256 is another.
        StoreError: no permission or no room.
    """
    with explained(plan.folder), _beside(plan.folder) as folder:
        if plan.toolchain.way == "packages":
            wheels = all(file.is_wheel for file in plan.files)
            _pip(["install", "--target", str(folder)], plan.files, folder, only_wheels=wheels)
        else:
            for file in plan.files:
                _unpack(file, folder)
        if plan.toolchain.program:
            _compile(plan.toolchain.program, folder)
        note = {
            "schema": NOTE_SCHEMA,
            "toolchain": plan.name,
            "files": {file.file: file.sha256 for file in plan.files},
        }
        (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def installed(name: str, toolchain: PinnedToolchain) -> Path | None:
    """Return the folder a toolchain was installed into, whatever its pins were then; None without one."""
    folder = packages_folder(name) if toolchain.way == "packages" else private_folder(name) / "unpacked"
    return folder if (folder / NOTE).is_file() else None


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Make a folder beside its place; at the end it takes the place of what was there."""
    root = private_folder("")
    made, old = root / f".new-{os.getpid()}", root / f".old-{os.getpid()}"
    try:
        made.mkdir(parents=True)
        yield made
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    finally:
        for leftover in (made, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _pip(
    command: Sequence[str],
    files: Sequence[PinnedFile],
    folder: Path,
    *,
    only_wheels: bool,
    options: Sequence[str] = (),
) -> None:
    wanted = folder / "requirements.txt"
    lines = [f"{file.requirement} --hash=sha256:{file.sha256}\n" for file in files]
    wanted.write_text("".join(lines), encoding="utf-8")
    checked = ["--require-hashes", "--no-deps", "--requirement", str(wanted), *options]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, *checked, *(["--only-binary=:all:"] if only_wheels else [])],
        env={key: value for key, value in os.environ.items() if key not in PLACES}
        | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wanted.unlink()
    if done.returncode:
        raise ToolchainMissing(f"pip cannot fetch it: {_reason(done.stderr)}", mend=_mend(done.stderr))


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "No module named" in line]
    return (errors or lines or ["it said nothing"])[0].removeprefix("ERROR: ")


def _mend(said: str) -> str:
    if "No module named pip" in said:
        return f"{sys.executable} -m ensurepip"
    if "DO NOT MATCH THE HASHES" in said:
        return "a file is not the one edgewright was tested with: do not use it, and ask who runs your index"
    return "see that pip reaches its index (pip config list), then run the same command again"


def _unpack(file: PinnedFile, folder: Path) -> None:
    """Fetch a wheel for another Python or system, and unpack it; nothing of it runs."""
    python, platform = file.foreign
    fetched = folder / "fetched"
    foreign = ["--python-version", python, "--platform", platform]
    fetched.mkdir()
    _pip(["download", "--dest", str(fetched)], [file], folder, only_wheels=True, options=foreign)
    with zipfile.ZipFile(fetched / file.file) as wheel:
        wheel.extractall(folder)
    shutil.rmtree(fetched)


def _compile(program: Program, folder: Path) -> None:
    place = next(iter(sorted(folder.glob(f"**/{program.beside}")))).with_name(program.file)
    done = subprocess.run(
        [program.compiler, "-O2", "-o", str(place), str(TARGETS / program.source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolchainMissing(f"{program.compiler} fails: {done.stderr[-400:]}", where=program.source)


def _has_package(package: str) -> bool:
    """Whether a Debian package is installed; not known on other systems, where nothing is missed."""
    query = shutil.which("dpkg-query")
    if query is None:
        return True
    done = subprocess.run(
        [query, "--show", "--showformat=${db:Status-Status}", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout == "installed"
