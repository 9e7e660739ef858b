"""Torch networks and examples rebuilt from a build's artefacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.compress.blocks import load_replaced, replace_blocks
from pipeline.compress.structure import Plan, apply
from pipeline.fit import Examples
from pipeline.network import build_network, fill, load_weights, with_head
from pipeline.stage import Context
from pipeline.stages.data import read_preprocess, read_split
from pipeline.task import Task
from targets.errors import DataError

BATCH = 128


def load_network(
    model: Mapping[str, Any],
    inputs: Mapping[str, Path],
    *,
    network: str = "teacher",
    weights: str = "weights",
    headed: bool = False,
) -> nn.Module:
    """Rebuild a network of this build from its artefacts.

    Args:
        model: factory and arguments.
        inputs: artefacts by name: the weights, and facts.json, task.json, plan.json where they are needed.
        network: "teacher", or the name of a student.
        weights: name of the weights' artefact.
        headed: give the teacher the task's head.
    """
    built = fresh(model)
    if network != "teacher":
        give_head(built, inputs)
        apply(built, Plan.load(inputs["plan"]), input_shape(inputs["facts"]))
    fill(built, load_weights(inputs[weights]), inputs[weights])
    if headed:
        give_head(built, inputs)
    return built.eval()


def load_uncut(model: Mapping[str, Any], inputs: Mapping[str, Path]) -> nn.Module:
    """What students are cut from, with the task's head: the teacher, or what depth left of it.

    Args:
        model: factory and arguments.
        inputs: artefacts by name: the teacher's weights and task.json; with depth, shallow and replaced.json.
    """
    if "shallow" not in inputs:
        return load_network(model, inputs, weights="teacher", headed=True)
    network = fresh_uncut(model, inputs)
    fill(network, load_weights(inputs["shallow"]), inputs["shallow"])
    return network


def fresh_uncut(model: Mapping[str, Any], inputs: Mapping[str, Path]) -> nn.Module:
    """Its structure with weights of no account; artefacts: task.json and, with depth, replaced.json."""
    network = fresh(model).eval()
    give_head(network, inputs)
    if "replaced" in inputs:
        replace_blocks(network, load_replaced(inputs["replaced"])).eval()
    return network


def input_shape(facts: Path) -> tuple[int, int, int, int]:
    """Shape of one image as torch takes it: [1, C, H, W]."""
    height, width, channels = json.loads(facts.read_text(encoding="utf-8"))["image_shape"]
    return 1, channels, height, width


def examples(context: Context, split: str, task: Task | None = None) -> Examples:
    """A split's images; with a task only those it is about, labelled by its outputs.

    Raises:
        DataError: none of them is about the task.
    """
    images, labels = read_split(context.inputs[split])
    if task is not None:
        labels = task.translate(labels)
        if (labels < 0).any():
            mine = np.flatnonzero(labels >= 0)
            if not len(mine):
                raise DataError(
                    f"no image of the {split} split shows a class of the task",
                    where="task.classes",
                    mend="add images that do, or set task.other = true",
                )
            images, labels = images[mine], labels[mine]
    return Examples(images, labels, read_preprocess(context.inputs["preprocess"]))


def some(examples: Examples, count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of at most `count` examples, spread evenly over all of them."""
    count = min(count, len(examples.labels))
    chosen = np.linspace(0, len(examples.labels) - 1, count).round().astype(np.int64)
    return [examples.tensors(chosen[start : start + BATCH]) for start in range(0, count, BATCH)]


def fresh(model: Mapping[str, Any]) -> nn.Module:
    """The network as its factory makes it."""
    return build_network(model["factory"], model["arguments"])


def give_head(network: nn.Module, inputs: Mapping[str, Path]) -> None:
    """Replace a classifier's head by the task's; artefacts: task.json, facts.json."""
    task = Task.load(inputs["task"])
    with_head(network, task.wanted, task.other, len(task.known), input_shape(inputs["facts"]))
