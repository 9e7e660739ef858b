"""Critical paths: which channels decide for which class, kept class by class.

Yu, Qin & Chen, "Distilling Critical Paths in Convolutional Neural Networks", 2018; their scoring rule was not
recovered, so this is our reading of it:

    s[c, k] = mean over images of class k of | Σ over positions of a_c · ∂z_k/∂a_c |
    path_k  = the fewest channels of a layer that hold the share q of Σ_c s[c, k]

z_k is the logit, not the loss, which has next to no gradient where the network is sure. Scores are kept for
every class, so what a task needs is told for any subset of classes without looking at the network again. A
layer is a group of layers that are cut together, looked at where it is read (`attribution`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.attribution import attributions
from pipeline.compress.discriminant import Removal
from pipeline.compress.evidence import Evidence
from pipeline.compress.readers import Reader
from pipeline.compress.scatter import Batches, add_to, in_shards

# Sums of shares are one but for rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class PathScores:
    """How much every channel does for every class.

    Args:
        classes: names, in the order of the columns.
        groups: leader → scores [channels, classes], float64; leaders in the order their channels are read.
    """

    classes: tuple[str, ...]
    groups: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        """Write as .npz: "classes" [K], "leaders" [L], and a float32 array [channels, K] for each of them."""
        scores: dict[str, Any] = {f"scores {leader}": found.float() for leader, found in self.groups.items()}
        np.savez(path, classes=np.array(self.classes), leaders=np.array(list(self.groups)), **scores)

    @classmethod
    def load(cls, path: Path) -> PathScores:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            groups = {
                leader: torch.from_numpy(archive[f"scores {leader}"]).double()
                for leader in archive["leaders"].tolist()
            }
            return cls(tuple(archive["classes"].tolist()), groups)


def own_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of what each image shows [N]."""
    return logits.gather(1, labels[:, None]).squeeze(1)


def score_paths(
    network: nn.Module, readers: Mapping[str, Sequence[Reader]], batches: Batches, classes: Sequence[str]
) -> PathScores:
    """Score every channel for every class, in one pass forward and backward.

    Args:
        network: classifier of the classes; left as it is.
        readers: of `find_readers`.
        batches: (images, labels) of the training split; can be walked through twice.
        classes: names of the network's outputs. One without an image scores zero everywhere.
    """
    counts = torch.zeros(len(classes), dtype=torch.float64)
    totals: dict[str, Tensor] = {}
    for found, images in in_shards(partial(_sums, network, readers, len(classes)), batches):
        counts += images
        add_to(totals, found)
    order = _by_depth(network, readers)
    return PathScores(tuple(classes), {leader: totals[leader] / counts.clamp_min(1.0) for leader in order})


def _sums(
    network: nn.Module, readers: Mapping[str, Sequence[Reader]], classes: int, batches: Batches
) -> tuple[dict[str, Tensor], Tensor]:
    """Leader → sums of scores over each class's images [channels, classes]; their numbers [classes]."""
    counts = torch.zeros(classes, dtype=torch.float64)
    totals: dict[str, Tensor] = {}
    owed_by = attributions(network, readers, batches, own_logit)
    for (_, labels), owed in zip(batches, owed_by, strict=True):
        counts += torch.bincount(labels, minlength=classes)
        for leader, each in owed.items():
            empty = torch.zeros(each.shape[1], classes, dtype=torch.float64)
            totals.setdefault(leader, empty).index_add_(1, labels, each.abs().double().T)
    return totals, counts


def shares(scores: Tensor) -> Tensor:
    """Each class's scores as shares of their sum [channels, classes]; zero where a class has none."""
    total = scores.sum(0)
    return scores / torch.where(total > 0, total, 1.0)


