"""The two data sets that small networks are trained on here, each with tasks of classes that look alike."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.fashion_mnist import fashion_mnist, find_fashion_mnist
from pipeline.datasets.folders import image_folder
from pipeline.examples import Examples
from targets.preprocess import Preprocess


@dataclass(frozen=True)
class Pictures:
    """Labelled images of ten classes, in an order that says nothing.

    Args:
        name: used in file names.
        images: [N, H, W, C], uint8.
        labels: [N].
        classes: their names.
        preprocess: what networks are fed.
        tasks: number of classes → those of the task; few ones are of classes that networks confuse, because
            others are at 100 % whatever is cut.
        train_to: images before it are for training, those from it to `test_from` for choosing.
        test_from: the data set's own test images.
        shift: pixels an image may be moved by in training.
    """

    name: str
    images: NDArray[np.generic]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    preprocess: Preprocess
    tasks: Mapping[int, tuple[int, ...]]
    train_to: int
    test_from: int
    shift: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, [1, C, H, W]."""
        _, height, width, channels = self.images.shape
        return (1, channels, height, width)

    def examples(self, classes: tuple[int, ...], start: int, stop: int) -> Examples:
        """A stretch of the images, those of some classes alone, labelled by their place among these."""
        outputs = np.full(10, -1)
        outputs[list(classes)] = range(len(classes))
        mine = start + np.flatnonzero(outputs[self.labels[start:stop]] >= 0)
        return Examples(self.images[mine], outputs[self.labels[mine]], self.preprocess)

    def test(self, classes: tuple[int, ...]) -> Examples:
        """The test images of some classes."""
        return self.examples(classes, self.test_from, len(self.labels))


def fashion() -> Pictures:
    """Fashion-MNIST, downloaded if it is not there; 55,000 of its images are for training."""
    source = fashion_mnist(find_fashion_mnist(download=True))
    assert source.labels is not None
    return Pictures(
        "fashion-mnist",
        source.images,
        source.labels,
        source.classes,
        Preprocess(mean=(0.286,), std=(0.353,)),
        {10: tuple(range(10)), 5: (0, 2, 3, 4, 6), 3: (0, 3, 6), 2: (2, 4)},
        train_to=55000,
        test_from=60000,
        shift=1,
    )


def cifar10(folder: Path) -> Pictures:
    """CIFAR-10 as image files, train/<class>/… and test/<class>/…; 45,000 of them are for training."""
    source = image_folder(folder, None, "")
    assert source.labels is not None
    own = len(source) - source.own_test
    order = np.concatenate([np.random.default_rng(0).permutation(own), np.arange(own, len(source))])
    return Pictures(
        "cifar10",
        source.read(order),
        source.labels[order],
        source.classes,
        Preprocess(scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
        {10: tuple(range(10)), 5: (2, 3, 4, 5, 7), 3: (3, 4, 5), 2: (3, 5)},
        train_to=own - 5000,
        test_from=own,
        shift=4,
    )


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let the command line choose the data set."""
    parser.add_argument(
        "--cifar10", type=Path, metavar="FOLDER", help="CIFAR-10 as image files, instead of Fashion-MNIST"
    )


def chosen(arguments: Any) -> Pictures:
    """The data set of the command line."""
    return cifar10(arguments.cifar10) if arguments.cifar10 else fashion()


def default_out(arguments: Any, name: str) -> Path:
    """OUT where the command line gives none."""
    return Path(f"benchmarks/{name}{'-cifar10' * bool(arguments.cifar10)}")
