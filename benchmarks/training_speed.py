"""Images per second of training steps: memory order of tensors × glibc keeping its buffers.

    python benchmarks/training_speed.py [--repeats 3]

The variants take turns, each in a process of its own: the allocator reads its settings when that starts.
Prints JSON: median and range over the repeats, and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from pipeline.wiring.networks import KEEP_BUFFERS
from targets import environment

NETWORKS = {"16/32/64": (16, 32, 64), "32/64/128": (32, 64, 128)}
STEPS, WARM_UP, BATCH = 10, 3, 128


def measure_here(widths: tuple[int, ...], channels_last: bool) -> float:
    """Images per second of this process."""
    import torch

    from pipeline.zoo import resnet

    network = resnet(channels=1, blocks=(1, 1, 1), widths=widths)
    images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    begun = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            begun = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return BATCH * STEPS / (time.perf_counter() - begun)


def measure_child(widths: str, channels_last: bool, keep_buffers: bool) -> float:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--one", widths, *(["--channels-last"] if channels_last else [])]
    env = os.environ | (KEEP_BUFFERS if keep_buffers else {})
    return float(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run all variants, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=NETWORKS)
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(measure_here(NETWORKS[options.one], options.channels_last))
        return
    cells = [(w, last, keep) for w in NETWORKS for last in (False, True) for keep in (False, True)]
    found: dict[tuple[str, bool, bool], list[float]] = {cell: [] for cell in cells}
    for _ in range(options.repeats):
        for cell in cells:
            found[cell].append(measure_child(*cell))
    rows = [
        {
            "widths": widths,
            "channels_last": last,
            "buffers_kept": keep,
            "images_per_s": round(statistics.median(samples)),
            "range": [round(min(samples)), round(max(samples))],
        }
        for (widths, last, keep), samples in found.items()
    ]
    print(json.dumps({"machine": environment.facts(), "repeats": options.repeats, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
