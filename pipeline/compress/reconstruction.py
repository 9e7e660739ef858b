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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.compress.attribution import task_loss
from pipeline.compress.discriminant import Removal, System, removal_order
from pipeline.compress.evidence import Evidence
from pipeline.compress.observation import Look, observe, output_gradients
from pipeline.compress.patches import Places, moments, multiplying_layer, outputs, patch_columns, patches
from pipeline.compress.readers import Reader
from pipeline.compress.scatter import Batches, Scatter, in_shards, join, join_all

# How many images come before a batch, and the batch.
Placed = tuple[int, tuple[Tensor, Tensor]]
# Rows of patches a column, spread over all images: the cost of their products does not grow with the images.
ROWS_A_COLUMN = 16
# Images the Fisher information is of: what a few channels of output mean shows soon, since its rows are
# positions, of which a few images have plenty; and a backward pass is dear.
DECIDING_IMAGES = 256


def reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """Exact greedy least squares on the readers' outputs."""
    return {leader: removal_order(systems) for leader, systems in reconstructions(evidence).items()}


def discriminant_reconstruction(evidence: Evidence) -> dict[str, Removal]:
    """The same, outputs weighted by how much the task's decision moves with them."""
    return {leader: removal_order(systems) for leader, systems in decisive_reconstructions(evidence).items()}


def reconstructions(evidence: Evidence) -> dict[str, list[System]]:
    """Least-squares problems of every reader: its patches against its outputs, as errors an image."""
    gathering = _Gathering.of(evidence)
    gathering.gather(_layers(evidence), _part(evidence.batches, 0, None))
    return gathering.systems(evidence)


def decisive_reconstructions(evidence: Evidence) -> dict[str, list[System]]:
    """`reconstructions` weighted by `fisher_information`; each image goes through the network once."""
    gathering = _Gathering.of(evidence)
    first = gathering.told(_part(evidence.batches, 0, DECIDING_IMAGES))
    weights = fisher_information(replace(evidence, batches=first), gathering.look)
    gathering.gather(_layers(evidence), _part(evidence.batches, DECIDING_IMAGES, None))
    return gathering.systems(evidence, weights)


def fisher_information(evidence: Evidence, look: Look) -> dict[str, Tensor]:
    """Layer → E[g gᵀ] [O, O], g the gradient of an image's loss by the layer's outputs at one position.

    Args:
        evidence: what may be looked at.
        look: is shown what the layers take and give on the way.
    """
    network, layers = evidence.network, _layers(evidence)
    found: dict[str, Tensor] = {}
    images = 0
    for gradients in output_gradients(network, layers, evidence.batches, task_loss, look):
        images += len(gradients[layers[0]])
        for name, gradient in gradients.items():
            moment = moments(multiplying_layer(network, name), gradient).double()
            found[name] = found.get(name, 0.0) + moment * len(gradient)
    return {name: total / images for name, total in found.items()}


@dataclass
class _Gathering:
    """Statistics of all readers' patches against their outputs, gathered while the network runs.

    Args:
        network: evaluated.
        images: how many there are in all.
        seed: of the positions that are looked at.
        found: layer → statistics.
        spots: layer → positions of its output.
    """

    network: nn.Module
    images: int
    seed: int
    found: dict[str, Scatter] = field(default_factory=dict)
    spots: dict[str, int] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)

    @classmethod
    def of(cls, evidence: Evidence) -> _Gathering:
        """Nothing yet, for all of the evidence's images."""
        return cls(evidence.network, sum(len(labels) for _, labels in evidence.batches), evidence.seed)

    def told(self, batches: Iterable[Placed]) -> Batches:
        """The batches. What is drawn for each follows from its place alone, whoever looks at the others."""
        for place, batch in batches:
            self.generator.manual_seed(self.seed + place)
            yield batch

    def look(self, name: str, x: Tensor, y: Tensor) -> None:
        """Take some rows of one batch."""
        layer = multiplying_layer(self.network, name)
        self.spots[name] = y[0].numel() // layer.weight.shape[0]
        share = len(x) / self.images
        rows = math.ceil(ROWS_A_COLUMN * layer.weight[0].numel() * share)
        places = Places.draw(layer, y, rows, self.generator)
        precision = torch.promote_types(x.dtype, torch.float32)
        batch = Scatter.of(patches(layer, x, places), outputs(layer, y, places), precision)
        join(self.found, name, batch)

    def gather(self, layers: Sequence[str], batches: Iterable[Placed]) -> None:
        """Look at more images, on a cluster where there is one."""
        part = partial(_gather_part, self.network, layers, self.images, self.seed)
        for found, spots in in_shards(part, batches):
            join_all(self.found, found)
            self.spots |= spots

    def systems(
        self, evidence: Evidence, weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, list[System]]:
        """Leader → a problem for each reader.

        Args:
            evidence: the one this was made for.
            weights: layer → F [O, O], positive semi-definite; without it all outputs count the same.
        """

        def system(reader: Reader) -> System:
            own, layer = self.found[reader.layer], multiplying_layer(self.network, reader.layer)
            targets = own.xy if weights is None else own.xy @ _root(weights[reader.layer])
            an_image = self.spots[reader.layer] / own.count
            return System(own.xx * an_image, targets * an_image, patch_columns(layer, reader.columns))

        return {
            leader: [system(reader) for reader in readers] for leader, readers in evidence.readers.items()
        }


def _gather_part(
    network: nn.Module, layers: Sequence[str], images: int, seed: int, batches: Iterable[Placed]
) -> tuple[dict[str, Scatter], dict[str, int]]:
    """Statistics of some of the images, and the layers' positions."""
    gathering = _Gathering(network, images, seed)
    observe(network, layers, gathering.told(batches), gathering.look)
    return gathering.found, gathering.spots


def _layers(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(reader.layer for group in evidence.readers.values() for reader in group))


def _part(batches: Batches, start: int, stop: int | None) -> Iterator[Placed]:
    """Batches of the images from one place to another, the first and the last one shortened."""
    begun = 0
    for images, labels in batches:
        part = slice(max(0, start - begun), None if stop is None else max(0, stop - begun))
        if len(labels[part]):
            yield begun + part.start, (images[part], labels[part])
        begun += len(labels)
        if stop is not None and begun >= stop:
            return


def _root(matrix: Tensor) -> Tensor:
    """R with R·Rᵀ = a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return root
