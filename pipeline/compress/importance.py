"""Every way of telling which channels matter, behind one interface: a criterion gives each group an order.

Importance knows nothing of budgets and cuts nothing (`structure`). All criteria look at the training images
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compress.attribution import attributions, random_contrast, task_loss
from pipeline.compress.discriminant import Removal, System, information, mask_gradient, removal_order, ridge
from pipeline.compress.patches import multiplying_layer, outputs, patch_columns, patches, positions
from pipeline.compress.readers import Reader, watch_inputs
from pipeline.compress.scatter import Batches, Scatter, blocks, collect, join, one_hot, with_logits
from pipeline.compress.structure import Group, l1_importance
from targets.errors import ConfigError


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    Args:
        network: with the task's head; left as it is.
        groups: of `find_groups`.
        readers: of `find_readers`.
        batches: (images, labels) of the training split; walked through once or twice.
        classes: outputs of the network.
        seed: of whatever is drawn.
        most_positions: of a layer's output that reconstruction looks at in every image.
    """

    network: nn.Module
    groups: Sequence[Group]
    readers: Mapping[str, tuple[Reader, ...]]
    batches: Batches
    classes: int
    seed: int = 0
    most_positions: int = 16


Criterion = Callable[[Evidence], dict[str, Removal]]


def by_score(scores: Tensor) -> Removal:
    """The order of a score given once: the least goes first; what is lost is the sum of scores."""
    order = torch.argsort(scores, stable=True)
    lost = scores.double()[order].cumsum(0)
    return Removal(tuple(order.tolist()), tuple(lost.tolist()), float(lost[-1]))


def at_random(evidence: Evidence) -> dict[str, Removal]:
    """A random order: what any criterion must beat."""
    generator = torch.Generator().manual_seed(evidence.seed)
    return {group.leader: by_score(torch.rand(group.width, generator=generator)) for group in evidence.groups}


def l1(evidence: Evidence) -> dict[str, Removal]:
    """L1 norm of the filters (Li et al. 2017)."""
    return _scored(l1_importance(evidence.network, evidence.groups))


def l2(evidence: Evidence) -> dict[str, Removal]:
    """L2 norm of the filters of all layers of the group together."""
    return _scored(
        {
            group.leader: torch.stack(
                [
                    evidence.network.get_parameter(f"{name}.weight").detach().flatten(1).square().sum(1)
                    for name in group.members
                ]
            )
            .sum(0)
            .sqrt()
            for group in evidence.groups
        }
    )


def activation(evidence: Evidence) -> dict[str, Removal]:
    """Mean absolute value of the pooled feature maps."""
    return _by_features(evidence, lambda found, own: found.mean_x.abs()[own].sum(1))


def fisher_ratio(evidence: Evidence) -> dict[str, Removal]:
    """Scatter between classes over scatter within them, of every pooled feature alone (Fisher 1936)."""

    def score(found: Scatter, own: Tensor) -> Tensor:
        tiny = 1e-9 * found.xx.diagonal().mean().clamp_min(1e-30)
        return (found.between() / (found.within() + tiny))[own].sum(1)

    return _by_features(evidence, score)


def di_mask_gradient(evidence: Evidence) -> dict[str, Removal]:
    """The score the authors of DI released (|∂DI/∂mask|), here on pooled maps behind the activation."""

    def score(found: Scatter, own: Tensor) -> Tensor:
        return mask_gradient(System(found.xx, found.xy, own), ridge(found.xx))

    return _by_features(evidence, score)


