"""Small trainings that run in one process or several; found by their module's name."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pipeline import parallel
from pipeline.compress.distill import cross_entropy
from pipeline.compress.graft import fit_grafted
from pipeline.fit import Examples, FitSettings, fit
from pipeline.hardware import Hardware
from pipeline.network import save_weights
from targets.preprocess import Preprocess

CPU = Hardware(torch.device("cpu"))
SETTINGS = FitSettings(
    epochs=2, batch_size=33, learning_rate=0.1, weight_decay=1e-3, flip=True, shift=1, average=0.9
)


def examples(count=256, seed=0):
    """Images whose left or right half is bright: easy to tell apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 60, (count, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 150
    return Examples(images.astype(np.uint8), labels.astype(np.int64), Preprocess())


def network(normalised=True, seed=0):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(4) if normalised else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


class Scaled(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images, logits, labels, done):
        return cross_entropy(images, logits * self.scale, labels, done)


RING = replace(SETTINGS, epochs=3, batch_size=64)


def ring(model, networks):
    """Train a ring of networks."""
    given = (lambda _: nullcontext(cross_entropy), examples(), examples(seed=1), RING, 0)
    return fit_grafted(model, networks, *given, lambda *_: None, CPU)


def graft(context):
    """Train one network of a ring; every process leaves what it ends with."""
    model = network()
    trained = ring(model, parallel.size())
    model.register_buffer("results", torch.tensor([(one.loss, one.select_top1) for one in trained.results]))
    model.register_buffer("select", torch.tensor(trained.select_top1))
    save_weights(model, context.files["out"] / f"{parallel.rank()}.safetensors")
    (context.out / "done.txt").write_text("done")


def train(context):
    """Train two networks; every process leaves its weights, its results and how often it spoke.

    Each process begins with other weights: what it ends with must not show that.
    """
    counted = []
    for normalised in (False, True):
        model, loss = network(normalised, seed=parallel.rank()), Scaled()
        results = fit(
            model, loss, examples(), examples(seed=1), SETTINGS, 0, lambda *told: counted.append(told), CPU
        )
        model.register_buffer("scale", loss.scale.detach())
        model.register_buffer("results", torch.tensor([(one.loss, one.select_top1) for one in results]))
        model.register_buffer("spoke", torch.tensor(len(counted)))
        kind = "normalised" if normalised else "plain"
        save_weights(model, context.files["out"] / f"{kind}-{parallel.rank()}.safetensors")
    (context.out / "done.txt").write_text("done")
