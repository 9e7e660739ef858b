"""TensorRT, as on Jetson: plans are built on the GPU they run on, by the TensorRT that runs them.

What decides a plan is pinned: types (targets/nvidia/build.py), the timing cache by its digest, the name of
the network. A plan's head is read before the runtime is given it. Where the Python package is missing,
trtexec does the work.
"""

from __future__ import annotations

import importlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence, Union

from targets.errors import CapabilityError, ModelError, ToolchainMissing
from targets.nvidia.build import Built, build
from targets.nvidia.cuda import Driver, gpu, gpu_fingerprint
from targets.nvidia.inspector import read_layers, summary, with_nodes
from targets.nvidia.network import strongly_typed
from targets.nvidia.outside import OutsideRunner, build_outside
from targets.nvidia.plan import check_plan
from targets.nvidia.runner import PlanRunner
from targets.nvidia.trtexec import Trtexec, find_trtexec, run_flags
from targets.toolchain import Engine, EngineOptions, Probe, file_sha256
from targets.versions import installed_version, require_own_engine

if TYPE_CHECKING:
    from targets.layers import LayerTime
    from targets.toolchain import Tensors

    AnyRunner = Union[PlanRunner, OutsideRunner]

PLAN_FILE = "model.plan"
LAYERS_FILE = "layers.json"
TIMING_CACHE_FILE = "timing.cache"
MADE_ON_FILE = "made-on.json"
# What a plan is bound to (TensorRT developer guide, "Hardware Compatibility" and "Version Compatibility").
BOUND_TO = ("system", "machine", "compute_capability")
PRECISIONS = ("fp32", "fp16", "int8")
# What a strongly typed graph must carry for a precision to be that precision: a layer's type, or its kind.
WRITTEN = {"fp16": "HALF", "int8": "QUANTIZE"}


