"""data, task: images from wherever they are, divided; the wanted classes found among them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.arrays import npz_file, python_factory
from pipeline.datasets.fashion_mnist import fashion_mnist
from pipeline.datasets.folders import image_folder, unlabelled_folder
from pipeline.datasets.source import Source
from pipeline.stage import Context, Progress
from pipeline.task import SPLITS, Split, resolve, split, split_unlabelled
from targets.errors import DataError
from targets.preprocess import Preprocess
from targets.toolchain import file_sha256

CHUNK = 1024


def load(context: Context) -> None:
    """Read the data set and write its splits.

    Artefacts: a folder for each split (images.npy [N, H, W, C] and, where the data has labels, labels.npy
    [N]), facts.json, preprocess.json.
    """
    settings = context.settings
    source = _open(settings, context.files.get("source"))
    splits = _splits(settings, source)
    digest = hashlib.sha256()
    total = sum(len(indices) for indices in splits.values())
    done = 0
    for name in SPLITS:
        folder = context.out / name
        folder.mkdir()
        _write_images(folder / "images.npy", source, splits[name], context.progress, done, total)
        if source.labels is not None:
            np.save(folder / "labels.npy", source.labels[splits[name]])
        done += len(splits[name])
        for path in sorted(folder.iterdir()):
            digest.update(file_sha256(path).encode())
    first = np.load(context.out / "train" / "images.npy", mmap_mode="r")
    facts = {
        "name": source.name,
        "source": source.origin,
        "licence": source.licence or "not stated",
        "sha256": digest.hexdigest(),
        "image_shape": first.shape[1:],
        "classes": source.classes,
        "split_seed": settings["seed"],
        "split_sizes": {name: len(splits[name]) for name in SPLITS},
    }
    _write(context.out / "facts.json", facts)
    _write(context.out / "preprocess.json", asdict(_preprocess(settings, first)))


def resolve_task(context: Context) -> None:
    """Find the wanted classes in the data set. Artefact: task.json."""
    known = json.loads(context.inputs["facts"].read_text(encoding="utf-8"))["classes"]
    resolve(known, context.settings["classes"], context.settings["other"]).save(context.out / "task.json")


def read_preprocess(path: Path) -> Preprocess:
    """Read what the data stage wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    for name in ("mean", "std"):
        document[name] = tuple(document[name])
    return Preprocess(**document)


def read_split(folder: Path) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Images (memory-mapped) and labels of one split."""
    return read_images(folder), np.load(folder / "labels.npy")


def read_images(folder: Path) -> NDArray[np.generic]:
    """Images (memory-mapped) of one split that may have no labels yet."""
    images: NDArray[np.generic] = np.load(folder / "images.npy", mmap_mode="r")
    return images


def evenly(images: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """At most `count` images, spread evenly over all of them."""
    return np.asarray(images[evenly_spread(len(images), count)])


def evenly_spread(total: int, count: int) -> NDArray[np.intp]:
    """At most `count` of so many places, spread evenly over all of them."""
    return np.asarray(np.linspace(0, total - 1, min(count, total)).round(), np.intp)


def _open(settings: Mapping[str, Any], path: Path | None) -> Source:
    licence, outputs = settings["licence"], settings.get("outputs")
    if settings["kind"] == "python":
        return python_factory(settings["factory"], licence, outputs)
    assert path is not None
    if settings["kind"] == "fashion-mnist":
        return fashion_mnist(path)
    if settings["kind"] == "npz":
        return npz_file(path, licence, outputs)
    resize = tuple(settings["resize"]) if settings["resize"] else None
    if outputs is None:
        return image_folder(path, resize, licence)
    return unlabelled_folder(path, resize, licence, outputs)


def _splits(settings: Mapping[str, Any], source: Source) -> dict[Split, NDArray[np.int64]]:
    shares = {name: settings[name] for name in ("select", "calibrate", "test")}
    rest = (source.own_test, shares, settings["limit"], settings["seed"])
    if source.labels is None:
        return split_unlabelled(len(source), *rest)
    return split(source.labels, source.classes, *rest)


def _write_images(
    path: Path, source: Source, indices: NDArray[np.int64], progress: Progress, done: int, total: int
) -> None:
    """Copy images into one .npy file, a chunk at a time.

    Written, not mapped: on a full disk a write fails with an error, a mapping kills the process.
    """
    with path.open("wb") as stream:
        for start in range(0, len(indices), CHUNK):
            images = source.read(indices[start : start + CHUNK])
            if start == 0:
                shape = (len(indices), *images.shape[1:])
                description = np.lib.format.dtype_to_descr(images.dtype)
                header = {"descr": description, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(np.ascontiguousarray(images).tobytes())
            progress("reading images", done + start + len(images), total)


def _preprocess(settings: Mapping[str, Any], images: NDArray[np.generic]) -> Preprocess:
    scale = settings["scale"]
    if scale is None:
        scale = 1.0 / 255.0 if images.dtype == np.uint8 else 1.0
    channels = images.shape[-1]
    for name in ("mean", "std"):
        if len(settings[name]) not in (1, channels):
            raise DataError(
                f"data.{name} has {len(settings[name])} values, but images have {channels} channels",
                where=f"data.{name}",
                mend=f"give 1 value or {channels}",
            )
    return Preprocess(
        scale=scale,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        layout=settings["layout"],
        reverse_channels=settings["reverse_channels"],
    )


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
