"""teacher, student, export: networks trained, distilled and written as ONNX."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext

import torch
import torch._dynamo  # every optimizer and exporter does; here, once for all stages
from torch import nn

from pipeline.compress.cost import count_macs, count_parameters
from pipeline.compress.distill import DistillationSettings, cross_entropy, distilling
from pipeline.compress.graft import Training, fit_or_graft
from pipeline.compress.repair import repair
from pipeline.compress.structure import Plan, apply
from pipeline.export import export
from pipeline.fit import EpochResult, Examples, FitSettings, accuracy, history
from pipeline.network import fill, find_head, load_weights, save_weights
from pipeline.stage import Context
from pipeline.stages.artefacts import write_json
from pipeline.stages.loading import BATCH, examples, fresh, input_shape, load_network, load_uncut, some
from pipeline.task import Task
from targets.errors import ModelError

# Just after repair, soft targets give gradients long enough to undo it (docs/training.md).
LONGEST_GRADIENT = 1.0


def take_teacher(context: Context) -> None:
    """Read a checkpoint into its network. Artefacts: weights.safetensors, facts.json."""
    network = fresh(context.settings["model"])
    fill(network, load_weights(context.files["checkpoint"]), context.files["checkpoint"])
    _check_fits(network, context)
    _keep(context, network, origin=f"checkpoint {context.settings['checkpoint']}", results=[])


def train_teacher(context: Context) -> None:
    """Train a network on all classes. Artefacts: weights.safetensors, facts.json."""
    torch.manual_seed(context.settings["seed"])  # the factory draws the first weights
    network = fresh(context.settings["model"])
    _check_fits(network, context)
    trained = fit_or_graft(
        network,
        context.settings["graft"],
        lambda _: nullcontext(cross_entropy),
        examples(context, "train"),
        examples(context, "select"),
        FitSettings(**context.settings["training"]),
        context.settings["seed"],
        context.progress,
    )
    _keep(context, network, origin=_origin("trained here", trained), results=trained.results)


def distill_student(context: Context) -> None:
    """Cut the teacher by the plan and train what is left against it. Artefacts as of the teacher."""
    settings = context.settings
    task = Task.load(context.inputs["task"])
    teacher = load_network(settings["model"], context.inputs, weights="teacher")
    train = examples(context, "train", task)
    student = _cut_and_repaired(context, train)
    weights = DistillationSettings(**settings["distillation"])
    first, _ = some(train, BATCH)[0]
    trained = fit_or_graft(
        student,
        settings["graft"],
        lambda network: distilling(teacher, network, task.wanted, task.other, weights, first),
        train,
        examples(context, "select", task),
        FitSettings(**settings["training"], clip=LONGEST_GRADIENT),
        settings["seed"],
        context.progress,
    )
    done = "distilled" if trained.results else "repaired, not trained"
    origin = _origin(f"slimmed from the teacher, {done}", trained)
    _keep(context, student, origin=origin, results=trained.results, task=task)


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


def _origin(done: str, trained: Training) -> str:
    """What was done, and how grafting fared where it was asked for."""
    return f"{done}; {trained.words}" if trained.words else done


def _cut_and_repaired(context: Context, train: Examples) -> nn.Module:
    """The teacher with the task's head, cut by the plan, its layers refitted to what they did before."""
    whole = load_uncut(context.settings["model"], context.inputs)
    plan, shape = Plan.load(context.inputs["plan"]), input_shape(context.inputs["facts"])
    student = apply(copy.deepcopy(whole), plan, shape)
    if context.settings["repair_images"]:
        context.progress("repairing", 0, 1)
        repair(student, whole, plan, some(train, context.settings["repair_images"]), shape)
    return student.requires_grad_(True)


def _check_fits(network: nn.Module, context: Context) -> None:
    """The network must take the data's images and know its classes."""
    classes = json.loads(context.inputs["facts"].read_text(encoding="utf-8"))["classes"]
    shape = input_shape(context.inputs["facts"])
    try:
        count_macs(network, shape)
    except RuntimeError as error:
        raise ModelError(
            f"the network does not take images of {list(shape)}: {error}",
            where="model.factory",
            mend="check model.arguments, data.resize and data.layout",
        ) from error
    find_head(network, len(classes), shape)


def _keep(
    context: Context, network: nn.Module, *, origin: str, results: list[EpochResult], task: Task | None = None
) -> None:
    save_weights(network, context.out / "weights.safetensors")
    select = accuracy(network, examples(context, "select", task)) if "select" in context.inputs else None
    facts = {
        "origin": f"{context.settings['model']['factory']}, {origin}",
        "macs": count_macs(network, input_shape(context.inputs["facts"])),
        "parameters": count_parameters(network),
        "select_top1": select,
        "history": history(results),
    }
    write_json(context.out, "facts", facts)
