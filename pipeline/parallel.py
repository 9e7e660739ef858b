"""One training in several processes: who is who, and what they tell each other.

Everything here does nothing in a process that is alone. All processes are of one machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from targets.errors import StageError

_apart = False


def rank() -> int:
    """Number of this process; 0 is the one that speaks."""
    return distributed.get_rank() if _together() else 0


def size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if _together() else 1


def join(meeting: Path, rank: int, size: int) -> None:
    """Meet the other processes: NCCL with a GPU each, gloo without.

    They find each other through a file and talk over the loopback interface alone; the TCP store torchrun
    meets through would listen on all interfaces.

    Args:
        meeting: file that does not exist yet, the same for all.
        rank: number of this process.
        size: number of processes.

    Raises:
        StageError: fewer GPUs than processes.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < size:
        raise StageError(
            f"{size} processes want a GPU each, and this machine has {gpus}",
            where="training.processes",
            mend=f"set it to {gpus} or less",
        )
    if gpus:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if gpus else "gloo", init_method=meeting.resolve().as_uri(), rank=rank, world_size=size
    )


def together(module: nn.Module) -> nn.Module:
    """Give a module rank 0's weights everywhere, and let its gradients be averaged over the processes."""
    if size() == 1:
        return module
    # Batch norm's statistics are averaged where they are used, once an epoch, instead of sent at every step.
    return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


@torch.no_grad()
def average_buffers(network: nn.Module) -> None:
    """Set floating-point buffers, such as batch norm's statistics, to their mean over the processes."""
    if size() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer /= size()


@contextmanager
def apart() -> Iterator[None]:
    """As long as it lasts this process works as if alone: nothing is shared out or averaged."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def from_before(values: Tensor) -> Tensor:
    """Values of the process before this one, in a ring of all; this one's go to the one behind it."""
    me, processes, received = distributed.get_rank(), distributed.get_world_size(), torch.empty_like(values)
    sent = distributed.P2POp(distributed.isend, values, (me + 1) % processes)
    awaited = distributed.P2POp(distributed.irecv, received, (me - 1) % processes)
    for request in distributed.batch_isend_irecv([sent, awaited]):
        request.wait()
    return received


def from_each(values: Tensor) -> list[Tensor]:
    """Values of every process, by rank; all of one shape."""
    found = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, values)
    return found


def mean(value: float, device: torch.device) -> float:
    """Mean of a number over the processes."""
    if size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(shared)
    return shared.item() / size()


def from_first(value: float, device: torch.device) -> float:
    """Rank 0's number; what the others give does not matter."""
    if size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(shared, 0)
    return shared.item()


def _together() -> bool:
    return not _apart and distributed.is_available() and distributed.is_initialized()
