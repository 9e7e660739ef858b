"""Times of single layers, as a runtime's own profiler tells them."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

RUNS = 30
WARM = 5
# What ONNX Runtime's profiler puts behind a node's name for the time of its kernel.
KERNEL = "_kernel_time"


class LayerTime(NamedTuple):
    """One operator as the runtime executed it.

    Args:
        name: as the runtime calls it.
        kind: operator, and kernel where the runtime names it.
        median_ms: over the runs.
    """

    name: str
    kind: str
    median_ms: float


def medians(times: Mapping[tuple[str, str], Sequence[float]]) -> list[LayerTime]:
    """Return the median of every layer over several runs, longest first.

    Args:
        times: name and kind of a layer → milliseconds, one of each run.
    """
    found = [LayerTime(name, kind, float(np.median(values))) for (name, kind), values in times.items()]
    return sorted(found, key=lambda layer: -layer.median_ms)


def from_trace(events: Sequence[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """Read what ONNX Runtime's profiler writes: microseconds of every node.

    Args:
        events: the trace.
        runs: so many of the last times a node ran count.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            key = (name[: -len(KERNEL)], event["args"].get("op_name", ""))
            times.setdefault(key, []).append(event["dur"] / 1e3)
    return medians({key: found[-runs:] for key, found in times.items()})
