"""TensorRT, as on Jetson: plans are built on the GPU they run on, by the TensorRT that runs them.

What decides a plan is pinned: types (targets/nvidia/build.py), the timing cache by its digest, the name of
the network. A plan's head is read before the runtime is given it.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, List, cast

from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.nvidia.build import Built, build
from targets.nvidia.cuda import Driver, gpu, gpu_fingerprint
from targets.nvidia.network import strongly_typed
from targets.nvidia.plan import check_plan
from targets.nvidia.runner import PlanRunner
from targets.toolchain import Engine, EngineOptions, Probe, file_sha256
from targets.versions import installed_version, require_own_engine, require_version

PLAN_FILE = "model.plan"
LAYERS_FILE = "layers.json"
TIMING_CACHE_FILE = "timing.cache"
PRECISIONS = ("fp32", "fp16", "int8")
# What a strongly typed graph must carry for a precision to be that precision: a layer's type, or its kind.
WRITTEN = {"fp16": "HALF", "int8": "QUANTIZE"}


class TensorRt:
    """The toolchain "tensorrt": NVIDIA GPUs and DLAs, fp32, fp16 and int8 (explicit QDQ)."""

    name = "tensorrt"
    module = "tensorrt"
    packages: tuple[str, ...] = ("tensorrt",)
    install = "apt install python3-libnvinfer (JetPack has it), on the device itself"

    def probe(self) -> Probe:
        """Say whether it works here, without raising."""
        version = installed_version(*self.packages)
        if version is None:
            return Probe(False, None, f"{self.module} is not installed", self.install)
        try:
            importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            return Probe(False, version, f"{self.module} does not load: {error}", self.install)
        found = gpu()
        if found is None:
            return Probe(False, version, "there is no NVIDIA GPU with a driver", "run this on the device")
        return Probe(True, version, f"TensorRT {version}, {found.name} ({found.compute_capability})")

    def fingerprint(self) -> dict[str, str]:
        """Runtime version, GPU and driver; the runtime is not imported."""
        return {self.name: installed_version(*self.packages) or "missing", **gpu_fingerprint()}

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Say why engines cannot run on this machine; None when they can."""
        return None if gpu() else "there is no NVIDIA GPU with a driver"

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Build a plan into `folder` and save its engine.json.

        Raises:
            ToolchainMissing: TensorRT, a driver or a GPU is missing.
            CapabilityError: a precision, DLA or architecture it does not have.
            ModelError: an impossible option, or TensorRT refuses the model.
        """
        version = require_version(self.name, self.packages[0], installed_version(*self.packages))
        if options.precision not in PRECISIONS:
            raise CapabilityError(
                f"TensorRT has no engines of {options.precision}",
                where=f"device {device}",
                mend=f"ask for one of: {', '.join(PRECISIONS)}",
            )
        self._require_gpu_to_build()
        library = self._library()
        built = build(library, model, self._complete(options))
        if strongly_typed(library):
            _check_types(built, options.precision, model)
        (folder / PLAN_FILE).write_bytes(built.plan)
        (folder / LAYERS_FILE).write_bytes(self._layers(library, folder / PLAN_FILE, built, options))
        if built.timing_cache:
            (folder / TIMING_CACHE_FILE).write_bytes(built.timing_cache)
        engine = Engine(
            folder=folder,
            toolchain=self.name,
            toolchain_version=version,
            device=device,
            options=options,
            inputs=built.inputs,
            outputs=built.outputs,
            files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
            notes=built.notes,
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> PlanRunner:
        """Load an engine, after reading the head of its plan.

        Raises:
            ToolchainMissing: TensorRT, a driver or a GPU is missing.
            ModelError: the plan is foreign, of another version or device, cut short, or does not load.
        """
        version = require_version(self.name, self.packages[0], installed_version(*self.packages))
        require_own_engine(engine, self.name, version)
        library = self._library()
        check_plan(engine.folder / PLAN_FILE, library.__version__, rtx=self.name == "tensorrt_rtx")
        return PlanRunner(library, engine.folder / PLAN_FILE, engine.inputs, engine.outputs, Driver())

    def _library(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            raise ToolchainMissing(f"{self.module} does not load: {error}", mend=self.install) from error

    def _require_gpu_to_build(self) -> None:
        """TensorRT times its kernels while it builds.

        Raises:
            ToolchainMissing: there is no driver or no GPU.
        """
        Driver()

    def _complete(self, options: EngineOptions) -> EngineOptions:
        """Options with what the toolchain itself has to say; nothing here."""
        return options

    def _layers(self, library: Any, plan: Path, built: Built, options: EngineOptions) -> bytes:
        """What each layer became: of the engine where it can run, else of the network it was built from."""
        source, layers = "the parsed network, before fusion", cast(List[Any], built.layers)
        if self.obstacle(options) is None:
            runner = PlanRunner(library, plan, built.inputs, built.outputs, Driver())
            text = runner.layers(library)
            runner.close()
            if text:
                source, layers = "the engine inspector", json.loads(text)["Layers"]
        document = {"schema": "edgewright.layers/1", "source": source, "layers": layers}
        return (json.dumps(document, indent=1) + "\n").encode()


def _check_types(built: Built, precision: str, model: Path) -> None:
    """Refuse a graph that is not written in the precision asked for: nothing else would make it so.

    Raises:
        ModelError: it is not.
    """
    found = {layer["type"] for layer in built.layers} | {layer["kind"] for layer in built.layers}
    surplus = [name for name, sign in WRITTEN.items() if precision == "fp32" and sign in found]
    if surplus or WRITTEN.get(precision, "FLOAT") not in found:
        what = f"the graph is written in {surplus[0]}" if surplus else f"the graph has no {precision} in it"
        raise ModelError(
            f"{what}, and {precision} was asked for; TensorRT runs the types of the graph",
            where=str(model),
            mend="write the precision into the ONNX model, which a build does, or ask for another",
        )
