"""What an error in an activation costs the network, value by value: histograms weighted by gradients.

Ranges of the least mean squared error treat every value alike, but a channel that nobody listens to may be
clipped, and a strong one that decides between classes may not. To second order the outputs p move by

    KL(p ‖ p') ≈ ½ E (Σ e · g)²

with e the errors of all values of a tensor and g the gradient of a random probe of the outputs (Fisher
information, as in `fisher`; see `gradient.probe_model`). Errors of rounding are independent of each other:
(Σ e · g)² is Σ e² g² in the mean. Errors of clipping have one sign and add up. One pass backward gives both
for every range there is, because values are binned as the observations are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.batches import single_inputs
from calibration.external import open_session
from calibration.gradient import SIGNS, probe_model
from calibration.graph import FloatGraph
from calibration.histogram import SIDE
from calibration.placement import place
from calibration.stepper import session_options

if TYPE_CHECKING:
    from calibration.observations import Observations
    from calibration.ranges import Batch

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """What errors in a tensor's values cost, in nats for a squared unit of the tensor.

    Args:
        exponent: bins are 2**exponent wide, as those of the tensor's histogram.
        weights: Σ g² of the values in each bin but exact zeros, float64 [2 · SIDE].
        above: cost of clipping everything above the lower edge of bin SIDE + k, in nats, float64 [SIDE].
        below: the same below the upper edge of bin SIDE − 1 − k.
    """

    exponent: int
    weights: Array
    above: Array
    below: Array

    def coarser(self, exponent: int) -> Importance:
        """Return the same in bins of 2**exponent, not finer than these."""
        step = 1 << min(exponent - self.exponent, 32)
        bins = np.arange(-SIDE, SIDE) // step + SIDE
        sides = []
        for side in (self.above, self.below):
            kept = side[::step]
            sides.append(np.concatenate([kept, np.zeros(SIDE - len(kept))]))
        weights = np.asarray(np.bincount(bins, self.weights, 2 * SIDE), np.float64)
        return Importance(exponent, weights, *sides)

    def clipping(self, low: Array, high: Array) -> Array:
        """Return what clipping to each of some ranges costs, [T] in nats."""
        edges = np.ldexp(np.arange(SIDE, dtype=np.float64), self.exponent)
        return np.asarray(np.interp(high, edges, self.above) + np.interp(-low, edges, self.below))


def joined(parts: Iterable[Importance]) -> Importance:
    """Return what errors in several tensors cost together, were they independent."""
    parts = list(parts)
    exponent = max(part.exponent for part in parts)
    same = [part.coarser(exponent) for part in parts]
    sums = (np.sum([getattr(part, key) for part in same], 0) for key in ("weights", "above", "below"))
    return Importance(exponent, *sums)


def weigh(
    graph: FloatGraph,
    observations: Observations,
    batches: Iterable[Batch],
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> dict[str, Importance]:
    """Run some inputs forward and backward and weigh the values of every tensor that may be quantized.

    Memory: all activations and gradients of one input, or of one batch where the batch size is fixed.

    Args:
        graph: prepared float model.
        observations: of it.
        batches: some tens of inputs, unlabelled.
        progress: called with the number of inputs seen.
        seed: of the signs drawn.

    Raises:
        ModelError: an operator has no gradient rule.
    """
    rng = np.random.default_rng(seed)
    exponents = {name: item.exponent for name, item in observations.histograms.items()}
    sums = {name: _Sums(exponents[name]) for name in place(graph).tensors}
    probe = Probe(graph, list(sums), rng)
    seen = 0
    for batch in single_inputs(graph, batches):
        for name, (value, gradient) in probe.run(batch).items():
            sums[name].add(value, gradient)
        seen += len(next(iter(batch.values())))
        if progress is not None:
            progress(seen)
    return {name: item.mean(seen) for name, item in sums.items()}


class Probe:
    """Forward and backward through a network, for inputs of any shapes.

    Args:
        graph: prepared float model.
        tensors: whose values and gradients are wanted.
        rng: draws the signs.
    """

    def __init__(self, graph: FloatGraph, tensors: list[str], rng: np.random.Generator) -> None:
        self._graph, self._tensors, self._rng = graph, tensors, rng
        self._passes: dict[tuple[tuple[int, ...], ...], _Pass] = {}

    def run(self, batch: Batch) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return values and gradients of the tensors, for one draw of signs."""
        shapes = {name: np.shape(value) for name, value in batch.items()}
        key = tuple(shapes.values())
        if key not in self._passes:
            self._passes[key] = _Pass(self._graph, shapes, self._tensors)
        return self._passes[key].run(batch, self._rng)


class _Pass:
    """Forward and backward through a network, for inputs of one shape.

    Args:
        graph: prepared float model.
        shapes: of the inputs, batch axis included.
        tensors: whose values and gradients are wanted.
    """

    def __init__(self, graph: FloatGraph, shapes: dict[str, tuple[int, ...]], tensors: list[str]) -> None:
        model, self._gradients = probe_model(graph, shapes, tensors)
        self._session = open_session(model, session_options())
        self._signs = next(item.shape for item in self._session.get_inputs() if item.name == SIGNS)
        self._outputs = [item.name for item in self._session.get_outputs()]

    def run(
        self, batch: Batch, rng: np.random.Generator
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return values and gradients of the tensors, for one draw of signs."""
        signs = rng.choice(np.array([-1.0, 1.0], np.float32), self._signs)
        results = self._session.run(None, {**batch, SIGNS: signs})
        values = {**batch, **dict(zip(self._outputs, results, strict=True))}
        return {name: (values[name], values[grad]) for name, grad in self._gradients.items()}


class _Sums:
    """What has been seen of one tensor."""

    def __init__(self, exponent: int) -> None:
        self._exponent = exponent
        self._weights = np.zeros(2 * SIDE)
        self._sides = np.zeros((2, SIDE))

    def add(self, values: NDArray[np.generic], gradients: NDArray[np.generic]) -> None:
        """Take in a tensor's values and gradients, [N, …] each."""
        for value, gradient in zip(values, gradients, strict=True):
            used = np.flatnonzero(value)
            x = np.asarray(value, np.float32).reshape(-1)[used]
            g = np.asarray(gradient, np.float32).reshape(-1)[used]
            bins = np.floor(x * np.float32(2.0**-self._exponent)).astype(np.intp) + SIDE
            np.clip(bins, 0, 2 * SIDE - 1, out=bins)
            weights, slope, moment = (_binned(bins, part) for part in (g * g, g, g * x))
            self._weights += weights
            self._sides[0] += _clipped(slope[SIDE:], moment[SIDE:], self._exponent)
            self._sides[1] += _clipped(-slope[SIDE - 1 :: -1], moment[SIDE - 1 :: -1], self._exponent)

    def mean(self, samples: int) -> Importance:
        """Return the mean over the inputs."""
        above, below = self._sides / (2.0 * samples)
        return Importance(self._exponent, self._weights / samples, above, below)


def _binned(bins: NDArray[np.intp], weights: NDArray[np.float32]) -> Array:
    return np.asarray(np.bincount(bins, weights, 2 * SIDE), np.float64)


def _clipped(slope: Array, moment: Array, exponent: int) -> Array:
    """Return (Σ (x − t) g)² over the values beyond each bin's inner edge t, from sums of g and of x g."""
    edges = np.ldexp(np.arange(SIDE, dtype=np.float64), exponent)
    beyond = [np.cumsum(side[::-1])[::-1] for side in (moment, slope)]
    return np.asarray((beyond[0] - edges * beyond[1]) ** 2)
