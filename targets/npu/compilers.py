"""Where OpenVINO's compiler for NPUs is, and how it is called: in a process of its own, with a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Mapping, Sequence

from targets.errors import ModelError
from targets.private import private_folder
from targets.tensors import one_line
from targets.versions import installed_version

DEVICE_NODE = Path("/dev/accel/accel0")
LIBRARY = "libopenvino_intel_npu_compiler_loader.so"
WINDOWS_LIBRARY = "openvino_intel_npu_compiler.dll"
PROGRAM = "npu_compile.exe"
SOURCE = Path(__file__).with_name("compile.c")
LIMIT_S = 1800
INSTALL = (
    "edgewright toolchain install npu (OpenVINO's Windows wheel under wine), or put Intel's "
    f"{LIBRARY} and its fellows of the same OpenVINO version beside the plugin"
)
NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "[...]")


@dataclass(frozen=True)
class Compiler:
    """One way to call the compiler.

    Args:
        way: "native" or "wine".
        version: of OpenVINO.
        detail: how it is called, in words.
        folder: of the Windows libraries; None for native.
    """

    way: str
    version: str
    detail: str
    folder: Path | None = None

    def compile(self, model: Path, blob: Path, platform: str) -> None:
        """Compile an ONNX file.

        Args:
            model: the file.
            blob: the file to write.
            platform: of the NPU, as in "3720".

        Raises:
            ModelError: the compiler refuses it, or does not end.
        """
        if self.folder is None:
            words = [str(model.resolve()), str(blob.resolve()), platform]
            _run([sys.executable, "-m", "targets.npu.child", *words], model, blob)
            return
        windows = [_windows(model), _windows(blob), platform]
        environment = {"WINEPREFIX": str(private_folder("npu") / "wineprefix"), "WINEDEBUG": "-all"}
        _run(["wine", str(self.folder / PROGRAM), *windows], model, blob, self.folder, environment)


def find_compiler() -> Compiler | None:
    """Return the compiler: native where it is, else the Windows library where wine can run it; else None."""
    version = installed_version("openvino")
    if version and (beside_plugin() or DEVICE_NODE.exists()):
        where = "from the library beside the plugin" if beside_plugin() else "from the driver"
        return Compiler("native", version, where)
    library = next(iter(sorted(private_folder("npu").glob(f"**/{WINDOWS_LIBRARY}"))), None)
    packed = sorted(private_folder("npu").glob("**/openvino-*.dist-info"))
    if library is None or not packed or not (library.parent / PROGRAM).is_file() or not shutil.which("wine"):
        return None
    version = packed[0].name[len("openvino-") : -len(".dist-info")]
    return Compiler("wine", version, "from the Windows library under wine", library.parent)


def beside_plugin() -> bool:
    """Say whether the compiler lies beside OpenVINO's plugins."""
    spec = find_spec("openvino")
    return bool(spec and spec.origin and (Path(spec.origin).parent / "libs" / LIBRARY).is_file())


def _windows(path: Path) -> str:
    """The path as wine's programs have it."""
    return "Z:" + str(path.resolve()).replace("/", "\\")


def _run(
    command: Sequence[str],
    model: Path,
    blob: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] = {},
) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = f"no blob within {LIMIT_S} s"
        raise ModelError(what, where=str(model), mend="compile a smaller model") from error
    if done.returncode or not blob.is_file():
        said = one_line(RuntimeError(_reason(done.stderr)), drop=NOISE)
        raise ModelError(
            f"the NPU's compiler refuses the model: {said}",
            where=str(model),
            mend="edgewright check lists what the device cannot do, and how to mend it",
        )


def _reason(stderr: str) -> str:
    """What the runtime said, without "compile: " and the names of its source files."""
    lines = [line.partition(": Exception from")[0] for line in stderr.splitlines()]
    return "\n".join(line for line in lines if ".cpp:" not in line and not line.startswith("wine:"))
