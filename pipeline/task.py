"""Wanted classes + other, and the four disjoint splits train / select / calibrate / test."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from targets.errors import ConfigError, DataError

Split = Literal["train", "select", "calibrate", "test"]
SPLITS: tuple[Split, ...] = ("train", "select", "calibrate", "test")
OTHER = "other"


@dataclass(frozen=True)
class Task:
    """What the network has to tell apart.

    Args:
        known: classes of the data set, in label order.
        wanted: labels of the classes asked for, in output order.
        other: everything else is one more output, the last.
    """

    known: tuple[str, ...]
    wanted: tuple[int, ...]
    other: bool

    @property
    def outputs(self) -> list[str]:
        """Labels of the network's outputs, in order."""
        return [self.known[label] for label in self.wanted] + [OTHER] * self.other

    def translate(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Data set labels [N] → output indices [N]; −1 for images that are no part of the task."""
        table = np.full(len(self.known), len(self.wanted) if self.other else -1, np.int64)
        table[list(self.wanted)] = np.arange(len(self.wanted))
        return table[labels]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read what `save` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(document["known"]), tuple(document["wanted"]), document["other"])


def resolve(known: Sequence[str], classes: Sequence[str], other: bool) -> Task:
    """Find the wanted classes among those the data set has.

    Args:
        known: classes of the data set.
        classes: names asked for; none means all.
        other: whether everything else becomes an output.

    Raises:
        ConfigError: a class the data set does not have, or nothing left for "other".
    """
    for name in classes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ConfigError(
                f"the data has no class {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""),
                where="task.classes",
                mend=f"choose from the {len(known)} classes there are: {_listed(known)}",
            )
    wanted = tuple(known.index(name) for name in classes or known)
    if other and len(wanted) == len(known):
        raise ConfigError(
            "every class is wanted, so nothing is left for 'other'",
            where="task.other",
            mend="set other = false, or name fewer classes",
        )
    if other and OTHER in (known[label] for label in wanted):
        raise ConfigError("a wanted class is itself named 'other'", where="task.classes")
    return Task(tuple(known), wanted, other)


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def split(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    own_test: int,
    shares: Mapping[str, float],
    limit: int | None,
    seed: int,
) -> dict[Split, NDArray[np.int64]]:
    """Divide images into disjoint splits, class by class, so that each holds every class.

    Args:
        labels: [N] of the data set.
        classes: its class names.
        own_test: images at the end that are its own test split; 0 takes a share of all.
        shares: select, calibrate and test as parts of the images they are taken from.
        limit: at most so many images per split.
        seed: of the shuffle.

    Returns:
        sorted indices per split.

    Raises:
        DataError: a class with too few images for the splits.
    """
    strata = {f"class {name!r}": np.flatnonzero(labels == label) for label, name in enumerate(classes)}
    return _divide(strata, len(labels) - own_test, bool(own_test), shares, limit, seed)


def split_unlabelled(
    count: int, own_test: int, shares: Mapping[str, float], limit: int | None, seed: int
) -> dict[Split, NDArray[np.int64]]:
    """Divide `count` images without labels into disjoint splits; the rest is as of `split`."""
    strata = {"the data set": np.arange(count)}
    return _divide(strata, count - own_test, bool(own_test), shares, limit, seed)


def _divide(
    strata: Mapping[str, NDArray[np.int64]],
    ours: int,
    own_test: bool,
    shares: Mapping[str, float],
    limit: int | None,
    seed: int,
) -> dict[Split, NDArray[np.int64]]:
    """Divide every stratum alike; images from `ours` on are the data set's own test images."""
    rng = np.random.default_rng(seed)
    parts: dict[Split, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
    for name, indices in strata.items():
        mine = rng.permutation(indices[indices < ours])
        theirs = rng.permutation(indices[indices >= ours])
        counts = {key: max(1, round(shares[key] * len(mine))) for key in ("select", "calibrate", "test")}
        if own_test:
            counts["test"] = 0
        needed = sum(counts.values()) + 1
        if len(mine) < needed or (own_test and not len(theirs)):
            raise DataError(
                f"{name} has {len(mine)} images for training"
                + (f" and {len(theirs)} for testing" if own_test else ""),
                mend=f"give it at least {max(needed, 4)}" + (" and at least 1" if own_test else ""),
            )
        edges = np.cumsum([counts["select"], counts["calibrate"], counts["test"]])
        select, calibrate, test, train = np.split(mine, edges)
        for key, chosen in zip(SPLITS, (train, select, calibrate, theirs if own_test else test), strict=True):
            parts[key].append(chosen)
    return {key: np.sort(_limited(chosen, limit)) for key, chosen in parts.items()}


def _limited(per_class: list[NDArray[np.int64]], limit: int | None) -> NDArray[np.int64]:
    """Cut every class by the same share, never below one image."""
    total = sum(len(part) for part in per_class)
    if limit is None or total <= limit:
        return np.concatenate(per_class)
    return np.concatenate([part[: max(1, len(part) * limit // total)] for part in per_class])
