"""Criteria that ask what is lost behind: exact greedy least squares on readers' outputs, or on the logits."""

from __future__ import annotations

import torch

from pipeline.compress.attribution import Objective, attributions, random_contrast, sampled_loss
from pipeline.compress.discriminant import Removal, System, information, removal_order, ridge
from pipeline.compress.evidence import Evidence
from pipeline.compress.observation import observe
from pipeline.compress.patches import multiplying_layer, outputs, patch_columns, patches, positions
from pipeline.compress.readers import Reader
from pipeline.compress.scatter import Scatter, join

# Softens the probabilities that labels are drawn from; at 1 images that are certain have hardly any gradient.
TEMPERATURE = 3.0
# What the logits weigh beside the readers' outputs, each at a DI of 1.
RESPONSE_SHARE = 0.5


def reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy least squares on the readers' outputs.

    The class of ThiNet (Luo et al. 2017) and channel pruning (He et al. 2017), with an exact order.
    """
    return {leader: removal_order(systems) for leader, systems in reconstructions(evidence).items()}


def discriminant_reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """Reconstruction, every row weighted by how much the task's decision moves with the outputs there."""
    drawn = torch.Generator().manual_seed(evidence.seed)
    problems = reconstructions(evidence, sampled_loss(drawn, TEMPERATURE))
    return {leader: removal_order(systems) for leader, systems in problems.items()}


def joint(evidence: Evidence) -> dict[str, Removal]:
    """Both at once: what the readers' outputs lose, and what contrasts between the logits lose.

    Rows of the first are weighted by how much such contrasts move with the outputs there. It says what the
    refitted layers behind can still compute; the second, what of it is used.
    """
    contrast = random_contrast(torch.Generator().manual_seed(evidence.seed))
    used = responses(evidence)
    orders = {}
    for leader, systems in reconstructions(evidence, contrast).items():
        outputs_lost = [scaled(system, 1.0 / len(systems)) for system in systems]
        orders[leader] = removal_order([*outputs_lost, scaled(used[leader], RESPONSE_SHARE)])
    return orders


def response(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy removal by what channels contribute to contrasts between the logits."""
    return {leader: removal_order([system]) for leader, system in responses(evidence).items()}


def reconstructions(evidence: Evidence, objective: Objective | None = None) -> dict[str, list[System]]:
    """Least-squares problems of every reader: its patches against its outputs, the DI of each scaled to 1.

    Args:
        evidence: what may be looked at.
        objective: weigh every row of patches by the length of the objective's gradient by the outputs there,
            so that what decisions depend on is what is kept best; without it all rows count the same.
    """
    generator = torch.Generator().manual_seed(evidence.seed)
    network = evidence.network
    layers = [reader.layer for group in evidence.readers.values() for reader in group]
    found: dict[str, Scatter] = {}
    for seen in observe(network, layers, evidence.batches, objective):
        for name, one in seen.items():
            layer = multiplying_layer(network, name)
            where = positions(layer, one.y, evidence.most_positions, generator)
            weights = None if one.gradient is None else outputs(layer, one.gradient, where).norm(dim=1)
            rows = Scatter.of(patches(layer, one.x, where), outputs(layer, one.y, where), weights)
            join(found, name, rows)

    def system(reader: Reader) -> System:
        own, layer = found[reader.layer], multiplying_layer(network, reader.layer)
        return unit(System(own.xx, own.xy, patch_columns(layer, reader.columns)))

    return {leader: [system(reader) for reader in readers] for leader, readers in evidence.readers.items()}


def responses(evidence: Evidence) -> dict[str, System]:
    """The logits as sums of what channels contribute: attributions to contrasts against their total."""
    generator = torch.Generator().manual_seed(evidence.seed)
    found: dict[str, Scatter] = {}
    for owed in attributions(
        evidence.network, evidence.readers, evidence.batches, random_contrast(generator)
    ):
        for leader, each in owed.items():
            join(found, leader, Scatter.of(each, each.sum(1, keepdim=True)))
    return {
        leader: unit(System(one.xx, one.xy, torch.arange(len(one.xx)).unsqueeze(1)))
        for leader, one in found.items()
    }


def unit(system: System) -> System:
    """The same problem with its targets scaled so that its DI is 1, or 0 if it has none."""
    total = information(system.xx, system.xy, ridge(system.xx))
    return scaled(system, 1.0 / total) if total > 0 else system


def scaled(system: System, factor: float) -> System:
    """The same problem with its DI multiplied."""
    return System(system.xx, system.xy * factor**0.5, system.blocks)
