"""Throughput on a fake device with several servers, and on a real session called by threads."""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
from test_measure import Lab, inputs

from targets.errors import ConfigError, ModelError
from targets.throughput import QueuedLoad, ThreadedLoad, throughput
from targets.toolchain import TensorSpec


class Servers:
    """A load on a fake clock: as many inferences at once as there are servers, each taking `cost(now)` ms."""

    streams = "fake"

    def __init__(self, lab: Lab, requests: int, cost: Callable[[float], float]) -> None:
        self.requests = requests
        self.used: list[int] = []
        self._lab, self._cost = lab, cost
        self._busy: list[int] = []

    def start(self, tensors: dict[str, np.ndarray]) -> None:
        if len(self._busy) == self.requests:
            self._lab.now = max(self._lab.now, heapq.heappop(self._busy))
        self.used.append(int(tensors["x"][0]))
        heapq.heappush(self._busy, self._lab.now + round(self._cost(self._lab.now / 1e9) * 1e6))

    def finish(self) -> None:
        while self._busy:
            self._lab.now = max(self._lab.now, heapq.heappop(self._busy))

    def close(self) -> None:
        raise AssertionError("throughput does not own the load")


@pytest.mark.parametrize(("requests", "ms"), [(1, 2.0), (4, 2.0), (3, 0.5)])
def test_rate_is_servers_over_time(requests: int, ms: float) -> None:
    lab = Lab()
    found = throughput(Servers(lab, requests, lambda _: ms), inputs(3), 1.0, lab.clock)
    assert math.isclose(found.per_second, requests / ms * 1e3, rel_tol=0.05)
    low, high = found.per_second_interval
    assert low <= found.per_second <= high and found.requests == requests
    assert math.isclose(found.inferences, found.per_second, rel_tol=0.06)


def test_what_happens_before_rates_agree_is_not_counted() -> None:
    lab = Lab()
    found = throughput(Servers(lab, 2, lambda now: 1.0 + 9.0 * math.exp(-5 * now)), inputs(3), 1.0, lab.clock)
    assert found.per_second > 1600


def test_inputs_rotate() -> None:
    lab = Lab()
    load = Servers(lab, 2, lambda _: 1.0)
    throughput(load, inputs(5), 0.2, lab.clock)
    assert load.used[:7] == [0, 1, 2, 3, 4, 0, 1]


def test_a_slow_engine_gets_whole_windows() -> None:
    lab = Lab()
    found = throughput(Servers(lab, 2, lambda _: 500.0), inputs(1), 0.1, lab.clock)
    assert math.isclose(found.per_second, 4.0, rel_tol=0.3) and found.inferences >= 80


def test_no_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="no inputs"):
        throughput(Servers(Lab(), 1, lambda _: 1.0), [], 1.0)


class Counting:
    """A runner that counts how many threads are inside it."""

    def __init__(self, together: int) -> None:
        self.inputs = self.outputs = (TensorSpec("x", "float32", (1,)),)
        self.barrier = threading.Barrier(together, timeout=10)
        self.calls = 0
        self.closed = False

    def infer(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        self.barrier.wait()
        return tensors

    def close(self) -> None:
        self.closed = True


def test_threads_are_inside_the_session_together() -> None:
    runner = Counting(3)
    load = ThreadedLoad(runner, 3)
    for tensors in inputs(9):
        load.start(tensors)
    load.finish()
    load.close()
    assert runner.calls == 9 and runner.closed


class Failing:
    inputs = outputs = ()

    def infer(self, _tensors: object) -> None:
        raise ModelError("it fails")

    def close(self) -> None:
        return


def test_a_failing_inference_is_reported() -> None:
    load = ThreadedLoad(Failing(), 2)
    load.start({})
    with pytest.raises(ModelError, match="it fails"):
        load.finish()
    load.close()


def test_a_queue_is_given_checked_arrays() -> None:
    class Queue:
        def start(self, arrays: list[np.ndarray]) -> None:
            assert [array.shape for array in arrays] == [(1,)]

        def wait_all(self) -> None:
            raise RuntimeError("broken\nwhole story")

    load = QueuedLoad(Queue(), (TensorSpec("x", "float32", (1,)),), 2, "2 streams")
    load.start(inputs(1)[0])
    with pytest.raises(ModelError, match="shape is"):
        load.start({"x": np.zeros(2, np.float32)})
    with pytest.raises(ModelError, match="broken; whole story"):
        load.finish()
