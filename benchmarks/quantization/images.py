"""The 500 photos, prepared for a network and cut into calibration and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.networks import SIZE, Network

SHORT_SIDE = 256
CALIBRATION = 200
SEED = 0
HELP = (
    "unpack the archive of github.com/EliSchwartz/imagenet-sample-images there, renamed to "
    "<class index 0-999>_<wnid>.jpg"
)


class Batches(Sequence[dict[str, NDArray[np.float32]]]):
    """Batches of some images, read from the file when they are asked for.

    Args:
        pixels: memory-mapped, [all, 3, H, W].
        chosen: indices of the images.
        size: images a batch.
    """

    def __init__(self, pixels: NDArray[np.float32], chosen: NDArray[np.int64], size: int) -> None:
        self._pixels, self._chosen, self._size = pixels, chosen, size

    def __len__(self) -> int:
        return -(-len(self._chosen) // self._size)

    @overload
    def __getitem__(self, index: int) -> dict[str, NDArray[np.float32]]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, NDArray[np.float32]]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        chosen = self._chosen[index * self._size : (index + 1) * self._size]
        return {"input": np.ascontiguousarray(self._pixels[chosen])}


def calibration_batches(network: Network, cache: Path, size: int) -> Batches:
    """Return the calibration images that `load_images` has prepared, in batches."""
    pixels = np.load(cache / f"{network.name}.images.npy", mmap_mode="r")
    return Batches(pixels, _order(len(pixels))[:CALIBRATION], size)


def _order(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(SEED).permutation(count)


@dataclass(frozen=True)
class Images:
    """Prepared images, split once for all networks and methods.

    Args:
        calibration: float32 [200, 3, 224, 224], for ranges, repairs and every choice.
        evaluation: float32 [N, 3, 224, 224], for the reported figures alone.
        labels: int64 [N], classes of the evaluation images.
    """

    calibration: NDArray[np.float32]
    evaluation: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_images(folder: Path, network: Network, cache: Path) -> Images:
    """Prepare the images of a folder for a network; the arrays are cached as .npy and memory-mapped.

    Raises:
        FileNotFoundError: the folder holds too few images; the message says how to get them.
    """
    paths = sorted(folder.rglob("*.jpg"))
    if len(paths) <= CALIBRATION:
        raise FileNotFoundError(f"{folder} holds {len(paths)} images, more than {CALIBRATION} needed: {HELP}")
    array = cache / f"{network.name}.images.npy"
    if not array.exists():
        np.save(array, np.stack([_prepare(path, network) for path in paths]))
    labels = np.array([int(path.name.split("_")[0]) for path in paths])
    order = _order(len(paths))
    pixels = np.load(array, mmap_mode="r")
    calibration, evaluation = order[:CALIBRATION], np.sort(order[CALIBRATION:])
    return Images(pixels[calibration], pixels[evaluation], labels[evaluation])


def _prepare(path: Path, network: Network) -> NDArray[np.float32]:
    from PIL import Image

    image = Image.open(path).convert("RGB")
    factor = SHORT_SIDE / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    if size != image.size:
        image = image.resize(size, filters[network.resample])
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    if network.channels == "bgr":
        pixels = pixels[:, :, ::-1]
    normal = (pixels - np.array(network.mean, np.float32)) / np.array(network.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)
