"""Inference requests of OpenVINO, filled as an application fills them: into the tensors they already have.

Given arrays, the Python package takes 0.07 ms to sort out what they are: a third of a small network's time,
and none of it the network's own. Asking a tensor for its shape takes 0.03 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from targets.errors import ModelError
from targets.tensors import one_line, ordered_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.toolchain import Engine, Tensors, TensorSpec

# Lines of the runtime's messages that only name its source files.
NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "Model wasn't fully converted")


class OpenVinoRunner:
    """A compiled model with one inference request.

    Args:
        engine: whose names and shapes it takes.
        compiled: the runtime's compiled model, with ports in the engine's order.
        from_blob: it was imported, not compiled again.
    """

    def __init__(self, engine: Engine, compiled: Any, from_blob: bool) -> None:
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.from_blob = from_blob
        self._request = compiled.create_infer_request()
        self._tensors: Any = _InputTensors(self._request, engine.inputs)

    def infer(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Run once.

        Raises:
            ModelError: inputs that do not fit, or an operator that fails on them.
        """
        arrays = ordered_inputs(self.inputs, inputs)
        try:
            self._tensors.fill(arrays)
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO fails to run the model: {one_line(error, drop=NOISE)}") from error
        return {
            spec.name: np.array(self._request.get_output_tensor(index).data)
            for index, spec in enumerate(self.outputs)
        }

    def operators(self) -> list[tuple[str, str, float]]:
        """Return name, kind and milliseconds of what the last inference executed; needs PERF_COUNT."""
        return [
            (
                operator.node_name,
                f"{operator.node_type} {operator.exec_type}",
                operator.real_time.total_seconds() * 1e3,
            )
            for operator in self._request.profiling_info
            if operator.status == operator.Status.EXECUTED
        ]

    def close(self) -> None:
        """Give the inference request back."""
        self._request = self._tensors = None


class RequestQueue:
    """Requests that run at once, for `targets.throughput.QueuedLoad`.

    Args:
        queue: the runtime's AsyncInferQueue.
        specs: of the model's inputs.
    """

    def __init__(self, queue: Any, specs: Sequence[TensorSpec]) -> None:
        self._queue = queue
        self._tensors = [_InputTensors(request, specs) for request in queue]

    def start(self, arrays: Sequence[NDArray[np.generic]]) -> None:
        """Begin one inference; waits until a request is free."""
        # The request that start_async takes next: nobody else starts one.
        self._tensors[self._queue.get_idle_request_id()].fill(arrays)
        self._queue.start_async()

    def wait_all(self) -> None:
        """Wait for everything begun."""
        self._queue.wait_all()


class _InputTensors:
    """A request's input tensors and the shapes they have."""

    def __init__(self, request: Any, specs: Sequence[TensorSpec]) -> None:
        self._tensors = [request.get_input_tensor(index) for index in range(len(specs))]
        self._shapes = [spec.shape for spec in specs]

    def fill(self, arrays: Sequence[NDArray[np.generic]]) -> None:
        """Copy arrays into them, one for each; a tensor of open shape takes that of its array."""
        for index, array in enumerate(arrays):
            if array.shape != self._shapes[index]:
                self._tensors[index].shape = self._shapes[index] = array.shape
            np.copyto(self._tensors[index].data, array)
