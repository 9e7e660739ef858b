"""What criteria may look at, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pipeline.compress.discriminant import Removal
from pipeline.compress.groups import Group
from pipeline.compress.readers import Reader
from pipeline.compress.scatter import Batches


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at.

    Args:
        network: with the task's head; left as it is.
        groups: of `find_groups`.
        readers: of `find_readers`.
        batches: (images, labels) of the training split; walked through up to three times.
        classes: outputs of the network.
        seed: of whatever is drawn.
    """

    network: nn.Module
    groups: Sequence[Group]
    readers: Mapping[str, tuple[Reader, ...]]
    batches: Batches
    classes: int
    seed: int = 0


Criterion = Callable[[Evidence], dict[str, Removal]]
