"""What is measured: processor time, wall time and memory of the work alone, each case in its own process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.performance.networks import SIDE, chain, write_build

Figures = dict[str, Any]
SMALL_TREE = 20_000


@contextmanager
def measured() -> Iterator[Figures]:
    """Figures of what is done inside: cpu_s with children, wall_s, and peak_mb above what was held before."""
    found: Figures = {}
    held, cpu, begun = _peak(), _cpu(), time.monotonic()
    yield found
    found |= {
        "cpu_s": round(_cpu() - cpu, 3),
        "wall_s": round(time.monotonic() - begun, 3),
        "peak_mb": round(_peak() - held, 1),
    }


def scoring(images: int, blocks: int) -> Figures:
    """Order of all channels by discriminant reconstruction, as a build scores them."""
    import torch

    from pipeline.compress.evidence import Evidence
    from pipeline.compress.groups import find_groups
    from pipeline.compress.importance import rank
    from pipeline.compress.readers import find_readers
    from pipeline.zoo import resnet

    torch.manual_seed(0)
    network = resnet(classes=4, channels=1, blocks=[blocks, blocks], widths=[16, 32]).eval()
    shape = (1, 1, SIDE, SIDE)
    batches = [(torch.randn(64, 1, SIDE, SIDE), torch.randint(0, 4, (64,))) for _ in range(images // 64)]
    with measured() as found:
        groups = list(find_groups(network, shape))
        readers = find_readers(network, groups, shape)
        rank("discriminant-reconstruction", Evidence(network, groups, readers, batches, 4))
    return found


def calibration(folder: Path, images: int, layers: int) -> Figures:
    """Ranges of a network over images that lie on disk, as a build's `observe` sees them."""
    import numpy as np
    import onnx

    from calibration.ranges import collect
    from pipeline.datasets.prepared import PreparedBatches

    onnx.save(chain(layers), folder / "model.onnx")
    stored = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.dtype(np.uint8), (images, SIDE, SIDE, 1)
    )
    rng = np.random.default_rng(0)
    for start in range(0, images, 256):
        part = stored[start : start + 256]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)

    def prepare(values: Any) -> Any:
        return (values.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)

    batches = PreparedBatches({"image": np.load(folder / "images.npy", mmap_mode="r")}, 64, prepare=prepare)
    with measured() as found:
        collect(folder / "model.onnx", batches).save(folder / "observations.npz")
    return found


def writing(folder: Path, layers: int) -> Figures:
    """An INT8 model from ranges that are known."""
    from calibration.observations import Observations
    from calibration.qdq import quantize
    from targets.capability import load_device

    calibration(folder, 64, layers)
    observations = Observations.load(folder / "observations.npz")
    convention = load_device("any-onnxruntime").capability("onnxruntime").quantization
    assert convention is not None
    with measured() as found:
        quantize(folder / "model.onnx", observations, convention, folder / "int8.onnx")
    return found


def no_op_build(folder: Path, targets: int) -> Figures:
    """A build in which all is done already, imports apart."""
    from pipeline.session import Session

    path = _built(folder, targets)
    with measured() as found:
        again = Session(path).build()
    return found | {"ran": len(again.ran)}


def one_target_changed(folder: Path, targets: int) -> Figures:
    """A build after one target's threads changed; the others are as they were."""
    from pipeline.child import end_all
    from pipeline.session import Session

    path = _built(folder, targets)
    with measured() as found:
        again = Session(path, overrides={"targets.0.threads": 2}).build()
        end_all()  # a process's time is known when it has ended
    strangers = [name for name in again.ran if "target-" in name and "target-0" not in name]
    return found | {"ran": len(again.ran), "ran_of_other_targets": len(strangers)}


def report(folder: Path, targets: int) -> Figures:
    """The page and the Markdown of a record."""
    from pipeline.report import load, render

    path = _built(folder, targets)
    record = load(path.parent / "out" / "report.json")
    render(record, folder / "once")
    with measured() as found:
        render(record, folder / "page")
    return found


def listing(folder: Path, files: int) -> Figures:
    """Listing, digesting and splitting a folder of so many images; links to one small file."""
    from pipeline.datasets.folders import image_folder
    from pipeline.run import outside_digest
    from pipeline.task import split

    _tree(folder / "tree", files)
    with measured() as found:
        outside_digest(folder / "tree")
        source = image_folder(folder / "tree", None, "")
        assert source.labels is not None
        shares = {"select": 0.1, "calibrate": 0.02, "test": 0.2}
        split(source.labels, source.classes, source.own_test, shares, 1000, 0)
    return found | {"bytes_per_file": round(found["peak_mb"] * 1e6 / files)}


def start_up() -> Figures:
    """`edgewright --help`, three times; the fastest."""
    runs = []
    for _ in range(3):
        with measured() as found:
            subprocess.run([sys.executable, "-m", "pipeline.cli", "--help"], check=True, capture_output=True)
        runs.append(found)
    return min(runs, key=lambda run: run["wall_s"])


def _built(folder: Path, targets: int) -> Path:
    """A finished build of so many targets, made by another process: this one remembers nothing of it."""
    path = write_build(folder, targets)
    subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "build", str(path)], check=True, capture_output=True
    )
    return path


def _tree(folder: Path, files: int) -> None:
    from PIL import Image

    one = folder / "class-0" / "one.png"
    one.parent.mkdir(parents=True)
    Image.new("L", (8, 8)).save(one)
    for number in range(files - 1):
        place = folder / f"class-{number % 10}" / f"{number // 1000:03}" / f"image-{number:07}.png"
        if number % 1000 < 10:
            place.parent.mkdir(parents=True, exist_ok=True)
        if number % 30_000 == 29_999:  # file systems allow some 65,000 names of one file
            one = folder / "class-0" / f"copy-{number}.png"
            Image.new("L", (8, 8)).save(one)
        os.link(one, place)


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Case = Callable[[Path], Figures]
# name → what grows, from small to ten times as much
CASES: dict[str, tuple[Case, Case | None]] = {
    "scoring, images 256 → 2560": (lambda _: scoring(256, 1), lambda _: scoring(2560, 1)),
    "scoring, blocks 1 → 10": (lambda _: scoring(256, 1), lambda _: scoring(256, 10)),
    "calibration, images 256 → 2560": (
        lambda folder: calibration(folder, 256, 4),
        lambda folder: calibration(folder, 2560, 4),
    ),
    "calibration, layers 4 → 40": (
        lambda folder: calibration(folder, 64, 4),
        lambda folder: calibration(folder, 64, 40),
    ),
    "writing QDQ, layers 4 → 40": (lambda folder: writing(folder, 4), lambda folder: writing(folder, 40)),
    "no-op build, targets 1 → 10": (
        lambda folder: no_op_build(folder, 1),
        lambda folder: no_op_build(folder, 10),
    ),
    "one target changed, of 2 → 10": (
        lambda folder: one_target_changed(folder, 2),
        lambda folder: one_target_changed(folder, 10),
    ),
    "report, targets 1 → 10": (lambda folder: report(folder, 1), lambda folder: report(folder, 10)),
    "image folder, files 20,000 → 200,000": (
        lambda folder: listing(folder, SMALL_TREE),
        lambda folder: listing(folder, 10 * SMALL_TREE),
    ),
    "edgewright --help": (lambda _: start_up(), None),
}
