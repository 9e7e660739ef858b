"""A Dask cluster: meeting its scheduler, and statistics that are sums taken in shards on its workers."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from pipeline.packages import require
from targets.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

# Where stages look for a scheduler: `edgewright build --scheduler` sets it for its children.
VARIABLE = "EDGEWRIGHT_SCHEDULER"
CONNECT_S = 10
WORKERS_S = 60

Shard = TypeVar("Shard")
Part = TypeVar("Part")


def connect(address: str) -> Client:
    """Meet the scheduler of a Dask cluster, and wait for the first of its workers.

    Raises:
        ConfigError: no scheduler answers there, or it has no workers.
        ToolchainMissing: Dask is not installed.
    """
    require("distributed")
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers: {error}",
            where=f"--scheduler {address}",
            mend="start one with `dask scheduler`, and `dask worker ADDRESS --nthreads 1` on every machine",
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except (TimeoutError, asyncio.TimeoutError) as error:
        client.close()
        raise ConfigError(
            f"the Dask scheduler has had no worker for {WORKERS_S} s",
            where=f"--scheduler {address}",
            mend=f"start some: `dask worker {address} --nthreads 1` on every machine",
        ) from error
    return client


def join_cluster(address: str) -> None:
    """Let the stages of this process take their statistics there, once it is known that somebody answers.

    Raises:
        ConfigError: no scheduler answers there.
        ToolchainMissing: Dask is not installed.
    """
    connect(address).close()
    os.environ[VARIABLE] = address


def clustered() -> bool:
    """Whether statistics are to be taken on a cluster."""
    return bool(os.environ.get(VARIABLE))


def over_shards(function: Callable[[Shard], Part], shards: Sequence[Shard]) -> Iterator[Part]:
    """What a function makes of every shard, in their order, on the cluster `EDGEWRIGHT_SCHEDULER` names.

    Without one, here. A shard whose worker dies is given to another.

    Raises:
        ConfigError: no scheduler answers.
        EdgewrightError: what the function raised.
    """
    if not clustered():
        yield from map(function, shards)
        return
    with connect(os.environ[VARIABLE]) as client:
        futures = deque(client.submit(function, shard, pure=False) for shard in shards)
        while futures:
            # What has been taken in need not stay in a worker's memory.
            yield futures.popleft().result()
