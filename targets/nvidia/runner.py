"""A plan on the GPU: numpy arrays in, numpy arrays out, one inference at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from targets.errors import ModelError
from targets.layers import WARM, LayerTime, medians
from targets.nvidia.cuda import Driver
from targets.nvidia.network import Log, logger_of
from targets.tensors import ordered_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.toolchain import Tensors, TensorSpec


class PlanRunner:
    """A deserialized plan with one execution context, its buffers and its stream.

    Buffers are as large as the largest shapes seen; they are kept between inferences.

    Args:
        library: the module tensorrt or tensorrt_rtx.
        plan: the file, its head already checked.
        inputs, outputs: of the engine, in the model's order.
        driver: of the GPU it runs on.

    Raises:
        ModelError: the runtime does not take the plan.
    """

    def __init__(
        self,
        library: Any,
        plan: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        driver: Driver,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._driver, self._log = driver, Log()
        self._runtime = library.Runtime(logger_of(library, self._log))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise ModelError(
                f"the runtime refuses the plan: {self._log.reason()}",
                where=str(plan),
                mend="build the engine again on this device, with this TensorRT",
            )
        self._context = self._engine.create_execution_context()
        self._stream = driver.stream()
        self._buffers: dict[str, tuple[int, int]] = {}

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run once: copy to the device, run, copy back.

        Raises:
            ModelError: inputs that do not fit, or the runtime fails.
        """
        arrays = ordered_inputs(self.inputs, inputs)
        for spec, array in zip(self.inputs, arrays):
            self._set_shape(spec.name, array.shape)
            self._driver.to_device(self._buffer(spec.name, array.nbytes), array, self._stream)
        results = {spec.name: np.empty(self._shape(spec), spec.dtype) for spec in self.outputs}
        for name, result in results.items():
            self._buffer(name, result.nbytes)
        if not self._execute():
            raise ModelError(f"TensorRT fails to run the engine: {self._log.reason()}")
        for name, result in results.items():
            self._driver.to_host(result, self._buffers[name][0], self._stream)
        self._driver.synchronize(self._stream)
        return results

    def close(self) -> None:
        """Give back context, engine and buffers."""
        self._context = self._engine = self._runtime = None
        for address, _ in self._buffers.values():
            self._driver.free(address)
        self._buffers = {}

    def layers(self, library: Any) -> str:
        """Return what the engine inspector says of every layer, as JSON text; "" before TensorRT 8.2."""
        if not hasattr(self._engine, "create_engine_inspector"):
            return ""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        text: str = inspector.get_engine_information(library.LayerInformationFormat.JSON)
        return text

    def profile(self, library: Any, inputs: Sequence[Tensors], runs: int) -> list[LayerTime]:
        """Return the time of every layer, by the runtime's own names.

        Args:
            library: the module tensorrt or tensorrt_rtx.
            inputs: used in rotation.
            runs: medians are over so many.
        """
        times: dict[tuple[str, str], list[float]] = {}
        for number in range(WARM):
            self.infer(inputs[number % len(inputs)])
        # A context knows its profiler by address alone: it has to live as long.
        profiler = _profiler_of(library, times)
        self._context.profiler = profiler
        for number in range(runs):
            self.infer(inputs[number % len(inputs)])
        return medians(times)

    def _buffer(self, name: str, size_bytes: int) -> int:
        address, size = self._buffers.get(name, (0, -1))
        if size < size_bytes:
            if size >= 0:
                self._driver.synchronize(self._stream)
                self._driver.free(address)
            address = self._driver.allocate(size_bytes)
            self._buffers[name] = (address, size_bytes)
        return address

    @property
    def _by_name(self) -> bool:
        """Tensors go by name since TensorRT 8.5, by index before."""
        return hasattr(self._context, "set_tensor_address")

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        fits = (
            self._context.set_input_shape(name, shape)
            if self._by_name
            else self._context.set_binding_shape(self._engine.get_binding_index(name), shape)
        )
        if not fits:
            raise ModelError(
                f"shape {list(shape)} is outside of the engine's optimisation profile: {self._log.reason()}",
                where=f"input {name}",
                mend="the engine's notes say which shapes it takes",
            )

    def _shape(self, spec: TensorSpec) -> tuple[int, ...]:
        shape = (
            self._context.get_tensor_shape(spec.name)
            if self._by_name
            else self._context.get_binding_shape(self._engine.get_binding_index(spec.name))
        )
        if math.prod(shape) < 0:
            raise ModelError(
                "its shape depends on values, not on shapes alone",
                where=f"output {spec.name}",
                mend="export the network without data-dependent shapes",
            )
        return tuple(shape)

    def _execute(self) -> bool:
        if not self._by_name:
            order = sorted(self._buffers, key=self._engine.get_binding_index)
            bindings = [self._buffers[name][0] for name in order]
            return bool(self._context.execute_async_v2(bindings, self._stream))
        for name, (address, _) in self._buffers.items():
            self._context.set_tensor_address(name, address)
        return bool(self._context.execute_async_v3(self._stream))


def _profiler_of(library: Any, times: dict[tuple[str, str], list[float]]) -> Any:
    class Profiler(library.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault((layer_name, ""), []).append(ms)

    return Profiler()
