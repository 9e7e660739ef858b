"""Deep net triage: how critical each block of a network is, found out by putting one layer in its place.

Nowak & Corso, "Deep Net Triage: Analyzing the Importance of Network Layers via Structural Compression", 2018;
their schedules were not recovered, so these are ours. Every block is replaced by itself: swapped in with each
start, trained alone to give what the block gave (local), then the whole network trained on (global), once by
labels and once against the network as it was. The network as it was gets the same extra epochs, else "better
after compression" is only longer training. What two replacements do together is measured, not added up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from torch import nn

from pipeline.compress.blocks import OneLayer, put
from pipeline.compress.cost import count_macs, count_parameters
from pipeline.compress.distill import DistillationSettings, cross_entropy, distillation_loss
from pipeline.compress.scatter import Batches
from pipeline.compress.standins import Site, Start, start, train_locally
from pipeline.fit import EpochResult, Examples, FitSettings, Loss, accuracy, fit
from pipeline.stage import Progress, silent

STARTS: tuple[Start, ...] = ("random", "mean", "least-squares")
# Pairs are measured among so many of the least critical blocks.
MOST_PAIRED = 6
# Of the accuracy a training ends with.
NEARLY = 0.99


@dataclass(frozen=True)
class Study:
    """What triage works with.

    Args:
        network: classifier of all classes; left as it is.
        input_shape: of one image, batch 1 included.
        recorded: batches that least squares looks at.
        local: batches of the local training, each one step.
        train: images of the global training.
        select: images accuracies are measured on.
        training: of the global training; no epochs leave it out.
        seed: of all draws.
        progress: told what is done.
    """

    network: nn.Module
    input_shape: Sequence[int]
    recorded: Batches
    local: Batches
    train: Examples
    select: Examples
    training: FitSettings
    seed: int
    progress: Progress


@dataclass(frozen=True)
class Tuned:
    """What training the whole network reached.

    Args:
        labels: accuracy after training by labels.
        teacher: the same against the network as it was, soft targets annealed.
        epochs_to_99: epochs until 99 % of what the better of the two ended with.
    """

    labels: float
    teacher: float
    epochs_to_99: int

    @property
    def best(self) -> float:
        """Of the two."""
        return max(self.labels, self.teacher)


@dataclass(frozen=True)
class Attempt:
    """One block replaced, started in one way.

    Args:
        start: how.
        swapped: accuracy right after.
        local: after training the layer alone.
        layer: with its weights.
    """

    start: Start
    swapped: float
    local: float
    layer: nn.Module


@dataclass(frozen=True)
class Verdict:
    """One block.

    Args:
        block: its name.
        replaced_by: what took its place.
        attempts: every start that the layer can have.
        tuned: the best of them, after the whole network was trained; None without epochs.
        macs: change of the multiply-accumulates of the network.
        parameters: change of its parameters.
    """

    block: str
    replaced_by: OneLayer
    attempts: list[Attempt]
    tuned: Tuned | None
    macs: int
    parameters: int

    @property
    def best(self) -> Attempt:
        """The attempt that local training brought furthest."""
        return max(self.attempts, key=lambda attempt: attempt.local)


@dataclass(frozen=True)
class Pair:
    """Two blocks replaced at once.

    Args:
        blocks: names.
        measured: accuracy, both layers trained alone before.
        added: what the two losses add up to.
    """

    blocks: tuple[str, str]
    measured: float
    added: float


@dataclass(frozen=True)
class Triage:
    """How critical the blocks of a network are.

    Args:
        accuracy: of the network as it is.
        tuned: of it after the same extra epochs; None without.
        verdicts: of every block.
        pairs: of the least critical ones.
    """

    accuracy: float
    tuned: Tuned | None
    verdicts: list[Verdict]
    pairs: list[Pair] = field(default_factory=list)


def triage(study: Study, blocks: Mapping[str, OneLayer], starts: Sequence[Start] = STARTS) -> Triage:
    """Try every block, then pairs of those that cost least.

    Args:
        study: what to work with.
        blocks: of `find_blocks`.
        starts: how layers start.
    """
    whole = accuracy(study.network, study.select)
    verdicts = []
    for place, (name, layer) in enumerate(blocks.items()):
        study.progress(f"trying {name}", place, len(blocks) + 1)
        verdicts.append(judge(study, name, layer, starts))
    study.progress("training the network as it was", len(blocks), len(blocks) + 1)
    return Triage(
        whole, _tuned(study, copy.deepcopy(study.network)), verdicts, _pairs(study, whole, verdicts)
    )


def judge(study: Study, name: str, layer: OneLayer, starts: Sequence[Start]) -> Verdict:
    """Replace one block in every way, and train the best on.

    Raises:
        StageError: training diverged.
    """
    site = Site(study.network, name)
    built = {how: layer.build() for how in (starts if layer.form != "none" else starts[:1])}
    built = {how: one for how, one in built.items() if start(one, how, site, study.recorded, study.seed)}
    swapped = {how: _with(study, name, one) for how, one in built.items()}
    train_locally(list(built.values()), site, study.local)
    attempts = [Attempt(how, swapped[how], _with(study, name, one), one) for how, one in built.items()]
    best = max(attempts, key=lambda attempt: attempt.local)
    replaced = swap(study.network, {name: best.layer})
    return Verdict(
        block=name,
        replaced_by=layer,
        attempts=attempts,
        macs=count_macs(replaced, study.input_shape) - count_macs(study.network, study.input_shape),
        parameters=count_parameters(replaced) - count_parameters(study.network),
        tuned=_tuned(study, replaced),
    )


def _with(study: Study, name: str, layer: nn.Module) -> float:
    """Accuracy with a layer in the place of a block."""
    return accuracy(swap(study.network, {name: layer}), study.select)


def swap(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of a network with layers, copied too, in the place of blocks."""
    changed = copy.deepcopy(network)
    for name, layer in layers.items():
        put(changed, name, copy.deepcopy(layer))
    return changed