def entries(scores: Tensor) -> Tensor:
    """The share of a class's mass held by the channels that score more [channels, classes].

    A channel is on the path of class k that holds the share q just when its entry is below q: the fewest
    channels with at least that share. Where a class has no scores no channel is on its path.
    """
    mass, order = torch.sort(shares(scores), dim=0, descending=True, stable=True)
    before = torch.cat([torch.zeros_like(mass[:1]), mass.cumsum(0)[:-1]])
    before[(before > 1.0 - ROUNDING) | (mass.sum(0) == 0)] = 1.0
    return torch.empty_like(before).scatter_(0, order, before)


def paths(scores: Tensor, share: float) -> Tensor:
    """Which channels are on which class's path [channels, classes]."""
    return entries(scores) < share


def exclusiveness(scores: Tensor, share: float) -> Tensor:
    """1 − |path_k ∩ path_l| / |path_k ∪ path_l| for each pair of classes [classes, classes]."""
    on = paths(scores, share).double()
    both, sizes = on.T @ on, on.sum(0)
    either = sizes[:, None] + sizes[None, :] - both
    return torch.where(either > 0, 1.0 - both / either.clamp_min(1.0), 0.0)


def path_removal(scores: Tensor) -> Removal:
    """The order of channels for a task that all these classes belong to.

    The union of the classes' paths, for any share, is what stays at some point of this order: a channel goes
    the earlier the larger a share has to be for it to be on any path. Lost is the mean share of the classes'
    mass.

    Args:
        scores: [channels, classes], of the task's classes alone.
    """
    needed, mass = entries(scores).amin(1), shares(scores)
    order = np.lexsort((mass.amax(1).numpy(), -needed.numpy()))
    lost = mass.mean(1)[torch.from_numpy(order)].cumsum(0)
    return Removal(tuple(order.tolist()), tuple(lost.tolist()), float(lost[-1]))


def keep_set(scores: Tensor, share: float) -> list[int]:
    """Channels on the path of any of these classes, at least one."""
    on = paths(scores, share).any(1).nonzero().flatten().tolist()
    return on or [int(scores.sum(1).argmax())]


def layer_shares(leaders: Sequence[str], share: float) -> dict[str, float]:
    """The share q of every layer: all of the mass in the first, falling evenly to `share` in the last.

    Early channels serve all classes; what is special to one is found deep in the network.

    Args:
        leaders: in the order they are read.
        share: of the last layer.
    """
    last = max(len(leaders) - 1, 1)
    steps = {leader: place / last for place, leader in enumerate(leaders)} if len(leaders) > 1 else {}
    return {leader: 1.0 - (1.0 - share) * steps.get(leader, 1.0) for leader in leaders}


def for_task(scores: PathScores, wanted: Sequence[int], other: bool) -> dict[str, Tensor]:
    """Scores of a task's outputs [channels, outputs], told from those of all classes.

    Args:
        scores: of all classes.
        wanted: labels, in output order.
        other: everything else is one more output; it gets the mean of the rest's shares.
    """
    rest = [label for label in range(len(scores.classes)) if label not in wanted]

    def chosen(found: Tensor) -> Tensor:
        mine = shares(found)
        columns = [mine[:, list(wanted)]] + [mine[:, rest].mean(1, keepdim=True)] * other
        return torch.cat(columns, dim=1)

    return {leader: chosen(found) for leader, found in scores.groups.items()}


def critical_path(evidence: Evidence) -> dict[str, Removal]:
    """Union of the classes' critical paths (our reading of Yu, Qin & Chen 2018)."""
    names = [str(label) for label in range(evidence.classes)]
    found = score_paths(evidence.network, evidence.readers, evidence.batches, names)
    return {group.leader: path_removal(found.groups[group.leader]) for group in evidence.groups}


def _by_depth(network: nn.Module, readers: Mapping[str, Sequence[Reader]]) -> list[str]:
    """Leaders by where the last layer that reads them stands."""
    place = {name: number for number, (name, _) in enumerate(network.named_modules())}
    return sorted(readers, key=lambda leader: place[readers[leader][-1].layer])
