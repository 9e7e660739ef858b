"""What every toolchain offers: compile a model for a device, open the engine, run it.

A toolchain is a module of this package with one class that fulfils `Toolchain`. It imports its runtime
inside its methods, so that importing `targets` needs numpy alone. The conformance suite in
tests/targets/test_conformance.py is the contract in executable form.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Protocol

from targets.errors import ModelError, ToolchainMissing
from targets.private import use_packages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic]]

ENGINE_SCHEMA = "edgewright.engine/1"
ENGINE_FILE = "engine.json"

# name in device files and build.toml → "module:class"; a new toolchain adds one line here.
TOOLCHAINS: dict[str, str] = {
    "myriad": "targets.myriad:Myriad",
    "npu": "targets.npu:Npu",
    "onnxruntime": "targets.onnxruntime:OnnxRuntime",
    "openvino": "targets.openvino:OpenVino",
    "tensorrt": "targets.tensorrt:TensorRt",
    "tensorrt_rtx": "targets.tensorrt_rtx:TensorRtRtx",
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine.

    Args:
        name: the tensor's name in the ONNX model.
        dtype: numpy name of the element type ("float32").
        shape: dimensions; -1 where it is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is compiled; every value is recorded with it.

    Args:
        precision: "fp32", "fp16", "bf16" or "int8". For "int8" the model carries explicit QDQ and its
            float parts run in fp32. The toolchain pins it; no runtime default is ever relied on.
        threads: CPU threads of one inference (intra-op); 0 lets the runtime take all cores.
        raw: options handed to the runtime as they are.
    """

    precision: str = "fp32"
    threads: int = 1
    raw: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """A compiled model in a folder: `engine.json` and the files it names.

    Args:
        folder: where it lies.
        toolchain: name in `TOOLCHAINS`.
        toolchain_version: version of the runtime that compiled it.
        device: name of the device file it was compiled for.
        options: what it was compiled with.
        inputs: specifications in the model's order.
        outputs: specifications in the model's order.
        files: file name → sha256 of every file of the engine.
        notes: facts worth showing ("float parts run in fp32").
    """

    folder: Path
    toolchain: str
    toolchain_version: str
    device: str
    options: EngineOptions
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the engine, engine.json not counted."""
        return sum((self.folder / name).stat().st_size for name in self.files)

    def save(self) -> None:
        """Write `engine.json`; the named files must already be in the folder."""
        document = asdict(self)
        del document["folder"]
        document["schema"] = ENGINE_SCHEMA
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        (self.folder / ENGINE_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Engine:
        """Read an engine folder back and check every file against its digest.

        Raises:
            ModelError: not an engine folder, another schema, or a file that changed since it was compiled.
        """
        path = folder / ENGINE_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            schema = document.pop("schema", None)
            engine = cls._of(folder, document) if schema == ENGINE_SCHEMA else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"not an engine folder: {error}", where=str(path), mend="compile the model again"
            ) from error
        if engine is None:
            raise ModelError(
                f"engine.json is not of schema {ENGINE_SCHEMA}",
                where=str(path),
                mend="compile the model again with this version of edgewright",
            )
        for name, digest in engine.files.items():
            if Path(name).name != name or "\0" in name or file_sha256(folder / name) != digest:
                raise ModelError(
                    "an engine file changed since it was compiled",
                    where=str(folder / name),
                    mend="compile the model again",
                )
        return engine

    @classmethod
    def _of(cls, folder: Path, document: dict[str, Any]) -> Engine:
        document["options"] = EngineOptions(**document["options"])
        for side in ("inputs", "outputs"):
            document[side] = tuple(
                TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in document[side]
            )
        document["notes"] = tuple(document["notes"])
        document["files"] = dict(document["files"].items())
        return cls(folder=folder, **document)


@dataclass(frozen=True)
class Probe:
    """Whether a toolchain works on this machine.

    Args:
        available: it can compile here; `Toolchain.obstacle` says whether engines can run here too.
        version: runtime version, or None when it is missing.
        detail: one line: what was found, or why it does not work.
        mend: the exact next step when it is not available.
    """

    available: bool
    version: str | None
    detail: str
    mend: str | None = None


class Runner(Protocol):
    """An opened engine, ready to run."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run once, synchronously. Arrays must match the specifications; returns output name → array.

        Raises:
            ModelError: a missing or unknown input, wrong shape or wrong element type.
        """
        ...

    def close(self) -> None:
        """Give back what the runtime holds."""
        ...


class Toolchain(Protocol):
    """One way to turn an ONNX model into an engine and run it."""

    name: str

    def probe(self) -> Probe:
        """Say whether the toolchain works here, without raising."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """What an engine or a measurement made here depends on: runtime version, CPU or GPU model, flags.

        Must not import the runtime: a build that finds everything in the store calls it too.
        """
        ...

    def obstacle(self, options: EngineOptions) -> str | None:
        """Say why engines with these options cannot run on this machine; None when they can.

        Must not import the runtime: which stages a build has depends on it.
        """
        ...

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Compile an ONNX file into `folder` (exists, empty) and save its engine.json.

        Args:
            model: ONNX file; the device's rules have been checked before.
            device: name of the device file.
            options: precision, threads, raw options.
            folder: where the engine goes.

        Raises:
            ToolchainMissing: the runtime is not installed.
            ModelError: the runtime refuses the model; the message carries its reason.
        """
        ...

    def open(self, engine: Engine) -> Runner:
        """Load an engine for running.

        Raises:
            ToolchainMissing: the runtime is not installed, or engines cannot run on this machine.
            ModelError: the engine was made by another version or does not load.
        """
        ...


def load_toolchain(name: str) -> Toolchain:
    """Return the toolchain of that name.

    Raises:
        ToolchainMissing: no toolchain of that name exists in this version.
    """
    if name not in TOOLCHAINS:
        raise ToolchainMissing(
            f"there is no toolchain named {name!r}", mend=f"use one of: {', '.join(sorted(TOOLCHAINS))}"
        )
    use_packages(name)
    module, _, attribute = TOOLCHAINS[name].partition(":")
    toolchain: Toolchain = getattr(importlib.import_module(module), attribute)()
    return toolchain


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in pieces; an unreadable file has none ("")."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()
