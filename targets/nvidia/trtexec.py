"""trtexec where TensorRT's Python package is not: it builds plans, runs them on given inputs, and times them.

What versions decide differently is always said: 11 turned CUDA graphs and spinning on, and transfers off. A
time is trtexec's latency: inputs to the GPU, inference, outputs back. Flags of versions: sampleOptions.cpp of
NVIDIA/TensorRT at 8.2.1, 8.4.1, 8.6.1, 10.3 and 11.1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from targets.errors import ModelError, ToolchainMissing
from targets.nvidia.log import TrtexecLog, read_log

if TYPE_CHECKING:
    from targets.nvidia.options import BuildOptions
    from targets.toolchain import TensorSpec

VARIABLE = "EDGEWRIGHT_TRTEXEC"
PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
LIMIT_S = 3600.0
HELP_LIMIT_S = 60.0

# Releases in which a flag came or changed.
MEMORY_POOLS, SKIP_INFERENCE, RAW_OUTPUTS, LEVELS = (8, 4), (8, 6), (8, 6), (8, 6)
STRONGLY_TYPED, NEW_DEFAULTS = (10, 0), (11, 0)
TYPES = {"fp16": ["--fp16"], "int8": ["--fp16", "--int8"]}


@dataclass(frozen=True)
class Trtexec:
    """The program.

    Args:
        path: of it.
        version: as in "10.3.0".
    """

    path: str
    version: str

    def since(self, release: tuple[int, int]) -> bool:
        """Say whether it is of that release or a later one."""
        major, minor = self.version.split(".")[:2]
        return (int(major), int(minor)) >= release

    def run(self, arguments: Sequence[str], folder: Path, what: str, where: Path) -> TrtexecLog:
        """Run it in a folder and read its log.

        Args:
            arguments: flags.
            folder: where it works; names in its flags are of that folder.
            what: begins the complaint, as in "trtexec refuses the model".
            where: what that is about.

        Raises:
            ModelError: it fails, crashes or takes more than an hour; the message has its reason.
        """
        try:
            done = _call([self.path, *arguments], folder, LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{what}: no end within {LIMIT_S:g} s", where=str(where)) from error
        log = read_log(done.stdout)
        if not log.passed or done.returncode:
            code = f"it ended with code {done.returncode}; " if done.returncode not in (0, 1) else ""
            raise ModelError(
                f"{what}: {code}{log.reason()}",
                where=str(where),
                mend="edgewright check lists what the device cannot do, and how to mend it",
            )
        return log


@lru_cache(maxsize=None)
def find_trtexec() -> Trtexec | None:
    """Return trtexec: the one that EDGEWRIGHT_TRTEXEC names, of PATH, or of TensorRT's own folders."""
    named = os.environ.get(VARIABLE)
    for path in filter(None, [named] if named else [shutil.which("trtexec"), *PLACES]):
        if not os.access(str(path), os.X_OK):
            continue
        try:
            said = _call([str(path), "--help"], Path.cwd(), HELP_LIMIT_S).stdout
            return Trtexec(str(path), read_log(said).version)
        except (ModelError, OSError, subprocess.TimeoutExpired):
            continue
    return None


def require_trtexec() -> Trtexec:
    """Return trtexec.

    Raises:
        ToolchainMissing: there is none that runs.
    """
    found = find_trtexec()
    if found is None:
        raise ToolchainMissing("there is no trtexec", mend=f"name it: {VARIABLE}=/path/to/trtexec")
    return found


def build_flags(
    program: Trtexec, precision: str, asked: BuildOptions, inputs: Sequence[TensorSpec]
) -> list[str]:
    """Return what a build is told beside the names of its files."""
    flags = ["--profilingVerbosity=detailed", "--noTF32"]
    flags.append("--skipInference" if program.since(SKIP_INFERENCE) else "--buildOnly")
    if not program.since(STRONGLY_TYPED):
        flags += TYPES.get(precision, [])
    elif not program.since(NEW_DEFAULTS):
        flags.append("--stronglyTyped")
    if asked.workspace_mib:
        pools = program.since(MEMORY_POOLS)
        flags.append(f"--{'memPoolSize=workspace:' if pools else 'workspace='}{asked.workspace_mib}")
    if asked.optimization_level is not None:
        if not program.since(LEVELS):
            raise ModelError(
                f"TensorRT {program.version} has no optimization levels",
                where="raw.optimization_level",
                mend="leave it out",
            )
        flags.append(f"--builderOptimizationLevel={asked.optimization_level}")
    if asked.dla_core is not None:
        flags.append(f"--useDLACore={asked.dla_core}")
        flags += ["--allowGPUFallback"] if asked.gpu_fallback else []
    return flags + _profile_flags(asked, inputs)


def run_flags(program: Trtexec) -> list[str]:
    """Return what a run or a measurement is told beside its files and counts: transfers on, graphs off."""
    if program.since(NEW_DEFAULTS):
        return ["--includeDataTransfers", "--noCudaGraph"]
    return ["--useSpinWait"]


def read_times(path: Path) -> list[float]:
    """Return the milliseconds of every timed inference from a file of --exportTimes.

    Raises:
        ModelError: it is no such file.
    """
    try:
        return [float(each["latencyMs"]) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"trtexec's times cannot be read: {error!r}", where=str(path)) from error


def read_profile(path: Path) -> list[tuple[str, float]]:
    """Return name and median milliseconds of every layer from a file of --exportProfile.

    Before 8.6 it has averages alone.

    Raises:
        ModelError: it is no such file.
    """
    try:
        rows = [each for each in json.loads(path.read_text(encoding="utf-8")) if "name" in each]
        return [(str(each["name"]), float(each.get("medianMs", each["averageMs"]))) for each in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"trtexec's profile cannot be read: {error!r}", where=str(path)) from error


def shape_flag(name: str, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    """Return "--name=input:1x3,…" for inputs and their shapes; nothing without any."""
    texts = [f"{tensor}:{'x'.join(map(str, shape))}" for tensor, shape in shapes]
    return [f"--{name}={','.join(texts)}"] if texts else []


def safe_name(name: str) -> str:
    """Return a name for a file of a tensor: without what separates names in trtexec's flags."""
    return re.sub(r"[^\w.-]", "_", name)


def _profile_flags(asked: BuildOptions, inputs: Sequence[TensorSpec]) -> list[str]:
    open_inputs = [spec for spec in inputs if -1 in spec.shape]
    profiles = [(spec.name, asked.profile(spec.name, spec.shape)) for spec in open_inputs]
    flags: list[str] = []
    for index, which in enumerate(("minShapes", "optShapes", "maxShapes")):
        flags += shape_flag(which, [(name, shapes[index]) for name, shapes in profiles])
    return flags


def _call(command: list[str], folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=str(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit_s,
        check=False,
    )