class TensorRt:
    """The toolchain "tensorrt": NVIDIA GPUs and DLAs, fp32, fp16 and int8 (explicit QDQ)."""

    name = "tensorrt"
    module = "tensorrt"
    packages: tuple[str, ...] = ("tensorrt",)
    install = (
        "on the device: apt install python3-libnvinfer (JetPack has it); from here: name the device's host"
    )

    def probe(self) -> Probe:
        """Say whether it works here, without raising."""
        program = self.program()
        version = program.version if program else installed_version(*self.packages)
        if version is None:
            return Probe(False, None, f"{self.module} is not installed", self.install)
        if program is None:
            try:
                importlib.import_module(self.module)
            except (ImportError, OSError, RuntimeError) as error:
                return Probe(False, version, f"{self.module} does not load: {error}", self.install)
        found = gpu()
        if found is None:
            return Probe(False, version, "there is no NVIDIA GPU with a driver", "run this on the device")
        by = f" by {program.path}" if program else ""
        return Probe(True, version, f"TensorRT {version}{by}, {found.name} ({found.compute_capability})")

    def fingerprint(self) -> dict[str, str]:
        """Runtime version, GPU and driver; the runtime is not imported."""
        program = self.program()
        by = {"trtexec": program.path} if program else {}
        return {self.name: self._version() or "missing", **by, **gpu_fingerprint()}

    def program(self) -> Trtexec | None:
        """Return trtexec where it has to do the work: the Python package is not installed."""
        return find_trtexec() if installed_version(*self.packages) is None else None

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
        version = self._require_version()
        if options.precision not in PRECISIONS:
            raise CapabilityError(
                f"TensorRT has no engines of {options.precision}",
                where=f"device {device}",
                mend=f"ask for one of: {', '.join(PRECISIONS)}",
            )
        self._require_gpu_to_build()
        built = self._build(model, options)
        (folder / PLAN_FILE).write_bytes(built.plan)
        (folder / MADE_ON_FILE).write_text(json.dumps(self._made_on(), indent=1) + "\n", encoding="utf-8")
        layers, notes = self._layers(folder / PLAN_FILE, built, options)
        (folder / LAYERS_FILE).write_bytes(layers)
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
            notes=(*built.notes, *notes),
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> AnyRunner:
        """Load an engine, after reading the head of its plan.

        Raises:
            ToolchainMissing: TensorRT, a driver or a GPU is missing.
            ModelError: the plan is foreign, of another version or device, cut short, or does not load.
        """
        version = self._require_version()
        require_own_engine(engine, self.name, version)
        self._require_own_machine(engine.folder)
        program, plan = self.program(), engine.folder / PLAN_FILE
        if program:
            Driver()
            check_plan(plan, program.version, rtx=False)
            return OutsideRunner(program, plan, engine.inputs, engine.outputs)
        library = self._library()
        check_plan(plan, library.__version__, rtx=self.name == "tensorrt_rtx")
        return PlanRunner(library, plan, engine.inputs, engine.outputs, Driver())

    def flags(self, options: EngineOptions) -> dict[str, str]:
        """Return what engines are run and timed with."""
        program = self.program()
        by = {"trtexec": " ".join((program.version, *run_flags(program)))} if program else {}
        return {"precision": options.precision, **by, **options.raw}

    def profile(self, engine: Engine, inputs: Sequence[Tensors], runs: int) -> list[LayerTime]:
        """Return the time of every layer of the plan, from the runtime's profiler, by its ONNX nodes.

        Args:
            engine: of this toolchain.
            inputs: used in rotation.
            runs: medians are over so many.
        """
        runner = self.open(engine)
        try:
            if isinstance(runner, OutsideRunner):
                times = runner.profile(inputs[0], runs)
            else:
                times = runner.profile(self._library(), inputs, runs)
        finally:
            runner.close()
        document = json.loads((engine.folder / LAYERS_FILE).read_text(encoding="utf-8"))
        return with_nodes(times, document["layers"])

    def _made_on(self) -> dict[str, str]:
        """What of this machine a plan is bound to, and what else may matter."""
        return {"system": platform.system(), "machine": platform.machine(), **gpu_fingerprint()}

    def _require_own_machine(self, folder: Path) -> None:
        """Refuse a plan that was built on another operating system, processor or kind of GPU.

        Raises:
            ModelError: it was.
        """
        made, here = json.loads((folder / MADE_ON_FILE).read_text(encoding="utf-8")), self._made_on()
        for fact in BOUND_TO:
            if fact in made and fact in here and made[fact] != here[fact]:
                raise ModelError(
                    f"this plan was built on {fact.replace('_', ' ')} {made[fact]}, here it is {here[fact]}",
                    where=str(folder),
                    mend="build the engine again on the device that runs it",
                )

    def _require_version(self) -> str:
        version = self._version()
        if version is None:
            raise ToolchainMissing(f"{self.module} is not installed here", mend=self.install)
        return version

    def _version(self) -> str | None:
        program = self.program()
        return program.version if program else installed_version(*self.packages)

    def _build(self, model: Path, options: EngineOptions) -> Built:
        program = self.program()
        if program:
            return build_outside(program, model, self._complete(options))
        library = self._library()
        built = build(library, model, self._complete(options))
        if strongly_typed(library):
            _check_types(built, options.precision, model)
        return built

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

    def _layers(self, plan: Path, built: Built, options: EngineOptions) -> tuple[bytes, list[str]]:
        """What each layer became: of the engine where it can run, else of the network it was built from."""
        layers, inspected = built.layers, built.inspected
        if not inspected and self.obstacle(options) is None:
            runner = PlanRunner(self._library(), plan, built.inputs, built.outputs, Driver())
            text = runner.layers(self._library())
            runner.close()
            layers, inspected = (read_layers(text), True) if text else (layers, False)
        source = "the engine inspector" if inspected else "the parsed network, before fusion"
        document = {"schema": "edgewright.layers/1", "source": source, "layers": layers}
        notes = [summary(layers)] if inspected else []
        return (json.dumps(document, indent=1) + "\n").encode(), notes


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
