"""Criteria that ask what is lost behind: exact greedy least squares on the outputs of the layers that read.

The class of ThiNet (Luo et al. 2017) and channel pruning (He et al. 2017): what a channel is worth is the
error its readers' outputs are left with when their weights are refitted to the channels that stay. In the
terms of `discriminant` that is DI of the patches a reader sees, k² columns a channel, about its outputs Z:

    min over W of E‖(Z − X·W)·F^½‖²,     F = I, or the Fisher information of the decision about the outputs

Least squares alone keeps what varies. F keeps what decides: second moments of the gradient of the task's loss
by the outputs, so that the error is, to second order, the loss that cutting costs (the Gauss-Newton form of
Optimal Brain Surgeon, Hassibi & Stork 1992, with one F for all positions and images, as in Martens & Grosse
2015). Being in units of the loss, it adds up over readers without any scaling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pipeline.compress.attribution import task_loss
from pipeline.compress.discriminant import Removal, System, removal_order
from pipeline.compress.evidence import Evidence
from pipeline.compress.observation import observe, output_gradients
from pipeline.compress.patches import multiplying_layer, outputs, patch_columns, patches, positions
from pipeline.compress.readers import Reader
from pipeline.compress.scatter import Batches, Scatter, join

# Rows of patches a column, spread over all images: the cost of their products does not grow with the images.
ROWS_A_COLUMN = 16
# Images the Fisher information is of: rows of it are positions, of which a few images have plenty.
DECIDING_IMAGES = 256


def reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy least squares on the readers' outputs."""
    return {leader: removal_order(systems) for leader, systems in reconstructions(evidence).items()}


def discriminant_reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """The same, outputs weighted by how much the task's decision moves with them."""
    return {leader: removal_order(systems) for leader, systems in decisive_reconstructions(evidence).items()}


def reconstructions(
    evidence: Evidence, weights: Mapping[str, Tensor] | None = None
) -> dict[str, list[System]]:
    """Least-squares problems of every reader: its patches against its outputs, as errors an image.

    Args:
        evidence: what may be looked at.
        weights: layer → F [O, O], positive semi-definite; without it all outputs count the same.
    """
    generator = torch.Generator().manual_seed(evidence.seed)
    network = evidence.network
    images = sum(len(labels) for _, labels in evidence.batches)
    found: dict[str, Scatter] = {}
    spots: dict[str, int] = {}

    def look(name: str, x: Tensor, y: Tensor) -> None:
        layer = multiplying_layer(network, name)
        spots[name] = y[0].numel() // layer.weight.shape[0]
        most = math.ceil(ROWS_A_COLUMN * layer.weight[0].numel() / images)
        where = positions(layer, y, most, generator)
        rows = patches(layer, x, where), outputs(layer, y, where)
        join(found, name, Scatter.of(*rows, torch.promote_types(x.dtype, torch.float32)))

    observe(network, _layers(evidence), evidence.batches, look)

    def system(reader: Reader) -> System:
        own, layer = found[reader.layer], multiplying_layer(network, reader.layer)
        targets = own.xy if weights is None else own.xy @ _root(weights[reader.layer])
        an_image = spots[reader.layer] / own.count
        return System(own.xx * an_image, targets * an_image, patch_columns(layer, reader.columns))

    return {leader: [system(reader) for reader in readers] for leader, readers in evidence.readers.items()}


def decisive_reconstructions(evidence: Evidence) -> dict[str, list[System]]:
    """`reconstructions` weighted by `fisher_information`."""
    return reconstructions(evidence, fisher_information(evidence))


def fisher_information(evidence: Evidence) -> dict[str, Tensor]:
    """Layer → E[g gᵀ] [O, O], g the gradient of an image's loss by the layer's outputs at one position.

    Of the first images only: what a few channels of output mean shows soon, and a backward pass is dear.
    """
    network, layers = evidence.network, _layers(evidence)
    found: dict[str, Tensor] = {}
    rows = dict.fromkeys(layers, 0)
    first = _first(evidence.batches, DECIDING_IMAGES)
    for gradients in output_gradients(network, layers, first, task_loss):
        for name, gradient in gradients.items():
            layer = multiplying_layer(network, name)
            g = outputs(layer, gradient)
            found[name] = found.get(name, 0.0) + (g.T @ g).double()
            rows[name] += len(g)
    return {name: total / rows[name] for name, total in found.items()}


def _layers(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(reader.layer for group in evidence.readers.values() for reader in group))


def _first(batches: Batches, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, the last one shortened, up to so many images."""
    for images, labels in batches:
        yield images[:most], labels[:most]
        most -= len(images)
        if most <= 0:
            return


def _root(matrix: Tensor) -> Tensor:
    """R with R·Rᵀ = a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return root
