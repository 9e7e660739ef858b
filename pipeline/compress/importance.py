"""Every way of telling which channels matter, behind one interface: a criterion gives each group an order.

Importance knows nothing of budgets and cuts nothing (`structure`). All criteria look at the training images
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.compress.attribution import attributions, task_loss
from pipeline.compress.discriminant import Removal, System, mask_gradient, removal_order, ridge
from pipeline.compress.evidence import Criterion, Evidence
from pipeline.compress.groups import Group
from pipeline.compress.paths import critical_path
from pipeline.compress.readers import Reader
from pipeline.compress.reconstruction import discriminant_reconstruction, reconstruction
from pipeline.compress.scatter import Batches, Scatter, add_to, blocks, collect, in_shards, one_hot
from targets.errors import ConfigError


def l1_importance(network: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Importance of every channel: L1 norm of its filters, summed over the group (Li et al. 2017)."""
    scores = {}
    for group in groups:
        weights = [network.get_submodule(name).weight for name in group.members]
        scores[group.leader] = torch.stack(
            [weight.detach().abs().flatten(1).sum(1) for weight in weights if isinstance(weight, Tensor)]
        ).sum(0)
    return scores


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
    """L1 norm of the filters of all layers of the group together (Li et al. 2017)."""
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
    found = collect(*_what(evidence), one_hot(evidence.classes))
    return {
        leader: removal_order([System(one.xx, one.balanced().xy, blocks(evidence.readers[leader]))])
        for leader, one in found.items()
    }


def taylor(evidence: Evidence) -> dict[str, Removal]:
    """Mean over images of |Σ a·∂L/∂a| (Molchanov et al. 2017)."""
    return _by_attribution(evidence, torch.abs)


def fisher(evidence: Evidence) -> dict[str, Removal]:
    """Mean over images of (Σ a·∂L/∂a)² (Theis et al. 2018)."""
    return _by_attribution(evidence, torch.square)


CRITERIA: dict[str, Criterion] = {
    "random": at_random,
    "l1": l1,
    "l2": l2,
    "activation": activation,
    "taylor": taylor,
    "fisher": fisher,
    "fisher-ratio": fisher_ratio,
    "critical-path": critical_path,
    "di-mask-gradient": di_mask_gradient,
    "di-greedy": di_greedy,
    "reconstruction": reconstruction,
    "discriminant-reconstruction": discriminant_reconstruction,
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


def _by_attribution(evidence: Evidence, worth: Callable[[Tensor], Tensor]) -> dict[str, Removal]:
    totals: dict[str, Tensor] = {}
    part = partial(_worths, evidence.network, evidence.readers, worth)
    for found in in_shards(part, evidence.batches):
        add_to(totals, found)
    return _scored(totals)


def _worths(
    network: nn.Module,
    readers: Mapping[str, tuple[Reader, ...]],
    worth: Callable[[Tensor], Tensor],
    batches: Batches,
) -> dict[str, Tensor]:
    """Leader → what each channel is worth to the images together [channels]."""
    totals: dict[str, Tensor] = {}
    for owed in attributions(network, readers, batches, task_loss):
        add_to(totals, {leader: worth(each.double()).sum(0) for leader, each in owed.items()})
    return totals
