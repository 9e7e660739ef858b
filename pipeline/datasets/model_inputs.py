"""Inputs for an ONNX model outside of a build: image files, or arrays that are ready for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.folders import loose_images
from pipeline.datasets.prepared import PreparedBatches
from targets.batches import batch_size
from targets.errors import DataError
from targets.npz import read_npz
from targets.preprocess import Preprocess
from targets.toolchain import TensorSpec

# Inputs at once where the batch is free: few, as all activations of a batch are held.
CHUNK = 8
# Fewest batches that can be divided into parts to fit, to choose and to report by.
FEWEST = 5
CHANNELS = (1, 3)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImageOptions:
    """How image files become a model's input.

    Args:
        scale: factor on pixels of 0…255.
        mean: per channel, after scaling; one value serves all channels.
        std: per channel, after scaling.
        reverse_channels: the model takes BGR.
    """

    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    reverse_channels: bool = False


@dataclass(frozen=True)
class Divided:
    """Inputs in two disjoint parts.

    Args:
        calibration: to fit and to choose by.
        kept: every fifth batch, for reported figures alone.
    """

    calibration: PreparedBatches
    kept: PreparedBatches


def load_inputs(
    path: Path,
    specs: Sequence[TensorSpec],
    options: ImageOptions,
    samples: int,
    scratch: Path,
    progress: Progress,
) -> Divided:
    """Read at most so many inputs, spread evenly over what there is.

    Args:
        path: folder of images, at any depth; or an .npz with an array [N, …] for every input.
        specs: the model's inputs.
        options: for images.
        samples: most inputs to read.
        scratch: folder for decoded images, so that they need not be held in memory.
        progress: told while images are decoded.

    Raises:
        DataError: nothing there, not what the model takes, or fewer than five batches.
        ToolchainMissing: Pillow is not installed.
    """
    if path.is_file():
        return _divide(_from_arrays(path, specs, samples), specs)
    if not path.exists():
        raise DataError(
            "there is no calibration data here",
            where=str(path),
            mend="give a folder of images, or an .npz with an array for every input",
        )
    return _divide(_from_images(path, specs, options, samples, scratch, progress), specs)


def _from_arrays(path: Path, specs: Sequence[TensorSpec], samples: int) -> PreparedBatches:
    wanted = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
    found = read_npz(path)
    missing = [spec.name for spec in specs if spec.name not in found]
    if missing:
        raise DataError(
            f"the file has {', '.join(found) or 'no arrays'}, but not {', '.join(missing)}",
            where=str(path),
            mend=f"the model wants {wanted}, with as many rows as there are inputs",
        )
    arrays = {spec.name: found[spec.name] for spec in specs}
    misfits = [spec.name for spec in specs if not _fits(arrays[spec.name], spec)]
    if misfits:
        unfit = ", ".join(f"{name} {arrays[name].dtype} {list(arrays[name].shape)}" for name in misfits)
        raise DataError(
            f"the file has {unfit}",
            where=str(path),
            mend=f"the model wants {wanted}, with as many rows as there are inputs",
        )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"the arrays have different numbers of rows: {counts}",
            where=str(path),
            mend="give every input the same number of rows",
        )
    rows = _evenly(next(iter(counts.values())), samples)
    return PreparedBatches(arrays, 1, rows)


def _fits(array: NDArray[Any], spec: TensorSpec) -> bool:
    """Whether rows of an array are what an input takes; the batch axis may have any length."""
    return (
        array.dtype == spec.dtype
        and array.ndim == len(spec.shape) > 0
        and all(dim in (-1, size) for dim, size in zip(spec.shape[1:], array.shape[1:], strict=True))
    )


def _from_images(
    folder: Path,
    specs: Sequence[TensorSpec],
    options: ImageOptions,
    samples: int,
    scratch: Path,
    progress: Progress,
) -> PreparedBatches:
    spec = specs[0]
    layout, channels, size = _image_input(specs, folder)
    source = loose_images(folder, size, channels)
    rows = _evenly(len(source), samples)
    shape = (len(rows), *size, channels)
    images: NDArray[Any] = np.lib.format.open_memmap(
        scratch / "images.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    for done, row in enumerate(rows):
        images[done] = source.read(np.array([row]))[0]
        progress("reading images", done + 1, len(rows))
    for name in ("mean", "std"):
        if len(getattr(options, name)) not in (1, channels):
            raise DataError(
                f"{name} has {len(getattr(options, name))} values, but the model takes {channels} channels",
                where=f"--{name}",
                mend=f"give 1 value or {channels}",
            )
    prepare = Preprocess(options.scale, options.mean, options.std, layout, options.reverse_channels)
    return PreparedBatches({spec.name: images}, 1, prepare=prepare)


def _image_input(specs: Sequence[TensorSpec], folder: Path) -> tuple[str, int, tuple[int, int]]:
    """Find layout, channels and size of images in what the model takes."""
    shape = specs[0].shape
    if len(specs) == 1 and specs[0].dtype == "float32" and len(shape) == 4:
        if shape[1] in CHANNELS and min(shape[2:]) > 0:
            return "NCHW", shape[1], (shape[2], shape[3])
        if shape[3] in CHANNELS and min(shape[1:3]) > 0:
            return "NHWC", shape[3], (shape[1], shape[2])
    wanted = "; ".join(f"{spec.name}: {spec.dtype} {list(spec.shape)}" for spec in specs)
    raise DataError(
        f"image files cannot be made into what the model takes ({wanted})",
        where=str(folder),
        mend="prepare the inputs yourself and give them as .npz, an array [N, …] for every input",
    )


def _divide(inputs: PreparedBatches, specs: Sequence[TensorSpec]) -> Divided:
    rows = np.arange(len(inputs)) if inputs.rows is None else inputs.rows
    size = batch_size(specs, max(1, min(CHUNK, len(rows) // (2 * FEWEST))))
    count = len(rows) // size
    if count < FEWEST:
        raise DataError(
            f"{len(rows)} calibration inputs make {count} batches of {size}",
            mend=f"give at least {FEWEST * size}; a few hundred are usual",
        )
    whole = rows[: count * size].reshape(count, size)
    apart = np.arange(count) % FEWEST == FEWEST - 1
    return Divided(
        replace(inputs, size=size, rows=whole[~apart].reshape(-1)),
        replace(inputs, size=size, rows=whole[apart].reshape(-1)),
    )


def _evenly(there: int, wanted: int) -> NDArray[np.intp]:
    rows: NDArray[np.intp] = np.linspace(0, max(0, there - 1), min(there, wanted)).round().astype(np.intp)
    return rows
