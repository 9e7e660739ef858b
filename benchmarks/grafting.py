"""Filter grafting against one network trained as long: a small residual network.

    python benchmarks/grafting.py [--cifar10 FOLDER] [--seeds 0 1 2] [--networks 2] [--epochs 5] [--out …]

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
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from criteria import TEACHING
from paired import Cell, plot, read, summary
from pictures import Pictures, add_option, default_out
from pictures import chosen as chosen_pictures
from torch import nn

from pipeline.compress.distill import cross_entropy
from pipeline.compress.graft import equal_epochs, fit_grafted
from pipeline.fit import Examples, FitSettings, Trainer, accuracy
from pipeline.hardware import best_hardware
from pipeline.zoo import resnet

CONTENDERS = ("grafting", "single", "single, EMA")
RATES = (0.05, 0.1, 0.2)
SELECT, WIDTHS = 1000, (8, 16, 32)
# Training images.
IMAGES = {"fashion-mnist": 4000, "cifar10": 6000}
Result = dict[str, Any]


def network(data: Pictures, seed: int) -> nn.Module:
    """With the first weights of a seed."""
    torch.manual_seed(seed)
    return resnet(10, data.shape[1], (1, 1, 1), WIDTHS)


def splits(data: Pictures) -> tuple[Examples, Examples]:
    """Images to train with, and those that choose."""
    every = data.tasks[10]
    select = data.examples(every, data.train_to, data.train_to + SELECT)
    return data.examples(every, 0, IMAGES[data.name]), select


def recipe_of(data: Pictures, epochs: int, rate: float) -> FitSettings:
    """Of a training."""
    return replace(TEACHING, epochs=epochs, learning_rate=rate, shift=data.shift)


def grafted(data: Pictures, seed: int, rate: float, networks: int, epochs: int) -> Iterator[Result]:
    """A ring."""
    model, recipe = network(data, seed), recipe_of(data, epochs, rate)
    train, select = splits(data)
    begun = time.process_time()
    trained = fit_grafted(
        model, networks, lambda _: nullcontext(cross_entropy), train, select, recipe, seed, lambda *_: None
    )
    seconds = time.process_time() - begun
    yield finished("grafting", data, model, trained.select_top1, seconds, epochs)


def single(data: Pictures, seed: int, rate: float, networks: int, ring: int) -> Iterator[Result]:
    """One network; its weights as they are and averaged, each at its best epoch."""
    hardware = best_hardware()
    hardware.be_reproducible(seed)
    model, epochs = network(data, seed), equal_epochs(networks, ring)
    recipe = recipe_of(data, epochs, rate)
    train, select = splits(data)
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
        yield finished(name, data, one, reached, seconds, epochs)


def finished(
    name: str, data: Pictures, model: nn.Module, select: float, seconds: float, epochs: int
) -> Result:
    """A contender's figures."""
    test = accuracy(model, data.test(data.tasks[10]))
    return {"contender": name, "select": select, "test": test, "seconds": seconds, "epochs": epochs}


def run(data: Pictures, seed: int, networks: int, epochs: int, rates: Sequence[float], lines: Path) -> None:
    """All trainings of a seed that OUT.jsonl does not hold yet."""
    for rate in rates:
        for train in (single, grafted):
            key: Result = {"seed": seed, "rate": rate, "networks": networks, "ring": epochs}
            key |= {"training": train.__name__}
            if any(key.items() <= line.items() for line in read(lines)):
                continue
            found = [key | result for result in train(data, seed, rate, networks, epochs)]
            with lines.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(one) + "\n" for one in found)


def chosen(lines: list[Result]) -> list[Result]:
    """Of every contender and seed the learning rate that the select split prefers."""
    groups: dict[tuple[Any, ...], Result] = {}
    for line in lines:
        key = (line["networks"], line["ring"], line["seed"], line["contender"])
        if key not in groups or line["select"] > groups[key]["select"]:
            groups[key] = line
    return list(groups.values())


def main() -> None:
    """Run, then write OUT.json and OUT.svg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5, help="of each network of a ring")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--out", type=Path, help="without suffix")
    arguments = parser.parse_args()
    data, out = chosen_pictures(arguments), arguments.out or default_out(arguments, "grafting")
    lines = out.with_suffix(".jsonl")
    for seed in arguments.seeds:
        run(data, seed, arguments.networks, arguments.epochs, arguments.rates, lines)
    best = [cell(one, 0.0) for one in chosen(read(lines))]
    every = [cell(one, one["rate"]) for one in read(lines)]
    summary(best, CONTENDERS, out.with_suffix(".json"), reference="single, EMA")
    plot(every, CONTENDERS, out.with_suffix(".svg"), across="learning rate")


def cell(one: Result, at: float) -> Cell:
    """A finished training as a point of the plot."""
    panel = f"{one['networks']} networks, {one['ring']} epochs"
    return Cell(panel, at, one["contender"], one["seed"], one["test"])


if __name__ == "__main__":
    main()
