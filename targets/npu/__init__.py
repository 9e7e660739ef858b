"""Intel's NPU (Core Ultra): compiled here by OpenVINO's own compiler, run where the NPU is.

The compiler is a library that OpenVINO's Linux wheel lacks. It is found beside the plugin (from Intel's own
archive of the same version), in the driver of a machine that has an NPU, or as the Windows library, run by
wine (targets/npu/compilers.py). Static shapes alone; fp16, or int8 by explicit QDQ. Outputs can be silently
wrong on the NPU: gate them there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.npu.compilers import DEVICE_NODE, INSTALL, Compiler, find_compiler
from targets.onnxfile import inputs_of, outputs_of, read_onnx
from targets.toolchain import Engine, EngineOptions, Probe, Runner, file_sha256
from targets.versions import require_own_engine

NAME = "npu"
BLOB_FILE = "model.blob"
PRECISIONS = ("fp16", "int8")
PLATFORM = "NPU_PLATFORM"
HEAD = b"\x7fELF"
# A blob ends in "compiler=8.4;npu=3720;…;OVNPU"; measured.
TAIL_BYTES = 4096
IDENTITY = re.compile(rb"compiler=([\d.]+);npu=(\d+)[^\0]*")


class Npu:
    """The toolchain "npu": fp16 and int8, static shapes."""

    name = NAME

    def probe(self) -> Probe:
        """Say whether it compiles here, without raising."""
        compiler = find_compiler()
        if compiler is None:
            return Probe(False, None, "OpenVINO's compiler for NPUs is not here", INSTALL)
        return Probe(True, compiler.version, f"OpenVINO {compiler.version}, {compiler.detail}")

    def fingerprint(self) -> dict[str, str]:
        """Version of the compiler, and how it is called."""
        compiler = find_compiler()
        return {NAME: compiler.version, "compiler": compiler.way} if compiler else {NAME: "missing"}

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Say why engines cannot run on this machine; None when they can."""
        compiler = find_compiler()
        if DEVICE_NODE.exists() and compiler and compiler.way == "native":
            return None
        return f"there is no NPU: no {DEVICE_NODE}"

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Compile an ONNX file into `folder` and save its engine.json.

        Raises:
            ToolchainMissing: the compiler is not there.
            CapabilityError: another precision than fp16 and int8.
            ModelError: open shapes, impossible options, or the compiler refuses the model.
        """
        compiler = _required(find_compiler())
        if options.precision not in PRECISIONS:
            raise CapabilityError(
                f"the NPU computes in fp16 and int8, not in {options.precision}",
                where=f"device {device}",
                mend="ask for fp16 or int8",
            )
        network, platform = read_onnx(model), _platform(options)
        inputs, outputs = inputs_of(network), outputs_of(network)
        _refuse_open_shapes(inputs, model)
        blob = folder / BLOB_FILE
        compiler.compile(model, blob, platform)
        engine = Engine(
            folder=folder,
            toolchain=NAME,
            toolchain_version=compiler.version,
            device=device,
            options=options,
            inputs=inputs,
            outputs=outputs,
            files={BLOB_FILE: file_sha256(blob)},
            notes=(f"{check_blob(blob, platform)}, called {compiler.detail}", "float parts run in fp16"),
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> Runner:
        """Load a blob onto the NPU of this machine.

        Raises:
            ModelError: it is no blob of this toolchain and version, or for another NPU.
            ToolchainMissing: there is no NPU here.
        """
        compiler = find_compiler()
        require_own_engine(engine, NAME, compiler.version if compiler else engine.toolchain_version)
        check_blob(engine.folder / BLOB_FILE, _platform(engine.options))
        obstacle = self.obstacle(engine.options)
        if obstacle:
            raise ToolchainMissing(obstacle, mend="run the engine on a Core Ultra with Intel's NPU driver")
        return _runner(engine)


def check_blob(blob: Path, platform: str) -> str:
    """Read a blob's end: who compiled it, and for which NPU.

    Returns:
        one line that says so.

    Raises:
        ModelError: it is no blob, not whole, or for another NPU.
    """
    content = blob.read_bytes() if blob.is_file() else b""
    found = IDENTITY.search(content[-TAIL_BYTES:])
    if not content.startswith(HEAD) or found is None or b"OVNPU" not in content[-TAIL_BYTES:]:
        raise ModelError("this is no whole blob for an NPU", where=str(blob), mend="compile the model again")
    compiler, built_for = (part.decode() for part in found.groups())
    if built_for != platform:
        raise ModelError(
            f"the blob is for NPU {built_for}, not for {platform}",
            where=str(blob),
            mend="compile the model for this NPU",
        )
    return f"compiler {compiler} for NPU {built_for}"


def _required(compiler: Compiler | None) -> Compiler:
    if compiler is None:
        raise ToolchainMissing("OpenVINO's compiler for NPUs is not here", mend=INSTALL)
    return compiler


def _platform(options: EngineOptions) -> str:
    """Which NPU it is for.

    Raises:
        ModelError: that is not said, or there are other options.
    """
    unknown = sorted(set(options.raw) - {PLATFORM})
    number = options.raw.get(PLATFORM, "")
    if unknown or not re.fullmatch(r"\d{4}", number):
        what = f"there is no option {', '.join(unknown)}" if unknown else f"{PLATFORM} is {number!r}"
        raise ModelError(what, where="raw", mend=f'set {PLATFORM} = "3720", "4000" or "5010", nothing else')
    return number


def _refuse_open_shapes(inputs: Any, model: Path) -> None:
    for spec in inputs:
        if -1 in spec.shape:
            raise ModelError(
                f"its shape is {list(spec.shape)}, and the NPU takes static shapes alone",
                where=f"{model}: input {spec.name}",
                mend="export with a fixed batch, or let a build fix it",
            )


def _runner(engine: Engine) -> Runner:
    from targets.openvino import open_core
    from targets.openvino_requests import NOISE, OpenVinoRunner
    from targets.tensors import one_line

    try:
        compiled = open_core().import_model((engine.folder / BLOB_FILE).read_bytes(), "NPU", {})
    except RuntimeError as error:
        raise ModelError(
            f"the NPU does not take the blob: {one_line(error, drop=NOISE)}",
            where=str(engine.folder),
            mend="compile the model again with the OpenVINO of this machine",
        ) from error
    return OpenVinoRunner(engine, compiled, from_blob=True)
