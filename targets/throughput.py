"""Inferences a second with several requests under way, beside the latency of one alone."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Protocol, Sequence

import numpy as np

from targets.bootstrap import interval, resampled_medians
from targets.errors import ConfigError, ModelError
from targets.tensors import one_line, ordered_inputs

if TYPE_CHECKING:
    from targets.toolchain import Runner, Tensors, TensorSpec

    Clock = Callable[[], int]

WINDOWS = 20
WARM_WINDOWS = 20
AGREE = 0.05


class Load(Protocol):
    """An opened engine that works on several requests at once.

    `requests` is how many are under way; `streams` says how the runtime works on them.
    """

    requests: int
    streams: str

    def start(self, inputs: Tensors) -> None:
        """Begin one inference; returns when a request was free for it."""
        ...

    def finish(self) -> None:
        """Wait for everything begun.

        Raises:
            ModelError: an inference failed.
        """
        ...

    def close(self) -> None:
        """Give back what the runtime holds."""
        ...


@dataclass(frozen=True)
class Throughput:
    """Inferences a second: the fields of the build record's `Throughput`.

    Args:
        requests: under way at once.
        streams: how the runtime works on them.
        inferences: counted.
        per_second: median over windows.
        per_second_interval: 95 % bootstrap interval over windows.
    """

    requests: int
    streams: str
    inferences: int
    per_second: float
    per_second_interval: tuple[float, float]


def throughput(
    load: Load, inputs: Sequence[Tensors], seconds: float, clock: Clock = time.perf_counter_ns
) -> Throughput:
    """Keep all requests of a load busy and count.

    `start` returns when a request became free, so with all of them busy one inference ends for each that
    begins. After windows whose rates agree, 20 more are counted.

    Args:
        load: opened engine.
        inputs: real inputs, used in rotation.
        seconds: of counting, in all.
        clock: nanoseconds, monotonic.

    Raises:
        ConfigError: no inputs.
        ModelError: an inference failed.
    """
    if not inputs:
        raise ConfigError("no inputs to load the engine with", mend="give at least one input")
    rotation = itertools.cycle(inputs)
    for _ in range(load.requests):
        load.start(next(rotation))
    window_ns = int(seconds * 1e9 / WINDOWS)

    def window() -> tuple[int, float]:
        start, count = clock(), 0
        while clock() - start < window_ns or count < 2 * load.requests:
            load.start(next(rotation))
            count += 1
        return count, count / ((clock() - start) / 1e9)

    _settle(window)
    counted = [window() for _ in range(WINDOWS)]
    load.finish()
    rates = np.array([rate for _, rate in counted])
    return Throughput(
        requests=load.requests,
        streams=load.streams,
        inferences=sum(count for count, _ in counted),
        per_second=float(np.median(rates)),
        per_second_interval=interval(resampled_medians(rates[None])[0]),
    )


def _settle(window: Callable[[], tuple[int, float]]) -> None:
    """Run windows until the rates of two in a row agree within 5 %, at most 20."""
    _, before = window()
    for _ in range(WARM_WINDOWS - 1):
        _, rate = window()
        if abs(rate - before) <= AGREE * before:
            return
        before = rate


class ThreadedLoad:
    """A runner that several threads may call at once.

    Args:
        runner: opened engine; closed with the load.
        requests: threads.
    """

    def __init__(self, runner: Runner, requests: int) -> None:
        self.requests = requests
        self.streams = f"{requests} threads calling one session"
        self._runner = runner
        self._pool = ThreadPoolExecutor(requests)
        self._begun: list[Future[Any]] = []

    def start(self, inputs: Tensors) -> None:
        """Begin one inference; waits for the one begun `requests` earlier."""
        if len(self._begun) >= self.requests:
            self._begun.pop(0).result()
        self._begun.append(self._pool.submit(self._runner.infer, inputs))

    def finish(self) -> None:
        """Wait for everything begun.

        Raises:
            ModelError: an inference failed.
        """
        while self._begun:
            self._begun.pop(0).result()

    def close(self) -> None:
        """End the threads and close the runner."""
        self._pool.shutdown()
        self._runner.close()


class QueuedLoad:
    """A queue of asynchronous inference requests, as OpenVINO has it.

    Args:
        queue: `start(arrays)` waits until a request is free; `wait_all()`.
        specs: the engine's inputs.
        requests: under way at once.
        streams: how the runtime works on them.
    """

    def __init__(self, queue: Any, specs: Sequence[TensorSpec], requests: int, streams: str) -> None:
        self.requests = requests
        self.streams = streams
        self._queue = queue
        self._specs = specs

    def start(self, inputs: Tensors) -> None:
        """Begin one inference; waits until a request is free.

        Raises:
            ModelError: inputs that do not fit.
        """
        self._queue.start(ordered_inputs(self._specs, inputs))

    def finish(self) -> None:
        """Wait for everything begun.

        Raises:
            ModelError: an inference failed.
        """
        try:
            self._queue.wait_all()
        except RuntimeError as error:
            raise ModelError(f"the runtime fails to run the model: {one_line(error)}") from error

    def close(self) -> None:
        """Give the requests back."""
        self._queue = None
