"""Where the points of a sweep are built: one after the other here, or on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.cluster import connect
from pipeline.run import Listener
from pipeline.sweep.document import Outcome
from pipeline.sweep.point import Job, build_point


class Executor(Protocol):
    """Builds points, several at once where it can."""

    def free(self) -> int:
        """How many more points it could start now."""
        ...

    def start(self, job: Job) -> None:
        """Take a point in hand."""
        ...

    def next(self) -> Outcome | None:
        """Wait until a point is finished; None when none is in hand."""
        ...

    def close(self) -> None:
        """Let go of what is in hand."""
        ...


class Here:
    """In this process, one point after the other; every stage still runs in a child of its own.

    Args:
        listener: told what happens.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._job: Job | None = None

    def free(self) -> int:
        """One at a time."""
        return int(self._job is None)

    def start(self, job: Job) -> None:
        """Remember it; it is built when its result is asked for."""
        self._job = job

    def next(self) -> Outcome | None:
        """Build the point in hand."""
        job, self._job = self._job, None
        return None if job is None else build_point(job, self._listener)

    def close(self) -> None:
        """There is nothing to let go of."""


class Cluster:
    """On the workers of a Dask cluster, as many points at once as it has threads.

    Workers see the same folders under the same paths. A point whose worker dies is given to another one; one
    whose workers died four times (Dask's allowed-failures) has failed.

    Args:
        address: of the scheduler, as in "tcp://10.0.0.5:8786".
        build: what builds a point; a function the workers can import.

    Raises:
        ConfigError: no scheduler answers there.
        ToolchainMissing: Dask is not installed.
    """

    def __init__(self, address: str, build: Callable[[Job], Outcome] = build_point) -> None:
        self._client = connect(address)
        self._build = build
        self._jobs: dict[Any, Job] = {}

    def free(self) -> int:
        """A point for every thread, and one when no worker is left: it waits for the next."""
        threads = int(sum(self._client.nthreads().values()))
        return max(1, threads) - len(self._jobs)

    def start(self, job: Job) -> None:
        """Hand a point to the cluster."""
        self._jobs[self._client.submit(self._build, job, pure=False)] = job

    def next(self) -> Outcome | None:
        """Wait for whichever point is finished first."""
        if not self._jobs:
            return None
        from distributed import wait

        future = next(iter(wait(list(self._jobs), return_when="FIRST_COMPLETED").done))
        job = self._jobs.pop(future)
        error = future.exception()
        return future.result() if error is None else _lost(job, error)

    def close(self) -> None:
        """Take back what no worker has begun; what is under way ends there and is kept in the store."""
        self._client.cancel(list(self._jobs))
        self._client.close()


def _lost(job: Job, error: BaseException) -> Outcome:
    """A point that no worker could finish."""
    return Outcome(
        name=job.point.name,
        labels=dict(job.point.labels),
        overrides=dict(job.point.overrides),
        state="failed",
        error=f"no worker finished it: {type(error).__name__}: {error}",
        seconds=0.0,
        stages_ran=0,
        results=[],
    )