def epochs_to(results: Sequence[EpochResult], share: float = NEARLY) -> int:
    """Epochs until a share of the accuracy that training ended with."""
    wanted = share * results[-1].select_top1
    return next(number for number, one in enumerate(results, 1) if one.select_top1 >= wanted)


def by_price(lost: Mapping[str, float], saved: Mapping[str, float]) -> list[str]:
    """Blocks by accuracy lost for what is saved, the least critical first; those that save nothing last.

    Args:
        lost: block → accuracy lost when it is replaced; less than nothing counts as nothing.
        saved: block → what that saves, in any unit.
    """

    def price(block: str) -> tuple[float, float]:
        gain = saved[block]
        return (max(lost[block], 0.0) / gain if gain > 0 else math.inf, -gain)

    return sorted(lost, key=price)


def _tuned(study: Study, network: nn.Module) -> Tuned | None:
    """Train copies of a network by labels and against the network as it was."""
    if not study.training.epochs:
        return None
    classes = tuple(range(_outputs(study)))
    settings = DistillationSettings()
    soft = distillation_loss(
        copy.deepcopy(study.network), classes, False, settings.temperature, settings.task
    )
    ends: list[tuple[float, int]] = []
    losses: tuple[Loss, Loss] = (cross_entropy, soft)
    for loss in losses:
        trained = copy.deepcopy(network).requires_grad_(True)
        results = fit(trained, loss, study.train, study.select, study.training, study.seed, silent)
        ends.append((max(one.select_top1 for one in results), epochs_to(results)))
    (labels, by_labels), (teacher, by_teacher) = ends
    return Tuned(labels, teacher, by_labels if labels >= teacher else by_teacher)


def _outputs(study: Study) -> int:
    images, _ = next(iter(study.recorded))
    return int(study.network.eval()(images[:1]).shape[1])


def _pairs(study: Study, whole: float, verdicts: Sequence[Verdict]) -> list[Pair]:
    """The least critical blocks two by two, each with the layer it did best with."""
    lost = {one.block: whole - one.best.local for one in verdicts}
    order = by_price(lost, {one.block: -one.macs for one in verdicts})[:MOST_PAIRED]
    chosen = [one for name in order for one in verdicts if one.block == name]
    pairs = []
    for one, other in combinations(chosen, 2):
        layers = {verdict.block: verdict.best.layer for verdict in (one, other)}
        measured = accuracy(swap(study.network, layers), study.select)
        added = whole - lost[one.block] - lost[other.block]
        pairs.append(Pair((one.block, other.block), measured, min(max(added, 0.0), 1.0)))
    return pairs
