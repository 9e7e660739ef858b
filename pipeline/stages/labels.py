"""labels: where the data has none, the network everything starts from says what every image shows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import Classify, as_classifier
from pipeline.stage import Context
from pipeline.stages.data import read_images, read_preprocess
from pipeline.task import SPLITS
from targets.batches import batches
from targets.errors import ModelError

BATCH = 128


def by_network(context: Context) -> None:
    """Label by a torch network. Artefacts: the splits as the data stage makes them, with labels."""
    import torch

    from pipeline.stages.loading import load_network

    network = load_network(context.settings["model"], context.inputs)

    @torch.inference_mode()
    def infer(images: NDArray[np.float32]) -> NDArray[np.generic]:
        scores: NDArray[np.generic] = network(torch.from_numpy(images)).numpy()
        return scores

    _label(context, infer, BATCH)


def by_onnx(context: Context) -> None:
    """Label by an ONNX file, run as it is written. Artefacts as of `by_network`."""
    from pipeline.onnxmodel.session import OnnxSession

    session = OnnxSession(context.inputs["model"])
    _label(context, *as_classifier(session.run, session.inputs, session.outputs))


def _label(context: Context, infer: Classify, batch: int) -> None:
    """Give every image the class whose score is the highest of all."""
    classes = json.loads(context.inputs["facts"].read_text(encoding="utf-8"))["classes"]
    preprocess = read_preprocess(context.inputs["preprocess"])
    for split in SPLITS:
        images = read_images(context.inputs[split])
        found = []
        for rows in batches(len(images), batch):
            scores = infer(preprocess(np.asarray(images[rows])))
            _check(scores, len(rows), classes)
            found.append(scores.argmax(axis=1))
            context.progress(f"labelling {split}", min(int(rows[-1]) + 1, len(images)), len(images))
        folder = context.out / split
        folder.mkdir()
        np.save(folder / "labels.npy", np.concatenate(found)[: len(images)].astype(np.int64))
        _share(context.inputs[split] / "images.npy", folder / "images.npy")


def _check(scores: NDArray[np.generic], images: int, classes: list[str]) -> None:
    if scores.shape != (images, len(classes)):
        raise ModelError(
            f"the network gives scores of shape {list(scores.shape)} for {images} images; "
            f"data.classes names {len(classes)} outputs",
            where="data.classes",
            mend="name what each output of the network means, in their order",
        )
    if np.isnan(scores).any():
        raise ModelError(
            "the network gives NaN, so it cannot say what an image shows",
            mend="check the network, and data.scale, data.mean and data.std",
        )


def _share(source: Path, target: Path) -> None:
    """One file under two names; a copy where the file system cannot do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
