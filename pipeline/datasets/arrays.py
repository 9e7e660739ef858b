"""Data sets as named arrays: .npz files, and Python functions that return a dict."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.source import ArraySource, Images
from targets.errors import DataError
from targets.npz import read_npz

LABELLING = ("labels", "test_labels", "classes")


def npz_file(path: Path, licence: str, outputs: Sequence[str] | None = None) -> ArraySource:
    """Arrays of an .npz file, as `from_arrays` takes them, or `from_unlabelled` where `outputs` are given.

    Raises:
        DataError: missing, not .npz, hostile (pickled or huge members), or arrays that do not fit.
    """
    return _from(read_npz(path), path.stem, f"file {path.name}", licence, outputs)


def python_factory(factory: str, licence: str, outputs: Sequence[str] | None = None) -> ArraySource:
    """Arrays as in `npz_file`, returned as a dict by "module:function".

    Raises:
        DataError: no such function, or arrays that do not fit.
    """
    module, _, name = factory.partition(":")
    try:
        arrays = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"cannot find the data factory: {error}", where=f"data.factory = {factory!r}"
        ) from error
    if not isinstance(arrays, Mapping):
        raise DataError(
            f"the data factory returned {type(arrays).__name__}, not a dict of arrays",
            where=f"data.factory = {factory!r}",
            mend="return {'images': …, 'labels': …, 'classes': …}; where there are no labels, {'images': …}",
        )
    return _from(arrays, name, f"factory {factory}", licence, outputs)


def from_arrays(arrays: Mapping[str, Any], name: str, origin: str, licence: str) -> ArraySource:
    """Check named arrays and join the data set's own test images behind the others.

    Args:
        arrays: images [N, H, W] or [N, H, W, C] of uint8 or float32, labels [N] of integers, optionally
            classes (one name a label), test_images and test_labels.
        name: of the data set.
        origin: where it came from.
        licence: of the data.

    Raises:
        DataError: something is missing or does not fit; the message names the array.
    """
    labels = _labels(arrays, "labels", "images", origin)
    if "test_images" in arrays:
        labels = np.concatenate([labels, _labels(arrays, "test_labels", "test_images", origin)])
    images, own_test = _all_images(arrays, origin)
    highest = int(labels.max())
    classes = _classes(arrays, highest, len(labels), origin)
    if highest >= len(classes) or labels.min() < 0:
        raise DataError(
            f"labels go from {labels.min()} to {highest}, but there are {len(classes)} classes", where=origin
        )
    if len(set(classes)) != len(classes):
        raise DataError("two classes have the same name", where=origin)
    return ArraySource(name, origin, licence, classes, labels, own_test, images)


def from_unlabelled(
    arrays: Mapping[str, Any], name: str, origin: str, licence: str, outputs: Sequence[str]
) -> ArraySource:
    """Check named arrays of images that have no labels; arguments and errors as of `from_arrays`.

    Args:
        arrays: images, optionally test_images.
        name: of the data set.
        origin: where it came from.
        licence: of the data.
        outputs: what the outputs of the network mean that will label them.
    """
    labelling = [each for each in LABELLING if each in arrays]
    if labelling:
        raise DataError(
            f"the data was said to have no labels, but there is an array {labelling[0]!r}",
            where=origin,
            mend="remove data.labelled and data.classes to use the labels, or take these arrays out",
        )
    images, own_test = _all_images(arrays, origin)
    return ArraySource(name, origin, licence, tuple(outputs), None, own_test, images)


def _from(
    arrays: Mapping[str, Any], name: str, origin: str, licence: str, outputs: Sequence[str] | None
) -> ArraySource:
    if outputs is None:
        return from_arrays(arrays, name, origin, licence)
    return from_unlabelled(arrays, name, origin, licence, outputs)


def _classes(arrays: Mapping[str, Any], highest: int, images: int, origin: str) -> tuple[str, ...]:
    """Names of the classes; their numbers where there are no names."""
    if "classes" in arrays:
        return tuple(str(item) for item in np.ravel(arrays["classes"]))
    if highest >= images:
        raise DataError(
            f"labels go up to {highest} for {images} images",
            where=origin,
            mend="number the classes from 0, or name them in an array classes",
        )
    return tuple(str(number) for number in range(highest + 1))


def _all_images(arrays: Mapping[str, Any], origin: str) -> tuple[Images, int]:
    """All images, the data set's own test images last, and how many those are."""
    images = _images(arrays, "images", origin)
    if "test_images" not in arrays:
        return images, 0
    test_images = _images(arrays, "test_images", origin)
    if test_images.shape[1:] != images.shape[1:] or test_images.dtype != images.dtype:
        raise DataError(
            f"test_images are {test_images.dtype}{list(test_images.shape[1:])}, "
            f"images {images.dtype}{list(images.shape[1:])}",
            where=origin,
        )
    return np.concatenate([images, test_images]), len(test_images)


def _images(arrays: Mapping[str, Any], name: str, origin: str) -> Images:
    images = _array(arrays, name, origin)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32) or not images.size:
        raise DataError(
            f"{name} is {images.dtype}{list(images.shape)}",
            where=origin,
            mend="give [N, H, W] or [N, H, W, C] of uint8 or float32",
        )
    if images.dtype == np.float32 and not np.isfinite(images).all():
        raise DataError(f"{name} holds NaN or infinite values", where=origin)
    return images


def _labels(arrays: Mapping[str, Any], name: str, images: str, origin: str) -> NDArray[np.int64]:
    labels, count = _array(arrays, name, origin), len(np.atleast_1d(_array(arrays, images, origin)))
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} is {labels.dtype}{list(labels.shape)} for {count} images",
            where=origin,
            mend="give one whole number an image",
        )
    return labels.astype(np.int64)


def _array(arrays: Mapping[str, Any], name: str, origin: str) -> NDArray[Any]:
    if name not in arrays:
        raise DataError(
            f"there is no array {name!r}; found: {', '.join(sorted(arrays))}",
            where=origin,
            mend="name the arrays images and labels; images without labels need data.labelled = false",
        )
    return np.asarray(arrays[name])
