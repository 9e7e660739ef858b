"""Movidius Myriad X (OAK cameras, Neural Compute Stick 2): compiled offline, run on the device alone.

The last OpenVINO with this plugin is 2021.4.2. Its C++ libraries are called in a child process
(targets/myriad/child.py), as an exception in them ends the process. Rules, all measured with it:

- ONNX opset 13 at most. Newer models are imported as if they were of opset 13: silently wrong.
- fp16 alone, made by the plugin from a float model: no QDQ. Static shapes.
- Shaves and CMX slices are set together; above 8 of them there must be one throughput stream.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Mapping

from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.onnxfile import inputs_of, opset_of, outputs_of, read_onnx
from targets.private import private_folder
from targets.tensors import one_line
from targets.toolchain import Engine, EngineOptions, Probe, Runner, file_sha256
from targets.versions import require_own_engine

NAME = "myriad"
BLOB_FILE = "model.blob"
PLUGIN = "libmyriadPlugin.so"
LATEST_OPSET = 13
LIMIT_S = 600
INSTALL = "edgewright toolchain install myriad (OpenVINO 2021.4.2, Intel's EULA; and libusb-1.0-0)"
NOWHERE = "its blobs run on a Myriad X alone: open them there with depthai or OpenVINO 2021.4"

# Makes the plugin compile without a device.
PLATFORM = {"VPU_MYRIAD_PLATFORM": "VPU_MYRIAD_2480"}
SHAVES, SLICES = "MYRIAD_NUMBER_OF_SHAVES", "MYRIAD_NUMBER_OF_CMX_SLICES"
STREAMS = "MYRIAD_THROUGHPUT_STREAMS"
MOST_SHARED = 8

# A blob: an ELF head in either case, a number of its own at byte 52, then its size; measured.
HEADS = (b"\x7fELF", b"\x7felf")
BLOB_NUMBER = 9709


class Myriad:
    """The toolchain "myriad": Myriad X, fp16, compile only."""

    name = NAME

    def probe(self) -> Probe:
        """Say whether it compiles here, without raising."""
        libraries, version = _libraries(), _version()
        if libraries is None or version is None:
            return Probe(False, None, f"no {PLUGIN} below {private_folder(NAME)}", INSTALL)
        if not Path("/proc/self").exists():
            return Probe(False, version, "there is no /proc, without which it never ends", "mount /proc")
        return Probe(True, version, f"OpenVINO {version}, compiles for Myriad X without a device")

    def fingerprint(self) -> dict[str, str]:
        """Runtime version; blobs depend on nothing else."""
        return {NAME: _version() or "missing"}

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Engines never run on this machine."""
        return NOWHERE

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Compile an ONNX file into `folder` and save its engine.json.

        Raises:
            ToolchainMissing: the libraries are not there.
            CapabilityError: another precision than fp16.
            ModelError: opset above 13, open shapes, impossible options, or the plugin refuses the model.
        """
        libraries, version = _libraries(), _version()
        if libraries is None or version is None:
            raise ToolchainMissing("the toolchain myriad is not installed", mend=INSTALL)
        if options.precision != "fp16":
            raise CapabilityError(
                f"Myriad X computes in fp16, not in {options.precision}",
                where=f"device {device}",
                mend="ask for fp16, with the float model",
            )
        network = read_onnx(model)
        opset = opset_of(network)
        if opset > LATEST_OPSET:
            raise ModelError(
                f"the model has opset {opset}: this importer would read it as {LATEST_OPSET}, silently wrong",
                where=str(model),
                mend=f"export at opset {LATEST_OPSET}, or let a build convert it",
            )
        raw = {**PLATFORM, **_checked(options.raw)}
        blob = folder / BLOB_FILE
        _run(libraries, model, blob, raw)
        engine = Engine(
            folder=folder,
            toolchain=NAME,
            toolchain_version=version,
            device=device,
            options=options,
            inputs=inputs_of(network),
            outputs=outputs_of(network),
            files={BLOB_FILE: file_sha256(blob)},
            notes=("weights and sums in fp16, outputs in fp32", _describe(blob)),
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> Runner:
        """Blobs run on the device alone.

        Raises:
            ModelError: it is no blob of this toolchain.
            ToolchainMissing: always otherwise.
        """
        require_own_engine(engine, NAME, _version() or engine.toolchain_version)
        _describe(engine.folder / BLOB_FILE)
        raise ToolchainMissing("a Myriad blob cannot run on this machine", mend=NOWHERE)


def _libraries() -> Path | None:
    """The folder of the runtime's libraries."""
    return next((path.parent for path in sorted(private_folder(NAME).glob(f"**/{PLUGIN}"))), None)


def _version() -> str | None:
    """Version of the wheel that was unpacked."""
    found = sorted(private_folder(NAME).glob("**/openvino-*.dist-info"))
    return found[0].name[len("openvino-") : -len(".dist-info")] if found else None


def _checked(raw: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse settings of shaves that the plugin would not keep to.

    Raises:
        ModelError: shaves without slices, or many without a single stream.
    """
    if (SHAVES in raw) != (SLICES in raw):
        raise ModelError(
            f"{SHAVES} and {SLICES} go together", where="raw", mend="set both to the same number"
        )
    if SHAVES in raw and not raw[SHAVES].isdigit():
        raise ModelError(f"found {raw[SHAVES]!r}, a number is needed", where=f"raw.{SHAVES}")
    if int(raw.get(SHAVES, "0")) > MOST_SHARED and raw.get(STREAMS) != "1":
        raise ModelError(
            f"more than {MOST_SHARED} shaves serve one stream alone", where="raw", mend=f'set {STREAMS} = "1"'
        )
    return raw


def _run(libraries: Path, model: Path, blob: Path, raw: Mapping[str, str]) -> None:
    settings = [f"{key}={value}" for key, value in raw.items()]
    command = [sys.executable, "-m", "targets.myriad.child", str(libraries), str(model), str(blob), *settings]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"no blob within {LIMIT_S} s", where=str(model), mend="compile a smaller model"
        ) from error
    if done.returncode:
        raise ModelError(
            f"OpenVINO 2021.4 refuses the model: {_reason(done.stderr)}",
            where=str(model),
            mend="edgewright check lists what the device cannot do, and how to mend it",
        )


def _reason(stderr: str) -> str:
    """What the exception that ended the child said, without paths of source files."""
    said = stderr.partition("what():")[2] or stderr
    return one_line(RuntimeError(re.sub(r"\S+\.[ch]pp:\d+:?", "", said))) or "it gives no reason"


def _describe(blob: Path) -> str:
    """Read a blob's head back: it is whole, and this is what it was compiled to.

    Raises:
        ModelError: it is no blob, or not whole.
    """
    content = blob.read_bytes() if blob.is_file() else b""
    number, size = struct.unpack_from("<2I", content, 52) if len(content) > 104 else (0, 0)
    if content[:4] not in HEADS or number != BLOB_NUMBER:
        raise ModelError("this is no blob of Myriad X", where=str(blob), mend="compile the model again")
    if size != len(content):
        raise ModelError(
            f"the blob is not whole: {len(content)} of {size} bytes", where=str(blob), mend="copy it again"
        )
    stages, slices, shaves = (struct.unpack_from("<I", content, at)[0] for at in (76, 96, 100))
    return f"{stages} stages on {shaves} shaves with {slices} CMX slices"