def di_greedy(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy removal by DI of the pooled features about the classes."""
    return _by_information(evidence, collect(*_what(evidence), one_hot(evidence.classes)))


def di_logits(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy removal by DI about the classes and the network's own logits."""
    return _by_information(evidence, collect(*_what(evidence), with_logits(evidence.classes)))


def taylor(evidence: Evidence) -> dict[str, Removal]:
    """Mean over images of |Σ a·∂L/∂a| (Molchanov et al. 2017)."""
    return _by_attribution(evidence, lambda owed: owed.abs().sum(0))


def fisher(evidence: Evidence) -> dict[str, Removal]:
    """Mean over images of (Σ a·∂L/∂a)² (Theis et al. 2018)."""
    return _by_attribution(evidence, lambda owed: owed.square().sum(0))


def reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy least squares on the readers' outputs.

    The class of ThiNet (Luo et al. 2017) and channel pruning (He et al. 2017), with an exact order.
    """
    return {leader: removal_order(systems) for leader, systems in reconstructions(evidence).items()}


def response(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy removal by what channels contribute to contrasts between the logits."""
    return {leader: removal_order([system]) for leader, system in responses(evidence).items()}


@torch.no_grad()
def reconstructions(evidence: Evidence) -> dict[str, list[System]]:
    """Least-squares problems of every reader: its patches against its outputs, the DI of each scaled to 1."""
    generator = torch.Generator().manual_seed(evidence.seed)
    network = evidence.network
    layers = [reader.layer for group in evidence.readers.values() for reader in group]
    found: dict[str, Scatter] = {}
    network.eval()
    with watch_inputs(network, layers) as inputs:
        for images, _ in evidence.batches:
            network(images)
            for name in layers:
                layer = multiplying_layer(network, name)
                y = layer(inputs[name])
                where = positions(layer, y, evidence.most_positions, generator)
                join(found, name, Scatter.of(patches(layer, inputs[name], where), outputs(layer, y, where)))
    return {
        leader: [
            unit(
                System(
                    found[r.layer].xx,
                    found[r.layer].xy,
                    patch_columns(multiplying_layer(network, r.layer), r.columns),
                )
            )
            for r in readers
        ]
        for leader, readers in evidence.readers.items()
    }


def responses(evidence: Evidence) -> dict[str, System]:
    """The logits as sums of what channels contribute: attributions to contrasts against their total."""
    generator = torch.Generator().manual_seed(evidence.seed)
    found: dict[str, Scatter] = {}
    for owed in attributions(*_what(evidence), random_contrast(generator)):
        for leader, each in owed.items():
            join(found, leader, Scatter.of(each, each.sum(1, keepdim=True)))
    return {
        leader: unit(System(one.xx, one.xy, torch.arange(len(one.xx)).unsqueeze(1)))
        for leader, one in found.items()
    }


def unit(system: System) -> System:
    """The same problem with its targets scaled so that its DI is 1, or 0 if it has none."""
    total = information(system.xx, system.xy, ridge(system.xx))
    return System(system.xx, system.xy / total**0.5 if total > 0 else system.xy, system.blocks)


CRITERIA: dict[str, Criterion] = {
    "random": at_random,
    "l1": l1,
    "l2": l2,
    "activation": activation,
    "taylor": taylor,
    "fisher": fisher,
    "fisher-ratio": fisher_ratio,
    "di-mask-gradient": di_mask_gradient,
    "di-greedy": di_greedy,
    "di-logits": di_logits,
    "reconstruction": reconstruction,
    "response": response,
}


def rank(name: str, evidence: Evidence) -> dict[str, Removal]:
    """Leader → the order the group's channels go in.

    Args:
        name: of the criterion, a key of `CRITERIA`.
        evidence: what it may look at.

    Raises:
        ConfigError: no such criterion.
    """
    if name not in CRITERIA:
        raise ConfigError(f"there is no criterion {name!r}", mend=f"choose from: {', '.join(CRITERIA)}")
    return CRITERIA[name](evidence)


def _what(evidence: Evidence) -> tuple[nn.Module, Mapping[str, tuple[Reader, ...]], Batches]:
    return evidence.network, evidence.readers, evidence.batches


def _scored(scores: Mapping[str, Tensor]) -> dict[str, Removal]:
    return {leader: by_score(score) for leader, score in scores.items()}


def _by_features(evidence: Evidence, score: Callable[[Scatter, Tensor], Tensor]) -> dict[str, Removal]:
    found = collect(*_what(evidence), one_hot(evidence.classes))
    return _scored({leader: score(one, blocks(evidence.readers[leader])) for leader, one in found.items()})


def _by_information(evidence: Evidence, found: Mapping[str, Scatter]) -> dict[str, Removal]:
    return {
        leader: removal_order([System(one.xx, one.balanced().xy, blocks(evidence.readers[leader]))])
        for leader, one in found.items()
    }


def _by_attribution(evidence: Evidence, per_batch: Callable[[Tensor], Tensor]) -> dict[str, Removal]:
    totals: dict[str, Tensor] = {}
    for owed in attributions(*_what(evidence), task_loss):
        for leader, each in owed.items():
            totals[leader] = totals.get(leader, 0.0) + per_batch(each.double())
    return _scored(totals)
