"""Filter grafting against one network trained as long: Fashion-MNIST, a small residual network.

    python benchmarks/grafting.py [--seeds 0 1 2] [--networks 2] [--out benchmarks/grafting]

Contenders, every one with the learning rate that the select split likes best for it and seed:

    grafting        a ring of networks, as `[model.training] graft` trains it
    single          one network, for as many epochs as take at least as long, weights as they are
    single, EMA     the same run, averaged weights

Each takes its best epoch by the select split; the test split is looked at once, for what was chosen. Every
finished training is a line of OUT.jsonl; a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from criteria import TASKS, TEACHING, examples
from paired import Cell, plot, read, summary
from torch import nn

from pipeline.compress.distill import cross_entropy
from pipeline.compress.graft import equal_epochs, fit_grafted
from pipeline.datasets.fashion_mnist import fashion_mnist, find_fashion_mnist
from pipeline.datasets.source import ArraySource
from pipeline.fit import Trainer, accuracy
from pipeline.hardware import best_hardware
from pipeline.zoo import resnet

CONTENDERS = ("grafting", "single", "single, EMA")
RATES = (0.05, 0.1, 0.2)
IMAGES, SELECT, EPOCHS, WIDTHS = 4000, 1000, 5, (8, 16, 32)
Result = dict[str, Any]


def network(seed: int) -> nn.Module:
    """With the first weights of a seed."""
    torch.manual_seed(seed)
    return resnet(10, 1, (1, 1, 1), WIDTHS)


def grafted(source: ArraySource, seed: int, rate: float, networks: int) -> Iterator[Result]:
    """A ring."""
    model, recipe = network(seed), replace(TEACHING, epochs=EPOCHS, learning_rate=rate)
    train, select = examples(source, TASKS[10], 0, IMAGES), examples(source, TASKS[10], 55000, 55000 + SELECT)
    begun = time.process_time()
    trained = fit_grafted(
        model, networks, lambda _: nullcontext(cross_entropy), train, select, recipe, seed, lambda *_: None
    )
    seconds = time.process_time() - begun
    yield finished("grafting", source, model, trained.select_top1, seconds, EPOCHS)


def single(source: ArraySource, seed: int, rate: float, networks: int) -> Iterator[Result]:
    """One network; its weights as they are and averaged, each at its best epoch."""
    hardware = best_hardware()
    hardware.be_reproducible(seed)
    model, epochs = network(seed), equal_epochs(networks, EPOCHS)
    recipe = replace(TEACHING, epochs=epochs, learning_rate=rate)
    train, select = examples(source, TASKS[10], 0, IMAGES), examples(source, TASKS[10], 55000, 55000 + SELECT)
    rng, begun = np.random.default_rng(seed), time.process_time()
    trainer = Trainer(model, cross_entropy, recipe, train.steps(recipe) * epochs, hardware)
    best: dict[str, tuple[float, nn.Module]] = {}
    for epoch in range(epochs):
        trainer.epoch(train, rng, epoch, lambda *_: None)
        for name, one in (("single", model), ("single, EMA", trainer.average)):
            reached = accuracy(one, select)
            if name not in best or reached >= best[name][0]:
                best[name] = (reached, copy.deepcopy(one))
    seconds = time.process_time() - begun
    for name, (reached, one) in best.items():
        yield finished(name, source, one, reached, seconds, epochs)


def finished(
    name: str, source: ArraySource, model: nn.Module, select: float, seconds: float, epochs: int
) -> Result:
    """A contender's figures."""
    test = accuracy(model, examples(source, TASKS[10], 60000, 70000))
    return {"contender": name, "select": select, "test": test, "seconds": seconds, "epochs": epochs}


def run(source: ArraySource, seed: int, networks: int, lines: Path) -> None:
    """All trainings of a seed that OUT.jsonl does not hold yet."""
    for rate in RATES:
        for train in (single, grafted):
            key = {"seed": seed, "rate": rate, "networks": networks, "training": train.__name__}
            if any(key.items() <= line.items() for line in read(lines)):
                continue
            found = [key | result for result in train(source, seed, rate, networks)]
            with lines.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(one) + "\n" for one in found)


def chosen(lines: list[Result]) -> list[Result]:
    """Of every contender and seed the learning rate that the select split prefers."""
    groups: dict[tuple[Any, ...], Result] = {}
    for line in lines:
        key = (line["networks"], line["seed"], line["contender"])
        if key not in groups or line["select"] > groups[key]["select"]:
            groups[key] = line
    return list(groups.values())


def main() -> None:
    """Run, then write OUT.json and OUT.svg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/grafting"))
    arguments = parser.parse_args()
    source, lines = fashion_mnist(find_fashion_mnist(download=True)), arguments.out.with_suffix(".jsonl")
    for seed in arguments.seeds:
        run(source, seed, arguments.networks, lines)
    best = [
        Cell(f"{one['networks']} networks, {EPOCHS} epochs", 0.0, one["contender"], one["seed"], one["test"])
        for one in chosen(read(lines))
    ]
    every = [
        Cell(
            f"{one['networks']} networks, {EPOCHS} epochs",
            one["rate"],
            one["contender"],
            one["seed"],
            one["test"],
        )
        for one in read(lines)
    ]
    summary(best, CONTENDERS, arguments.out.with_suffix(".json"), reference="single, EMA")
    plot(every, CONTENDERS, arguments.out.with_suffix(".svg"), across="learning rate")


if __name__ == "__main__":
    main()
