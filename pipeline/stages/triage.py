"""trial, trial times, triage, depth: blocks replaced by one layer, what that costs, and which of them go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.compress.blocks import OneLayer, find_blocks, save_replaced
from pipeline.compress.depth import Depth, choose_depth
from pipeline.compress.scatter import Batches
from pipeline.compress.triage import Study, Triage, Verdict, by_price, swap, triage
from pipeline.fit import Examples, FitSettings
from pipeline.network import save_weights
from pipeline.stage import Context
from pipeline.stages.costs import IMAGES, INPUT, SETTINGS, build_engine, layer_target
from pipeline.stages.data import evenly, read_preprocess, read_split
from pipeline.stages.loading import examples, fresh, give_head, input_shape, load_network, some
from pipeline.task import Task
from pipeline.timer import time_engines

BATCH = 64


def try_blocks(context: Context) -> None:
    """Replace every block by itself and train. Artefact: trial.json."""
    settings = context.settings
    network = load_network(settings["model"], context.inputs, weights="teacher", headed=True)
    shape = input_shape(context.inputs["facts"])
    recorded, local, train, select = _images(context)
    study = Study(
        network=network,
        input_shape=shape,
        recorded=recorded,
        local=local,
        train=train,
        select=select,
        training=FitSettings(**settings["training"]),
        seed=settings["seed"],
        progress=context.progress,
    )
    found = triage(study, find_blocks(network, shape, settings["layer"], settings["blocks"]))
    _write(context.out / "trial.json", _document(found))


def time_blocks(context: Context) -> None:
    """Time the network with each block replaced; weights do not matter. Artefact: times.json."""
    settings, shape = context.settings, input_shape(context.inputs["facts"])
    network = fresh(settings["model"]).eval()
    give_head(network, context.inputs)
    target = layer_target(settings, context.progress)
    blocks = find_blocks(network, shape, settings["layer"], settings["blocks"])
    images = evenly(read_split(context.inputs["calibrate"])[0], IMAGES)
    inputs = read_preprocess(context.inputs["preprocess"])(images)
    fed = [{INPUT: image[None]} for image in inputs]
    context.progress("timing", 0, 1)
    with TemporaryDirectory() as folder:
        networks = {"": network} | {name: swap(network, {name: one.build()}) for name, one in blocks.items()}
        engines = {
            name: build_engine(one.eval(), shape, target, inputs, Path(folder, str(place)))
            for place, (name, one) in enumerate(networks.items())
        }
        timings = time_engines(target.toolchain, engines, dict.fromkeys(engines, fed), SETTINGS)
    whole = timings[""].median_ms
    change = {name: timings[name].median_ms - whole for name in blocks}
    _write(
        context.out / "times.json", {"target": settings["target"], "median_ms": whole, "change_ms": change}
    )


def describe(context: Context) -> None:
    """Put trial and times together as reports show them. Artefact: triage.json."""
    trial, times = (_read(context.inputs[name]) for name in ("trial", "times"))
    order = _order(trial, times)
    rows = {verdict["block"]: verdict for verdict in trial["verdicts"]}
    document = {
        "accuracy": _best(trial["tuned"]) if trial["tuned"] else trial["accuracy"],
        "split": "select",
        "target": times["target"],
        "blocks": [row for name in order for row in _rows(rows[name], times["change_ms"][name])],
        "pairs": trial["pairs"],
        "notes": list(_notes(trial, context.inputs.get("depth"))),
    }
    _write(context.out / "triage.json", document)


def choose(context: Context) -> None:
    """Replace what may be replaced. Artefacts: depth.json, replaced.json, weights.safetensors."""
    settings = context.settings
    network = load_network(settings["model"], context.inputs, weights="teacher", headed=True)
    trial, times = (_read(context.inputs[name]) for name in ("trial", "times"))
    recorded, local, _, select = _images(context)
    shallow, depth = choose_depth(
        network,
        {one["block"]: OneLayer(**one["replaced_by"]) for one in trial["verdicts"]},
        _order(trial, times),
        recorded,
        local,
        select,
        tolerance=settings["tolerance"],
        seed=settings["seed"],
    )
    depth.save(context.out / "depth.json")
    # By itself, so that timings of the structure outlast another training.
    save_replaced(depth.replaced, context.out / "replaced.json")
    save_weights(shallow, context.out / "weights.safetensors")


class _Steps:
    """Batches drawn anew from the training images, the same at every walk; never all in memory."""

    def __init__(self, train: Examples, steps: int, seed: int) -> None:
        self.train, self.steps, self.seed = train, steps, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.steps):
            yield self.train.tensors(np.sort(rng.integers(0, len(self.train.labels), BATCH)))


def _images(context: Context) -> tuple[Batches, Batches, Examples, Examples]:
    task = Task.load(context.inputs["task"])
    train, select = examples(context, "train", task), examples(context, "select", task)
    settings = context.settings
    return some(train, settings["images"]), _Steps(train, settings["steps"], settings["seed"]), train, select


def _order(trial: Mapping[str, Any], times: Mapping[str, Any]) -> list[str]:
    """Blocks by accuracy lost per millisecond saved."""
    local = {one["block"]: max(attempt["local"] for attempt in one["attempts"]) for one in trial["verdicts"]}
    return by_price(
        {block: trial["accuracy"] - reached for block, reached in local.items()},
        {block: -change for block, change in times["change_ms"].items()},
    )


def _document(found: Triage) -> dict[str, Any]:
    return {
        "accuracy": found.accuracy,
        "tuned": found.tuned and asdict(found.tuned),
        "verdicts": [_verdict(one) for one in found.verdicts],
        "pairs": [asdict(pair) for pair in found.pairs],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "block": verdict.block,
        "replaced_by": verdict.replaced_by.model_dump(),
        "attempts": [
            {"start": one.start, "swapped": one.swapped, "local": one.local} for one in verdict.attempts
        ],
        "tuned": verdict.tuned and asdict(verdict.tuned),
        "macs": verdict.macs,
        "parameters": verdict.parameters,
    }


def _rows(verdict: Mapping[str, Any], change_ms: float) -> Iterator[dict[str, Any]]:
    """A row for every start; what training everything reached stands with the best of them."""
    best = max(verdict["attempts"], key=lambda attempt: attempt["local"])
    for attempt in verdict["attempts"]:
        tuned = verdict["tuned"] if attempt is best else None
        yield {
            "block": verdict["block"],
            "replaced_by": _words(verdict["replaced_by"]),
            "initialisation": attempt["start"],
            "swapped": attempt["swapped"],
            "local": attempt["local"],
            "global": tuned and _best(tuned),
            "by_labels": tuned and tuned["labels"],
            "by_teacher": tuned and tuned["teacher"],
            "epochs_to_99": tuned and tuned["epochs_to_99"],
            "latency_change_ms": change_ms,
            "parameters_change": verdict["parameters"],
            "macs_change": verdict["macs"],
        }


def _best(tuned: Mapping[str, Any]) -> float:
    return float(max(tuned["labels"], tuned["teacher"]))


def _words(layer: Mapping[str, Any]) -> str:
    form = {"none": "nothing", "separable": "depthwise 3×3 and 1×1"}.get(
        layer["form"], f"one {layer['form'].replace('x', '×')} convolution"
    )
    return f"{form}, ReLU" if layer["clipped"] and layer["form"] != "none" else form


def _notes(trial: Mapping[str, Any], depth: Path | None) -> Iterator[str]:
    yield f"Before any extra epoch the network as it was reached {trial['accuracy']:.2%}."
    if depth is not None:
        found = Depth.load(depth)
        for tried in found.tried:
            what = "replaced in the students" if tried.accepted else "kept"
            yield f"{tried.block}: {what}; with it and all before it {tried.accuracy:.2%}."


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
