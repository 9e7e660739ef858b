"""Measurements never run beside each other: one at a time has this machine, whoever starts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from targets.device.claims import DeviceLock


@contextmanager
def machine_alone(who: str, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the lock of this machine, the same that sessions from elsewhere take when they measure here.

    It is the kernel's and ends with its process. It keeps other measurements away, not other work.

    Args:
        who: is named to those who wait.
        waiting: called with who has the machine, now and then until it is free.
    """
    lock = DeviceLock()
    lock.take(who, math.inf, waiting)
    try:
        yield
    finally:
        lock.release()
