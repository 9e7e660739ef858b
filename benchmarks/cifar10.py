"""Pruning on CIFAR-10: a dense baseline of our own, then what is left of it at a share of its operations.

    python benchmarks/cifar10.py CIFAR10_FOLDER [--network resnet20] [--shares 0.5 0.25] [--out …]

The dense network is trained, cut to each share by each criterion, repaired in closed form, tested, distilled
for a few epochs, and tested again. Nothing is chosen on the test split: recipes are fixed, the best epoch is
chosen on 5,000 of the training images. The images are CIFAR-10 re-compressed as JPEG, so figures of papers
stand beside our own dense baseline, not against it.

Finished cells are lines of OUT.jsonl; a second call goes on where the first one stopped. On a machine with a
GPU the same command trains there: --network resnet56 or vgg16 is meant for one.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import zoo
from pipeline.compress.allocation import make_plan
from pipeline.compress.budget import macs_budget
from pipeline.compress.cost import count_macs
from pipeline.compress.distill import cross_entropy, distillation_loss
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import CRITERIA, rank
from pipeline.compress.readers import find_readers
from pipeline.compress.repair import repair
from pipeline.compress.shapes import find_shapes
from pipeline.compress.structure import apply
from pipeline.datasets.folders import FolderSource, image_folder
from pipeline.fit import Examples, FitSettings, accuracy, fit
from pipeline.network import fill, load_weights, save_weights
from pipeline.stages.networks import LONGEST_GRADIENT
from targets import environment
from targets.preprocess import Preprocess

SHAPE = (1, 3, 32, 32)
PREPROCESS = Preprocess(scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
COMPARED = ("discriminant-reconstruction", "l1")
SELECT = 5000
SCORING = 2048
TRAINING = FitSettings(
    epochs=18, batch_size=128, learning_rate=0.1, weight_decay=5e-4, flip=True, shift=4, average=0.998
)
NETWORKS = {
    "resnet20": lambda: zoo.resnet(blocks=(3, 3, 3)),
    # ResNet-8, three times as wide: its time is where its width is.
    "wide8": lambda: zoo.resnet(blocks=(1, 1, 1), widths=(48, 96, 192)),
    "resnet56": lambda: zoo.resnet(blocks=(9, 9, 9)),
    "vgg16": zoo.vgg,
}
# Published by the authors, on the original images: network → (method, dense top-1, pruned top-1, MACs saved).
PUBLISHED = {
    "resnet56": (
        ("CHIP", 93.26, 94.16, "47 %"),
        ("CHIP", 93.26, 92.43, "74 %"),
        ("DepGraph", 93.53, 93.77, "2.13×"),
        ("DepGraph", 93.53, 93.64, "2.57×"),
    ),
    "vgg16": (("CHIP", 93.96, 93.72, "67 %"),),
}


def splits(folder: Path) -> dict[str, Examples]:
    """train, select and test images with their labels."""
    source = image_folder(folder, None, "")
    assert isinstance(source, FolderSource)
    own = len(source.labels) - source.own_test
    order = np.random.default_rng(0).permutation(own)
    chosen = {"select": order[:SELECT], "train": order[SELECT:], "test": np.arange(own, len(source.labels))}
    return {
        name: Examples(source.read(indices), source.labels[indices], PREPROCESS)
        for name, indices in chosen.items()
    }


def dense(network: nn.Module, data: dict[str, Examples], recipe: FitSettings, seed: int, cache: Path) -> None:
    """Train the baseline once; later calls read it back."""
    if cache.is_file():
        fill(network, load_weights(cache), cache)
        return
    fit(network, cross_entropy, data["train"], data["select"], recipe, seed, lambda *_: None)
    save_weights(network, cache)


def evidence(network: nn.Module, train: Examples, seed: int) -> Evidence:
    """What criteria and repair may look at."""
    groups = find_groups(network, SHAPE)
    chosen = np.random.default_rng(seed).permutation(len(train.labels))[:SCORING]
    batches = [train.tensors(chosen[start : start + 128]) for start in range(0, SCORING, 128)]
    return Evidence(network, groups, find_readers(network, groups, SHAPE), batches, 10, seed)


def cell(
    whole: nn.Module,
    seen: Evidence,
    criterion: str,
    share: float,
    data: dict[str, Examples],
    recipe: FitSettings,
    allocation: str,
) -> dict[str, Any]:
    """Cut, repair, test, distil, test."""
    shapes = find_shapes(whole, seen.groups, SHAPE)
    before = count_macs(whole, SHAPE)
    begun = time.perf_counter()
    removal = rank(criterion, seen)
    ranked = time.perf_counter() - begun
    budget = macs_budget(shapes, share * before)
    plan = make_plan(shapes, removal, budget, allocation=allocation, alignment=2, minimum=8)
    student = apply(copy.deepcopy(whole), plan, SHAPE)
    repair(student, whole, plan, seen.batches, SHAPE)
    repaired = accuracy(student, data["test"])
    student.requires_grad_()
    loss = distillation_loss(copy.deepcopy(whole), tuple(range(10)), False, 4.0, 1.0)
    fit(student, loss, data["train"], data["select"], recipe, seen.seed, lambda *_: None)
    return {
        "criterion": criterion,
        "allocation": allocation,
        "share": share,
        "macs": count_macs(student, SHAPE),
        "macs_saved": 1.0 - count_macs(student, SHAPE) / before,
        "rank_seconds": ranked,
        "repaired_top1": repaired,
        "top1": accuracy(student, data["test"]),
    }


def read(lines: Path) -> list[dict[str, Any]]:
    """Cells that are done."""
    if not lines.is_file():
        return []
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]


def run(arguments: argparse.Namespace, seed: int) -> None:
    """All cells of one seed that are not done yet."""
    lines = arguments.out.with_suffix(".jsonl")
    done = {(c["network"], c["seed"], c["criterion"], c["allocation"], c["share"]) for c in read(lines)}
    wanted = [
        (criterion, share)
        for share in arguments.shares
        for criterion in arguments.criteria
        if (arguments.network, seed, criterion, arguments.allocation, share) not in done
    ]
    cache = arguments.out.with_name(f"{arguments.network}-{seed}.safetensors")
    if not wanted and (arguments.shares or cache.is_file()):
        return
    data = splits(arguments.data)
    torch.manual_seed(seed)
    whole = NETWORKS[arguments.network]()
    dense(whole, data, replace(TRAINING, epochs=arguments.dense_epochs), seed, cache)
    if not wanted:
        return
    whole.eval().requires_grad_(False)
    baseline = {"network": arguments.network, "seed": seed, "dense_top1": accuracy(whole, data["test"])}
    seen = evidence(whole, data["train"], seed)
    recipe = replace(TRAINING, epochs=arguments.epochs, learning_rate=0.05, clip=LONGEST_GRADIENT)
    for criterion, share in wanted:
        found = cell(whole, seen, criterion, share, data, recipe, arguments.allocation)
        with lines.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(baseline | {"epochs": recipe.epochs, "clip": recipe.clip} | found) + "\n")


def main(given: Sequence[str] | None = None) -> None:
    """Run, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.5, 0.25], help="none: the dense network alone"
    )
    parser.add_argument(
        "--criteria", nargs="+", choices=CRITERIA, default=["discriminant-reconstruction", "l1"]
    )
    parser.add_argument("--allocation", choices=["uniform", "information"], default="uniform")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--dense-epochs", type=int, default=TRAINING.epochs)
    parser.add_argument("--epochs", type=int, default=3, help="of distillation after repair")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cifar10"))
    arguments = parser.parse_args(given)
    for seed in range(arguments.seeds):
        run(arguments, seed)
    document = {
        "dense_recipe": asdict(replace(TRAINING, epochs=arguments.dense_epochs)),
        "machine": environment.facts(),
        "versions": {name: version(name) for name in ("torch", "torch-pruning", "numpy")},
        "published_by_the_authors": PUBLISHED,
        "cells": read(arguments.out.with_suffix(".jsonl")),
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
