"""Filter grafting with distillation: several networks of one structure that lend each other their weights.

Meng, Cheng et al., "Filter Grafting for Deep Neural Networks: Reason, Method, and Cultivation", 2020. K
networks stand in a ring. Each has its own order of the data and its own learning rate,

    lr_i = lr · (1 + cos(π·(K − i)/K)) / 2,   i = 1 … K

and after every epoch each layer is mixed with the same layer of the network before it in the ring,

    W ← α·W + (1 − α)·W_before,   α = A/π · arctan(c · (H(W) − H(W_before))) + 1/2,   A = 0.4,  c = 500

H is the entropy of a layer's weights in ten equally wide bins. The paper leaves out the π, with which alone
α stays within (0, 1). What follows a convolution up to the next one (its normalisation, the classifier) is
mixed by that convolution's α. At every step a network also learns the softened outputs (τ = 2) of the one
before it: here of its averaged weights, from the first graft on, and weighed by the share of the training
that is done, since what an untrained network says is worth little. All take a step side by side: what one
learns from is the other as it was before the step. So it is the same training whether the networks are in
one process or in as many.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import parallel
from pipeline.compress.distill import divergence
from pipeline.compress.mixing import Weights, diverse_rate, mixed, own_shares
from pipeline.compress.repair import reestimate_batchnorm
from pipeline.compress.ring import Ring
from pipeline.fit import EpochResult, Examples, FitSettings, Loss, Trainer, fit
from pipeline.hardware import Hardware, best_hardware
from pipeline.stage import Progress, silent

TEMPERATURE = 2.0
# Images that statistics of batch normalisation are measured on after a graft: those of mixed weights are no
# mixture of statistics, and an average would carry wrong ones through the next epoch.
REESTIMATED = 1024

# A network → what it is trained by, for as long as the context lasts.
MakeLoss = Callable[[nn.Module], AbstractContextManager[Loss]]


@dataclass(frozen=True)
class Training:
    """How a network came to its weights.

    Args:
        results: what every epoch reached.
        select_top1: accuracy of the weights it has now, on the select split.
        words: the same in words; "" for a plain training.
    """

    results: list[EpochResult]
    select_top1: float
    words: str = ""


def equal_epochs(networks: int, epochs: int) -> int:
    """Epochs of one network that take at least as long: the other's outputs cost a third of a step more."""
    return math.ceil(networks * (epochs + (epochs - 1) / 3))


class Cultivation(nn.Module):
    """A loss, plus the softened outputs of another network once there is one to learn from.

    Args:
        base: of the network alone.
    """

    def __init__(self, base: Loss) -> None:
        super().__init__()
        self.base = base
        self.told: Callable[[Tensor], Tensor] | None = None

    def learn_from(self, network: nn.Module) -> None:
        """Learn what a network says of every batch."""
        self.told = network.eval().forward

    def forward(self, images: Tensor, logits: Tensor, labels: Tensor, done: float) -> Tensor:
        """Loss of one batch, as of `pipeline.fit`."""
        value = self.base(images, logits, labels, done)
        if self.told is None:
            return value
        with torch.no_grad():
            told = self.told(images).float()
        return value + done * TEMPERATURE**2 * divergence(told, logits, TEMPERATURE)


def fit_grafted(
    network: nn.Module,
    networks: int,
    make_loss: MakeLoss,
    train: Examples,
    select: Examples,
    settings: FitSettings,
    seed: int,
    progress: Progress,
    hardware: Hardware | None = None,
) -> Training:
    """Train copies of a network in a ring; afterwards it holds the best weights any of them had.

    The best by the select split of all averaged weights: of every network after every epoch, and of what the
    last graft makes of them. Batch normalisation is measured anew after every graft. Among as many processes
    as networks each trains one; all must call it alike, and all end with the same weights.

    Args:
        network: as of `fit`.
        networks: K, at least 2.
        make_loss: what each copy is trained by.
        train: images they learn from, each in its own order.
        select: images that choose.
        settings: the recipe; its learning rate is that of the last network.
        seed: of the first network's data; the others' follow.
        progress: told after every step.
        hardware: by default the best there is.
    """
    hardware = hardware or best_hardware()
    hardware.be_reproducible(seed + parallel.rank())
    told = progress if parallel.rank() == 0 else silent
    ring, best = Ring(networks), _Best(network)
    with ring.training(), ExitStack() as stack:
        members = [
            _member(
                stack.enter_context(make_loss(mine)),
                mine,
                replace(settings, learning_rate=diverse_rate(settings.learning_rate, place + 1, networks)),
                train,
                hardware,
            )
            for place, mine in ((place, copy.deepcopy(network)) for place in ring.places)
        ]
        generators = [np.random.default_rng([seed, place]) for place in ring.places]
        for epoch in range(settings.epochs):
            losses = _learn(ring, members, train, generators, epoch, told)
            for place, member, mine in zip(ring.places, members, losses, strict=True):
                result = EpochResult(member.trainer.mean(mine), member.top1(select))
                best.after_epoch(place, epoch, member.trainer.average, result)
            _graft(ring, members)
            for member in members:
                _measure_norms(member.trainer.whole.network, train)
                _measure_norms(member.trainer.average, train)
            _listen(ring, members)
        for place, member in zip(ring.places, members, strict=True):
            best.look(place, settings.epochs, member.trainer.average, member.top1(select))
    weights, results, select_top1 = best.of(ring)
    network.load_state_dict(weights)
    network.to("cpu").eval()
    return Training(results, select_top1)


