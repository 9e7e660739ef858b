"""Shared by all tests: one small but real build, made once."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

# Several tests and the children they start share few cores: more threads would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SMALL_BUILD = """
[project]
name = "small-sorter"
version = "1.2.3"
description = "A small build on real images, for tests"

[data]
kind = "fashion-mnist"
limit = 600
mean = [0.2860]
std = [0.3530]

[task]
classes = ["Sandal", "Sneaker", "Ankle boot"]
other = true

[model]
factory = "pipeline.zoo:resnet"
arguments = { classes = 10, channels = 1, blocks = [1, 1], widths = [16, 32] }

[model.training]
epochs = 2
batch_size = 64

[student]
macs = 0.5

[student.training]
epochs = 2
batch_size = 64

[quantize]
samples = 64

# So little training leaves logits close together, where ties break either way.
[gates]
samples = 32
[gates.limits.quantize]
top1_agreement = 0.8
[gates.limits.engine-int8]
top1_agreement = 0.8

[measure]
samples = 64
seconds = 0.1
warmup_s = 0.01
throughput_seconds = 0.05
energy_seconds = 0.05

[quantize.mixed]
bits = 5.0

[[targets]]
device = "any-onnxruntime"
precisions = ["fp32", "int8", "mixed"]

[[targets]]
device = "this-machine"
toolchain = "openvino"
"""


# The same for one target and in INT8 alone: what its engines are made of has the same bytes there.
LEAN_BUILD = (
    SMALL_BUILD.partition('\n[[targets]]\ndevice = "this-machine"')[0]
    .replace("[quantize.mixed]\nbits = 5.0\n\n", "")
    .replace('["fp32", "int8", "mixed"]', '["int8"]')
)

# The first one makes the small build, which the last ones wait for; in between what is long without it.
LONGEST = (
    "test_build",
    "test_unlabelled",
    "test_remote",
    "test_remote_build",
    "test_report",
    "test_extras_build",
    "test_family",
    "test_cli",
    "test_compare",
    "test_budgets",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: workers that share the tests file by file then end at the same time."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def small_build(tmp_path_factory, worker_id) -> Path:
    """Folder of a finished small build: build.toml, out/ and the store. Tests must not change it.

    Made once, also when several workers run tests side by side.
    """
    from pipeline.session import Session

    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    folder = shared / "small"
    with FileLock(str(shared / "small.lock")):
        if not (folder / "out" / "report.html").exists():
            folder.mkdir(exist_ok=True)
            (folder / "build.toml").write_text(SMALL_BUILD)
            Session(folder / "build.toml").build()
    return folder
