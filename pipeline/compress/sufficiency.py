"""Whether scores can mean anything: enough images, and a teacher that knows the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pipeline.compress.groups import Group
from targets.errors import DataError

# C channels of pure noise explain the share C/N of whatever N images are to be told apart by.
IMAGES_A_CHANNEL = 3
NAMED = 8


def images_needed(groups: Sequence[Group], classes: int) -> int:
    """Images every class should have: three a channel of the widest group, shared evenly among the classes.

    Rule: noise then explains at most a third of any class's label, and no class has less than its part of the
    images. Criteria on patches see several positions of an image, at least as many as a kernel has: what is
    enough for pooled features is enough for them.
    """
    return math.ceil(IMAGES_A_CHANNEL * max((group.width for group in groups), default=0) / classes)


def check_images(labels: ArrayLike, classes: Sequence[str], groups: Sequence[Group]) -> list[str]:
    """What to say about classes with too few images for channels to be ranked by them.

    Args:
        labels: of the images channels are scored on, indices into `classes` [N].
        classes: the task's outputs.
        groups: of `find_groups`.

    Returns:
        a warning for each class that has fewer than `images_needed`; of many, the first few and their number.

    Raises:
        DataError: a class has no image at all.
    """
    counts = np.bincount(np.asarray(labels, np.int64), minlength=len(classes))
    needed = images_needed(groups, len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"no image of class {empty[0]!r} is among the {counts.sum()} that channels are scored on"
            + (f", nor of {len(empty) - 1} other classes" if empty[1:] else ""),
            mend=f"score on more images, or give every class at least {max(needed, 1)} for training",
        )
    short = [(name, count) for name, count in zip(classes, counts.tolist(), strict=True) if count < needed]
    if not short:
        return []
    widest = max(groups, key=lambda group: group.width)
    rule = (
        f"{needed} are wanted ({IMAGES_A_CHANNEL} a channel of {widest.leader}, which has {widest.width}, "
        f"shared among {len(classes)} classes); with fewer, which channels matter is partly noise"
    )
    warnings = [
        f"class {name!r} has {count} images to score channels on: {rule}" for name, count in short[:NAMED]
    ]
    if short[NAMED:]:
        warnings.append(f"{len(short) - NAMED} more classes have too few images to score channels on")
    return warnings


def check_teacher(logits: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> list[str]:
    """What to say about classes the teacher does not know, whatever its outputs are called.

    Args:
        logits: the teacher's for the wanted classes [N, K].
        labels: of the images; K and more are of no wanted class [N].
        classes: the K wanted ones.

    Returns:
        a warning for each class whose images the teacher takes for it no more often than by chance.
    """
    labels, chosen = np.asarray(labels), np.asarray(logits).argmax(1)
    warnings = []
    for label, name in enumerate(classes):
        count, right = int((labels == label).sum()), int(((labels == label) & (chosen == label)).sum())
        if count >= len(classes) > 1 and right * len(classes) <= count:
            warnings.append(
                f"the teacher takes {right} of {count} images of class {name!r} for what they are, no more "
                "than chance: it does not know the class, or its outputs are in another order"
            )
    return warnings
