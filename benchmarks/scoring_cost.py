"""What scoring costs: time against forward passes over the same images, and memory, as everything grows.

    python benchmarks/scoring_cost.py [--repeats 2] [--criteria …] [--out benchmarks/scoring_cost.json]

Every cell is a process of its own, on one thread, with glibc keeping its buffers as in builds. In it, passes
forward and passes that gather a criterion's statistics take turns; times are the processor's, so that what
else the machine does hardly counts, and the ratio is that of the fastest of either. The order of removal that
follows the pass depends on the network alone and is timed apart, on one batch's statistics. Memory is what
the process holds at its highest above what forward passes alone need.

The comparison `released` is our reading of the procedure the authors of discriminant information released:
the gradient by masks on flattened maps before normalisation, 128 images at a time, ρ = 0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.attribution import attributions, task_loss
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import rank
from pipeline.compress.readers import find_readers
from pipeline.compress.reconstruction import decisive_reconstructions, reconstructions
from pipeline.compress.scatter import collect, one_hot
from pipeline.wiring.networks import KEEP_BUFFERS
from pipeline.zoo import resnet
from targets import environment

SHAPE, CLASSES, BATCH = (1, 3, 32, 32), 10, 128
RHO = 0.1


@dataclass(frozen=True)
class Size:
    """A residual network and how much data it is judged on.

    Args:
        width: of the first stage. The others are twice and four times as wide.
        depth: blocks in each of three stages.
        images: that are looked at.
    """

    width: int = 16
    depth: int = 1
    images: int = 2048


SIZES = (
    Size(images=512),
    Size(),
    Size(images=8192),
    Size(width=8),
    Size(width=32),
    Size(depth=2),
    Size(depth=3),
)


def forward(given: Evidence) -> None:
    """What everything is compared with."""
    with torch.inference_mode():
        for images, _ in given.batches:
            given.network(images)


def taylor(given: Evidence) -> None:
    """One pass forward and back."""
    for _ in attributions(given.network, given.readers, given.batches, task_loss):
        pass


def released(given: Evidence) -> None:
    """Scores of every convolution's channels, 2ρ‖W_c‖² over a channel's positions, averaged over batches.

    Flattened maps have far more columns than images, so W = Xᵀ(XXᵀ + ρI)⁻¹Y.
    """
    convolutions = {name: part for name, part in given.network.named_modules() if isinstance(part, nn.Conv2d)}
    scores: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(lambda _, __, y, name=name: kept.update({name: y}))
        for name, part in convolutions.items()
    ]
    with torch.inference_mode():
        for images, labels in given.batches:
            given.network(images)
            y = functional.one_hot(labels, CLASSES).float()
            for name, maps in kept.items():
                x = maps.flatten(1) - maps.flatten(1).mean(0)
                inner = torch.linalg.solve(x @ x.T + RHO * torch.eye(len(x)), y - y.mean(0))
                weights = (x.T @ inner).view(*maps.shape[1:], -1)
                scores[name] = scores.get(name, 0.0) + 2 * RHO * weights.square().sum((1, 2, 3))
    for handle in handles:
        handle.remove()


PASSES: dict[str, Callable[[Evidence], object]] = {
    "released": released,
    "taylor": taylor,
    "di-greedy": lambda given: collect(given.network, given.readers, given.batches, one_hot(CLASSES)),
    "reconstruction": reconstructions,
    "discriminant-reconstruction": decisive_reconstructions,
}
# Their order follows from a score at once.
NO_ORDER = ("released", "taylor")


def evidence(size: Size) -> Evidence:
    """A network nobody trained: what costs are does not depend on it. One batch stands for all."""
    torch.manual_seed(0)
    widths = tuple(size.width * 2**stage for stage in range(3))
    network = resnet(CLASSES, SHAPE[1], (size.depth,) * 3, widths).eval().requires_grad_(False)
    groups = find_groups(network, SHAPE)
    batch = torch.randn(BATCH, *SHAPE[1:]), torch.arange(BATCH) % CLASSES
    readers = find_readers(network, groups, SHAPE)
    return Evidence(network, groups, readers, [batch] * (size.images // BATCH), CLASSES)


def peak() -> float:
    """The most memory this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(action: Callable[[], object]) -> float:
    """How long the processor takes."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def measure_here(size: Size, name: str, repeats: int) -> dict[str, Any]:
    """One cell, in this process."""
    torch.set_num_threads(1)
    given = evidence(size)
    forward(given)
    before = peak()
    gather = PASSES[name]
    passes, forwards = [], []
    for _ in range(repeats):
        forwards.append(seconds(lambda: forward(given)))
        passes.append(seconds(lambda: gather(given)))
    memory = peak() - before
    one_batch = replace(given, batches=list(given.batches)[:1])
    order = 0.0 if name in NO_ORDER else seconds(lambda: rank(name, one_batch))
    return {
        "criterion": name,
        **asdict(size),
        "forward_seconds": min(forwards),
        "forward_passes": min(passes) / min(forwards),
        "order_seconds": order,
        "extra_mib": memory,
    }


def measure_child(size: Size, name: str, repeats: int) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--one", name, json.dumps(asdict(size)), "--repeats", str(repeats)]
    env = os.environ | KEEP_BUFFERS
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, env=env).stdout
    )
    return found


def cells(size: Size, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All criteria at one size: those chosen are measured, the others kept as the file has them."""
    kept = json.loads(options.out.read_text(encoding="utf-8"))["cells"] if options.out.is_file() else []
    old = {cell["criterion"]: cell for cell in kept if asdict(size).items() <= cell.items()}
    new = {name: measure_child(size, name, options.repeats) for name in options.criteria}
    return [(old | new)[name] for name in PASSES if name in old | new]


def main() -> None:
    """Measure every cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--criteria", nargs="+", choices=PASSES, default=list(PASSES), help="to measure anew")
    parser.add_argument("--one", nargs=2, metavar=("CRITERION", "SIZE"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scoring_cost.json"))
    options = parser.parse_args()
    if options.one:
        name, size = options.one
        print(json.dumps(measure_here(Size(**json.loads(size)), name, options.repeats)))
        return
    document = {
        "repeats": options.repeats,
        "machine": environment.facts(),
        "versions": {name: version(name) for name in ("torch", "torch-pruning")},
        "cells": [cell for size in SIZES for cell in cells(size, options)],
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
