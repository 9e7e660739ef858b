"""teacher, structure, student, export: everything that needs torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.allocation import plan_uniform
from pipeline.compress.cost import count_macs, count_parameters
from pipeline.compress.distill import cross_entropy, distillation_loss
from pipeline.compress.evidence import Evidence
from pipeline.compress.groups import find_groups
from pipeline.compress.importance import rank
from pipeline.compress.readers import find_readers
from pipeline.compress.repair import repair
from pipeline.compress.structure import Plan, apply
from pipeline.export import export
from pipeline.fit import EpochResult, Examples, FitSettings, accuracy, fit, history
from pipeline.network import build_network, fill, find_head, load_weights, save_weights, with_head
from pipeline.stage import Context
from pipeline.stages.data import read_preprocess, read_split
from pipeline.task import Task
from targets.errors import ModelError

BATCH = 128


def take_teacher(context: Context) -> None:
    """Read a checkpoint into its network. Artefacts: weights.safetensors, facts.json."""
    network = _fresh(context.settings["model"])
    fill(network, load_weights(context.files["checkpoint"]), context.files["checkpoint"])
    _check_fits(network, context)
    _keep(context, network, origin=f"checkpoint {context.settings['checkpoint']}", results=[])


def train_teacher(context: Context) -> None:
    """Train a network on all classes. Artefacts: weights.safetensors, facts.json."""
    torch.manual_seed(context.settings["seed"])  # the factory draws the first weights
    network = _fresh(context.settings["model"])
    _check_fits(network, context)
    results = fit(
        network,
        cross_entropy,
        _examples(context, "train"),
        _examples(context, "select"),
        FitSettings(**context.settings["training"]),
        context.settings["seed"],
        context.progress,
    )
    _keep(context, network, origin="trained here", results=results)


def decide_structure(context: Context) -> None:
    """Decide which channels stay for the student's budget. Artefact: plan.json."""
    settings = context.settings
    network = load_network(settings["model"], context.inputs, weights="teacher", headed=True)
    shape = input_shape(context.inputs["facts"])
    groups = find_groups(network, shape)
    task = Task.load(context.inputs["task"])
    batches = _some(_examples(context, "train", task), settings["scoring_images"])
    readers = find_readers(network, groups, shape)
    evidence = Evidence(network, groups, readers, batches, len(task.outputs), settings["seed"])
    removal = rank(settings["importance"], evidence)
    whole = load_network(settings["model"], context.inputs, weights="teacher")
    plan = plan_uniform(
        network,
        shape,
        {leader: order.importance() for leader, order in removal.items()},
        groups,
        macs=int(settings["macs"] * count_macs(whole, shape)),
        alignment=settings["alignment"],
        minimum=settings["minimum"],
    )
    plan.save(context.out / "plan.json")


def distill_student(context: Context) -> None:
    """Cut the teacher by the plan and train what is left against it. Artefacts as of the teacher."""
    settings = context.settings
    task = Task.load(context.inputs["task"])
    teacher = load_network(settings["model"], context.inputs, weights="teacher")
    train = _examples(context, "train", task)
    student = _cut_and_repaired(context, train)
    loss = distillation_loss(
        teacher, task.wanted, task.other, settings["temperature"], settings["distillation"]
    )
    results = fit(
        student,
        loss,
        train,
        _examples(context, "select", task),
        FitSettings(**settings["training"]),
        settings["seed"],
        context.progress,
    )
    _keep(context, student, origin="slimmed from the teacher, distilled", results=results, task=task)


def export_network(context: Context) -> None:
    """Write a torch network as ONNX. Artefact: model.onnx."""
    settings = context.settings
    network = load_network(settings["model"], context.inputs, network=settings["network"])
    export(
        network,
        input_shape(context.inputs["facts"]),
        context.out / "model.onnx",
        exporter=settings["exporter"],
        opset=settings["opset"],
        dynamic_batch=settings["dynamic_batch"],
    )


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
        network: "teacher" or "student".
        weights: name of the weights' artefact.
        headed: give the teacher the task's head.
    """
    built = _fresh(model)
    if network == "student":
        _give_head(built, inputs)
        apply(built, Plan.load(inputs["plan"]), input_shape(inputs["facts"]))
    fill(built, load_weights(inputs[weights]), inputs[weights])
    if headed:
        _give_head(built, inputs)
    return built.eval()


def input_shape(facts: Path) -> tuple[int, int, int, int]:
    """Shape of one image as torch takes it: [1, C, H, W]."""
    height, width, channels = json.loads(facts.read_text(encoding="utf-8"))["image_shape"]
    return 1, channels, height, width


def _cut_and_repaired(context: Context, train: Examples) -> nn.Module:
    """The teacher with the task's head, cut by the plan, its layers refitted to what they did before."""
    whole = load_network(context.settings["model"], context.inputs, weights="teacher", headed=True)
    plan, shape = Plan.load(context.inputs["plan"]), input_shape(context.inputs["facts"])
    student = apply(copy.deepcopy(whole), plan, shape)
    if context.settings["repair_images"]:
        context.progress("repairing", 0, 1)
        repair(student, whole, plan, _some(train, context.settings["repair_images"]), shape)
    return student.requires_grad_(True)


def _some(examples: Examples, count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of at most `count` examples, spread evenly over all of them."""
    count = min(count, len(examples.labels))
    chosen = np.linspace(0, len(examples.labels) - 1, count).round().astype(np.int64)
    return [examples.tensors(chosen[start : start + BATCH]) for start in range(0, count, BATCH)]


def _fresh(model: Mapping[str, Any]) -> nn.Module:
    return build_network(model["factory"], model["arguments"])


def _give_head(network: nn.Module, inputs: Mapping[str, Path]) -> None:
    task = Task.load(inputs["task"])
    with_head(network, task.wanted, task.other, len(task.known))


def _check_fits(network: nn.Module, context: Context) -> None:
    """The network must take the data's images and know its classes."""
    classes = json.loads(context.inputs["facts"].read_text(encoding="utf-8"))["classes"]
    find_head(network, len(classes))
    shape = input_shape(context.inputs["facts"])
    try:
        count_macs(network, shape)
    except RuntimeError as error:
        raise ModelError(
            f"the network does not take images of {list(shape)}: {error}",
            where="model.factory",
            mend="check model.arguments, data.resize and data.layout",
        ) from error


def _examples(context: Context, split: str, task: Task | None = None) -> Examples:
    """A split's images; with a task only those it is about, labelled by its outputs."""
    images, labels = read_split(context.inputs[split])
    if task is not None:
        labels = task.translate(labels)
        if (labels < 0).any():
            mine = np.flatnonzero(labels >= 0)
            images, labels = images[mine], labels[mine]
    return Examples(images, labels, read_preprocess(context.inputs["preprocess"]))


def _keep(
    context: Context, network: nn.Module, *, origin: str, results: list[EpochResult], task: Task | None = None
) -> None:
    save_weights(network, context.out / "weights.safetensors")
    facts = {
        "origin": f"{context.settings['model']['factory']}, {origin}",
        "macs": count_macs(network, input_shape(context.inputs["facts"])),
        "parameters": count_parameters(network),
        "select_top1": accuracy(network, _examples(context, "select", task)),
        "history": history(results),
    }
    (context.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