def fit_or_graft(
    network: nn.Module,
    networks: int,
    make_loss: MakeLoss,
    train: Examples,
    select: Examples,
    settings: FitSettings,
    seed: int,
    progress: Progress,
) -> Training:
    """Train a network, grafted or alone for as long as grafting takes: whichever the select split prefers.

    Args:
        networks: of the ring; 1 trains plainly.
        others: as of `fit_grafted`.
    """
    if networks == 1:
        with make_loss(network) as loss:
            results = fit(network, loss, train, select, settings, seed, progress)
        return Training(results, max((one.select_top1 for one in results), default=0.0))
    alone = copy.deepcopy(network)
    longer = replace(settings, epochs=equal_epochs(networks, settings.epochs))
    control = fit_or_graft(alone, 1, make_loss, train, select, longer, seed, progress)
    grafted = fit_grafted(network, networks, make_loss, train, select, settings, seed, progress)
    reached = (
        f"{networks} grafted networks reached {grafted.select_top1:.2%} of the select split, "
        f"one trained as long ({longer.epochs} epochs) {control.select_top1:.2%}"
    )
    if grafted.select_top1 > control.select_top1:
        return replace(grafted, words=f"{reached}: the grafted is kept")
    network.load_state_dict(alone.state_dict())
    network.eval()
    return replace(control, words=f"{reached}: the single one is kept")


class _Best:
    """The best weights seen here, and how every network here got on."""

    def __init__(self, network: nn.Module) -> None:
        self.weights: Weights = network.state_dict()
        self.found = (-1.0, 0, 0)
        self.histories: defaultdict[int, list[EpochResult]] = defaultdict(list)

    def after_epoch(self, place: int, epoch: int, network: nn.Module, result: EpochResult) -> None:
        """Note what a network's epoch reached, and look at its weights."""
        self.histories[place].append(result)
        self.look(place, epoch, network, result.select_top1)

    def look(self, place: int, epoch: int, network: nn.Module, select_top1: float) -> None:
        """Take these weights if none were better; of equals the later ones."""
        if (select_top1, epoch, place) >= self.found:
            self.found = (select_top1, epoch, place)
            self.weights = copy.deepcopy(network.state_dict())

    def of(self, ring: Ring) -> tuple[Weights, list[EpochResult], float]:
        """The best weights of the whole ring, their network's history and their accuracy."""
        mine = [value for one in self.histories[self.found[2]] for value in (one.loss, one.select_top1)]
        facts = torch.tensor([*self.found, *mine], dtype=torch.float64)
        weights, known = ring.best(self.weights, facts)
        select_top1, _, _, *history = known.tolist()
        return weights, [*map(EpochResult, history[::2], history[1::2])], select_top1


@dataclass(frozen=True)
class _Member:
    """A network of the ring in training.

    Args:
        trainer: of it.
        cultivation: its loss.
        before: holds the averaged weights of the one before it, as they were before the step.
    """

    trainer: Trainer
    cultivation: Cultivation
    before: nn.Module

    def top1(self, select: Examples) -> float:
        return self.trainer.select_top1(select)


def _member(
    base: Loss, network: nn.Module, settings: FitSettings, train: Examples, hardware: Hardware
) -> _Member:
    cultivation = Cultivation(base)
    steps = train.steps(settings) * settings.epochs
    trainer = Trainer(network, cultivation, settings, steps, hardware)
    return _Member(trainer, cultivation, copy.deepcopy(trainer.average))


def _learn(
    ring: Ring,
    members: Sequence[_Member],
    train: Examples,
    generators: Sequence[np.random.Generator],
    epoch: int,
    progress: Progress,
) -> list[list[float]]:
    """An epoch of all networks, each a step in its turn; the losses of each."""
    steps = [
        member.trainer.learning(train, rng, epoch, _named(progress, place, ring.networks))
        for place, member, rng in zip(ring.places, members, generators, strict=True)
    ]
    turns = []
    for losses in zip(*steps, strict=True):
        turns.append(losses)
        if epoch:
            _listen(ring, members)
    return [list(losses) for losses in zip(*turns, strict=True)]


@torch.no_grad()
def _graft(ring: Ring, members: Sequence[_Member]) -> None:
    """Mix every network with the one before it, as they all were before; averages by the same shares."""
    states = [copy.deepcopy(member.trainer.whole.network.state_dict()) for member in members]
    averages = [copy.deepcopy(member.trainer.average.state_dict()) for member in members]
    before = zip(ring.before(states), ring.before(averages), strict=True)
    for member, state, average, (other, others) in zip(members, states, averages, before, strict=True):
        shares = own_shares(state, other)
        member.trainer.whole.network.load_state_dict(mixed(state, other, shares))
        member.trainer.average.load_state_dict(mixed(average, others, shares))


@torch.no_grad()
def _listen(ring: Ring, members: Sequence[_Member]) -> None:
    """Let every network learn from the averaged weights the one before it has now."""
    averages = [member.trainer.average.state_dict() for member in members]
    for member, weights in zip(members, ring.before(averages), strict=True):
        member.before.load_state_dict(weights)
        member.cultivation.learn_from(member.before)


def _measure_norms(network: nn.Module, train: Examples) -> None:
    """Statistics of batch normalisation on some training images, spread evenly."""
    count = min(REESTIMATED, len(train.labels))
    chosen = np.linspace(0, len(train.labels) - 1, count).round().astype(np.int64)
    device = next(network.parameters()).device
    parts = map(train.tensors, np.array_split(chosen, -(-count // 128)))
    reestimate_batchnorm(network, [(images.to(device), labels) for images, labels in parts])


def _named(progress: Progress, place: int, networks: int) -> Progress:
    return lambda what, done, steps: progress(f"network {place + 1} of {networks}, {what}", done, steps)
