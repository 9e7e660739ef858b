"""Sensitivities of output channels: where they come from when nobody gives any, and how to give some.

A sensitivity says what a unit of noise power in a channel's output costs. Only ratios matter. Labelled
scores, e.g. discriminant ones from training, come as a file and take the place of the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.fisher import responses
from calibration.graph import FloatGraph
from calibration.grid import WIDTHS
from calibration.noise import REFERENCE, LayerNoise
from calibration.ranges import Batch
from targets.errors import DataError, ModelError
from targets.npz import read_npz

Array = NDArray[np.float64]
Scores = dict[str, Array]

SCORES_SCHEMA = "edgewright.bit-scores/1"


def estimate(
    graph: FloatGraph, noise: Mapping[str, LayerNoise], batches: Sequence[Batch]
) -> tuple[str, Scores]:
    """Return sensitivities without labels, and what they are: "fisher", or "relative-error".

    The second is for networks with operators that have no gradient rule: every layer's output counts alike.
    """
    try:
        first, second = (_fisher(graph, noise, part) for part in (batches[::2], batches[1::2]))
    except ModelError:
        return "relative-error", relative_error(noise)
    return "fisher", {name: shrunk(first[name], second[name]) for name in noise}


def _fisher(graph: FloatGraph, noise: Mapping[str, LayerNoise], batches: Sequence[Batch]) -> Scores:
    """Return the response to a unit of noise, measured with the rounding errors of `REFERENCE` bits."""
    measured = responses(graph, {name: layer.change for name, layer in noise.items()}, batches)
    column = WIDTHS.index(REFERENCE)
    return {
        name: np.divide(
            measured[name],
            layer.noise[:, column],
            out=np.zeros(len(layer.power)),
            where=layer.noise[:, column] > 0,
        )
        for name, layer in noise.items()
    }


def shrunk(first: Array, second: Array) -> Array:
    """Return a layer's scores, moved towards their mean as far as two halves of the inputs disagree.

    A channel that answers to few images looks idle when they are not among the inputs, most of all a class in
    the last layer. The regression of one half's scores on the other's says how much of a difference is real.

    Args:
        first, second: scores [C] from either half.
    """
    mean = (first.mean() + second.mean()) / 2.0
    left, right = first - first.mean(), second - second.mean()
    spread = float(left @ left + right @ right) / 2.0
    real = min(1.0, max(0.0, float(left @ right) / spread)) if spread > 0.0 else 0.0
    # Of the mean of two halves more is real than of one (Spearman and Brown, 1910).
    real = 2.0 * real / (1.0 + real)
    return np.asarray(mean + real * ((first + second) / 2.0 - mean))


def relative_error(noise: Mapping[str, LayerNoise]) -> Scores:
    """Return 1 / (variance of the layer's output) for all channels of a layer."""
    return {
        name: np.full(len(layer.power), 1.0 / max(float(layer.power.sum()), 1e-30))
        for name, layer in noise.items()
    }


def save_scores(scores: Mapping[str, Array], path: Path) -> None:
    """Write an .npz file: key `schema`, and one float array [C] a layer under its node's name."""
    with path.open("wb") as stream:
        arrays: dict[str, Any] = {f"layer:{name}": value for name, value in scores.items()}
        np.savez_compressed(stream, schema=np.array(SCORES_SCHEMA), **arrays)


def load_scores(path: Path, noise: Mapping[str, LayerNoise]) -> Scores:
    """Read what `save_scores` wrote; pickled objects are never loaded. Layers that are left out count 0.

    Args:
        path: the file.
        noise: of the model's layers, which the scores have to fit.

    Raises:
        DataError: unreadable, an unknown layer, another number of channels, negative or not finite.
    """
    try:
        content = {key.removeprefix("layer:"): array for key, array in read_npz(path).items()}
        if str(content.pop("schema")) != SCORES_SCHEMA:
            raise ValueError("of another schema")
    except (DataError, ValueError, KeyError) as error:
        raise DataError(
            f"not a file of scores of schema {SCORES_SCHEMA}: {error}",
            where=str(path),
            mend="write it with calibration.scores.save_scores",
        ) from error
    for name, values in content.items():
        _check(name, values, noise, path)
    return {
        name: np.asarray(content.get(name, np.zeros(len(layer.power))), np.float64)
        for name, layer in noise.items()
    }


def rescaled(scores: Mapping[str, Array], before: Mapping[str, Array], after: Mapping[str, Array]) -> Scores:
    """Return scores for a model whose channels were scaled, e.g. equalized.

    A unit of noise in a channel that was made smaller disturbs as much as more of it did before.

    Args:
        scores: for the model as it was, {node name: [C]}.
        before, after: variance of each channel's output in either model.
    """
    return {
        name: np.divide(value * before[name], after[name], out=np.zeros(len(value)), where=after[name] > 0.0)
        for name, value in scores.items()
    }


def _check(name: str, values: NDArray[np.generic], noise: Mapping[str, LayerNoise], path: Path) -> None:
    if name not in noise:
        raise DataError(
            f"scores for {name!r}, which is no layer here",
            where=str(path),
            mend=f"layers are {', '.join(noise)}",
        )
    channels = len(noise[name].power)
    if values.shape != (channels,) or values.dtype.kind not in "fiu":
        raise DataError(
            f"scores of {name!r} are {values.dtype} {list(values.shape)}",
            where=str(path),
            mend=f"give [{channels}]",
        )
    costs = np.asarray(values, np.float64)
    if not np.isfinite(costs).all() or (costs < 0).any():
        raise DataError(
            f"scores of {name!r} are negative or not finite", where=str(path), mend="give costs, ≥ 0"
        )
