"""ONNX Runtime: on the CPU the engine is the model with its device-independent optimisations done.

For another execution provider it is the model as it came: what fuses for the CPU no other provider takes.

Two of its rules shape this module.

- Level "extended" (fusions, QDQ → integer kernels) is done once and saved. Level "layout" blocks channels by
  the width of this CPU's vectors, so a file saved after it is wrong on another CPU: it is left to loading.
- The optimiser "WeightBiasQuantization" quantizes float weights that lie between a DequantizeLinear and a
  QuantizeLinear, so a layer that the model keeps in float would run in int8. It is off. The price: a QDQ
  model with float biases keeps those layers in float, so biases have to be int32, dequantized by a node of
  their own. The raw option {"optimization.disable_specified_optimizers": ""} turns it on again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import numpy as np

from targets.cpu import cpu_fingerprint
from targets.errors import CapabilityError, ModelError
from targets.layers import WARM, LayerTime, from_trace
from targets.providers import (
    KNOWN,
    OPTION,
    chosen,
    what_ran,
)
from targets.sessions import OnnxRuntimeRunner, entries, new_session, trace
from targets.tensors import one_line, sample_inputs
from targets.throughput import ThreadedLoad
from targets.toolchain import Engine, EngineOptions, Probe, file_sha256
from targets.versions import installed_version, require_own_engine, require_version

if TYPE_CHECKING:
    from targets.toolchain import Tensors

NAME = "onnxruntime"
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
PRECISIONS = ("fp32", "int8")
MODEL_FILE = "model.onnx"


class OnnxRuntime:
    """The toolchain "onnxruntime": CPU, fp32 and int8 (explicit QDQ)."""

    name = NAME

    def probe(self) -> Probe:
        """Say whether ONNX Runtime works here, without raising."""
        version = installed_version(*PACKAGES)
        if version is None:
            return Probe(False, None, "onnxruntime is not installed", "pip install onnxruntime")
        try:
            import onnxruntime as ort

            providers = ort.get_available_providers()
        except (ImportError, OSError, AttributeError) as error:
            reason = f"onnxruntime does not load: {one_line(error)}"
            return Probe(False, version, reason, "pip install --force-reinstall onnxruntime")
        return Probe(True, version, f"ONNX Runtime {version}, {', '.join(providers)}")

    def fingerprint(self) -> dict[str, str]:
        """Runtime version and CPU; the runtime is not imported."""
        return {"onnxruntime": installed_version(*PACKAGES) or "missing", **cpu_fingerprint()}

    def obstacle(self, options: EngineOptions) -> str | None:  # noqa: ARG002
        """Engines run wherever they are compiled: a provider that does not start refuses to compile."""
        return None

    def compile(self, model: Path, device: str, options: EngineOptions, folder: Path) -> Engine:
        """Optimise an ONNX file into `folder` and save its engine.json.

        Raises:
            ToolchainMissing: ONNX Runtime or the provider is not installed, or it does not start.
            CapabilityError: a precision there are no kernels for.
            ModelError: ONNX Runtime refuses the model.
        """
        version = require_version(NAME, PACKAGES[0], installed_version(*PACKAGES))
        if options.precision not in PRECISIONS:
            raise CapabilityError(
                f"ONNX Runtime makes no engines of {options.precision}",
                where=f"device {device}",
                mend=f"ask for one of: {', '.join(PRECISIONS)}",
            )
        direct = OnnxRuntimeRunner(model, options)
        if chosen(options.raw) == "cpu":
            notes = _save_optimised(model, options, folder / MODEL_FILE, direct)
        else:
            new_session(model, replace(options, raw={}), "ORT_DISABLE_ALL", folder / MODEL_FILE)
            notes = ("optimised when the engine is opened", what_ran(trace(model, options), options.raw))
        engine = Engine(
            folder=folder,
            toolchain=NAME,
            toolchain_version=version,
            device=device,
            options=options,
            inputs=direct.inputs,
            outputs=direct.outputs,
            files={MODEL_FILE: file_sha256(folder / MODEL_FILE)},
            notes=notes,
        )
        engine.save()
        return engine

    def open(self, engine: Engine) -> OnnxRuntimeRunner:
        """Load an engine.

        Raises:
            ToolchainMissing: ONNX Runtime is not installed.
            ModelError: the engine is another toolchain's or version's, or does not load.
        """
        version = require_version(NAME, PACKAGES[0], installed_version(*PACKAGES))
        require_own_engine(engine, NAME, version)
        return OnnxRuntimeRunner(engine.folder / MODEL_FILE, engine.options)

    def flags(self, options: EngineOptions) -> dict[str, str]:
        """Return every flag a session is given, by the runtime's own name."""
        return {
            "provider": KNOWN[chosen(options.raw)].runtime_name,
            **{key: value for key, value in options.raw.items() if key.startswith(OPTION)},
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "intra_op_num_threads": str(options.threads),
            "inter_op_num_threads": "1",
            **entries(options),
        }

    def open_many(self, engine: Engine, requests: int) -> ThreadedLoad:
        """Open an engine for several requests at once: one session, called by a thread for each."""
        return ThreadedLoad(self.open(engine), requests)

    def profile(self, engine: Engine, inputs: Sequence[Tensors], runs: int) -> list[LayerTime]:
        """Return the time of every node, from the session's profiler.

        Args:
            engine: of this toolchain.
            inputs: used in rotation.
            runs: medians are over so many.
        """
        return from_trace(trace(engine.folder / MODEL_FILE, engine.options, inputs, WARM + runs), runs)


def _save_optimised(
    model: Path, options: EngineOptions, path: Path, direct: OnnxRuntimeRunner
) -> tuple[str, ...]:
    """Save the optimised model if it computes the very same outputs, else the model as it is.

    Returns:
        notes for the engine.
    """
    try:
        new_session(model, options, "ORT_ENABLE_EXTENDED", path)
        if _same_outputs(direct, OnnxRuntimeRunner(path, options)):
            return (
                "optimised before saving: fusions and integer kernels; blocked layouts are made on loading",
            )
        reason = "it computes other outputs"
    except ModelError as error:
        reason = error.what
    new_session(model, options, "ORT_DISABLE_ALL", path)
    return (f"saved without optimisation, the optimised model was not reliable: {reason}",)


def _same_outputs(one: OnnxRuntimeRunner, other: OnnxRuntimeRunner) -> bool:
    inputs = sample_inputs(one.inputs)
    expected, found = one.infer(inputs), other.infer(inputs)
    return all(np.array_equal(expected[name], found[name], equal_nan=True) for name in expected)
