"""The thorough setting: try the repairs one after the other and keep what makes the outputs better.

Every fourth batch is kept out of ranges and repairs, to judge them by: how far the quantized model's outputs
are from the float model's. Labels are never looked at. What was chosen is then made once more, from all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.biases import give_biases
from calibration.clipping import least_cost_range, least_squares_range
from calibration.correct import Rounding, repair
from calibration.equalize import equalize
from calibration.external import write
from calibration.graph import FloatGraph
from calibration.load import load
from calibration.observations import Observations
from calibration.placement import place
from calibration.positions import PositionWeights, weigh_positions
from calibration.qdq import quantize
from calibration.ranges import Batch, Method, collect, weigh_values
from calibration.recentre import offset_activations
from calibration.simulate import Outputs, output_distances, simulate
from calibration.summary import QuantizationSummary
from targets.errors import DataError, ModelError

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

# Of so many batches the last one judges.
JUDGED = 4
# What is tried, in this order.
CHANGES: tuple[dict[str, Any], ...] = (
    {"equalized": False},
    {"offset": False},
    {"method": "minmax"},
    {"rounding": "absorbing"},
    {"rounding": "nearest"},
)
# Calibration inputs on which layers are repaired: their activations are held in memory.
REPAIRED = 64
# Calibration inputs that run backward, to see how much errors matter. With fewer, ranges clip what only the
# others show: 16 instead of 64 doubled SqueezeNet's divergence.
WEIGHED = 128


@dataclass(frozen=True)
class Recipe:
    """A way to quantize.

    Args:
        equalized: whether channels are centred and their ranges made equal first.
        offset: whether tensors after ReLU are moved to use all of int8; only where zero-points have to be 0.
        method: how ranges are chosen.
        rounding: of the weights; "nearest" still corrects biases.
    """

    equalized: bool = True
    offset: bool = False
    method: Method = "importance"
    rounding: Rounding = "compensated"


@dataclass(frozen=True)
class Trial:
    """A recipe and how far from the float model its outputs were on the inputs kept apart.

    Args:
        recipe: what was tried.
        distance: mean over the inputs.
        kept: whether it took the place of the best before it.
    """

    recipe: Recipe
    distance: float
    kept: bool


@dataclass(frozen=True)
class BestQuantization:
    """The best of the recipes tried.

    Args:
        summary: of the written model; its tensors' float twins are in the file `float_out`.
        trials: all recipes, in the order tried; the last one kept was written.
    """

    summary: QuantizationSummary
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial that was written."""
        return next(trial for trial in reversed(self.trials) if trial.kept)


def quantize_best(
    model: Path,
    batches: Sequence[Batch],
    convention: QuantizationConvention,
    out: Path,
    float_out: Path,
    ignore: Iterable[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
    *,
    refit: bool = True,
) -> BestQuantization:
    """Write the QDQ model whose outputs come closest to the float model's.

    Args:
        model: float ONNX file.
        batches: calibration inputs, unlabelled, read several times; at least four batches.
        convention: of the target's capability.
        out: where the quantized ONNX file goes.
        float_out: where the float model goes that `out` was made from: equalized, or with biases for all
            layers. It computes what `model` does and is what tensors are to be compared with.
        ignore: as for `qdq.quantize`.
        progress: called with what is being done, how much of it is done and how much there is.
        refit: whether to make what was chosen once more, from all batches; not where the inputs kept apart
            are to judge something again.

    Raises:
        DataError: fewer than four batches; and as `ranges.collect` and `qdq.quantize` do.
    """
    fitting, judging = divided(batches)
    rest = convention, tuple(ignore), progress or _silent
    with TemporaryDirectory() as tried, TemporaryDirectory() as chosen:
        bench = _Bench(model, fitting, judging, Path(tried), *rest)
        symmetric = convention.activations == "int8-symmetric"
        found = BestQuantization(*bench.search(Recipe(offset=symmetric)))
        if refit:
            bench = _Bench(model, list(batches), [], Path(chosen), *rest)
            summary, bench.quantized = bench.make(found.best.recipe)
            found = replace(found, summary=summary)
        write(bench.quantized, out)
        write(onnx.load(bench.prepared(found.best.recipe.equalized, found.best.recipe.offset)[0]), float_out)
        return found


def divided(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Divide calibration batches into those to fit with, and every fourth to judge by.

    Raises:
        DataError: fewer than four batches.
    """
    if len(batches) < JUDGED:
        raise DataError(
            f"there are {len(batches)} batches of calibration data",
            mend=f"give at least {JUDGED}: every fourth one judges what is made of the others",
        )
    fitting = [batch for index, batch in enumerate(batches) if index % JUDGED != JUDGED - 1]
    return fitting, list(batches[JUDGED - 1 :: JUDGED])


def is_closer(distances: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Say whether distances are smaller than others of the same inputs, by more than one standard error."""
    gain = others - distances
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return bool(gain.mean() > error)


def observed(
    model: Path, batches: Sequence[Batch], progress: Callable[[str, int, int], None]
) -> Observations:
    """Observe ranges, and how much errors in each tensor matter if every operator has a gradient rule."""
    count = sum(len(next(iter(batch.values()))) for batch in batches)
    seen = collect(model, batches, lambda done: progress("observing ranges", done, count))
    weighed = first(batches, WEIGHED)
    count = sum(len(next(iter(batch.values()))) for batch in weighed)
    try:
        return weigh_values(model, seen, weighed, lambda done: progress("weighing errors", done, count))
    except ModelError:
        return seen


def weighed_positions(
    graph: FloatGraph, batches: Sequence[Batch], progress: Callable[[str, int, int], None]
) -> PositionWeights:
    """Return how much output positions of layers matter; all alike if an operator has no gradient rule."""
    count = sum(len(next(iter(batch.values()))) for batch in batches)
    layers = [layer.node.name for layer in place(graph).layers]
    show = partial(progress, "weighing positions")
    try:
        return weigh_positions(graph, batches, layers, lambda done: show(done, count))
    except ModelError:
        return {}


def first(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """Return the first batches that hold at least so many inputs, or all."""
    chosen: list[Batch] = []
    held = 0
    for batch in batches:
        if held >= samples:
            break
        chosen.append(batch)
        held += len(next(iter(batch.values())))
    return chosen


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


@dataclass
class _Bench:
    """Makes and judges quantized models; nothing is computed twice."""

    model: Path
    fitting: list[Batch]
    judging: list[Batch]
    folder: Path
    convention: QuantizationConvention
    ignore: tuple[str, ...]
    progress: Callable[[str, int, int], None]
    floats: dict[tuple[bool, bool], Path] = field(default_factory=dict)
    observations: dict[tuple[bool, bool], Observations] = field(default_factory=dict)
    weights: dict[tuple[bool, bool], PositionWeights] = field(default_factory=dict)
    reference: Outputs = field(default_factory=dict)
    quantized: onnx.ModelProto = field(default_factory=onnx.ModelProto)

    def search(self, start: Recipe) -> tuple[QuantizationSummary, tuple[Trial, ...]]:
        """Vary one part of the recipe after the other; keep each change that brings the outputs closer.

        Few inputs judge: what is nearer by less than its standard error is not kept.
        """
        self.reference = simulate(load(self.model).model, self.judging)
        if not self.prepared(start.equalized, False)[1].importance:
            start = replace(start, method="mse")
        summary, self.quantized = self.make(start)
        recipe, least = start, self.judge(self.quantized)
        trials = [Trial(recipe, float(least.mean()), True)]
        for change in CHANGES:
            other = replace(recipe, **change)
            if other == recipe:
                continue
            made, quantized = self.make(other)
            distances = self.judge(quantized)
            kept = is_closer(distances, least)
            trials.append(Trial(other, float(distances.mean()), kept))
            if kept:
                recipe, least, summary, self.quantized = other, distances, made, quantized
        return summary, tuple(trials)

    def judge(self, quantized: onnx.ModelProto) -> NDArray[np.float64]:
        """Return how far from the float model's the outputs for each input kept apart are."""
        return output_distances(self.reference, simulate(quantized, self.judging))

    def make(self, recipe: Recipe) -> tuple[QuantizationSummary, onnx.ModelProto]:
        path, observations = self.prepared(recipe.equalized, recipe.offset)
        out = self.folder / "quantized.onnx"
        summary = quantize(path, observations, self.convention, out, recipe.method, self.ignore)
        quantized, graph, batches = onnx.load(out), load(path), first(self.fitting, REPAIRED)
        key = recipe.equalized, recipe.offset
        if key not in self.weights:
            self.weights[key] = weighed_positions(graph, batches, self.progress)
        layers = repair(
            graph,
            quantized,
            summary.layers,
            self.convention.weight_bits,
            batches,
            recipe.rounding,
            lambda done, total: self.progress(f"repairing: {recipe}", done, total),
            self.weights[key],
        )
        return replace(summary, layers=layers), quantized

    def prepared(self, equalized: bool, offset: bool) -> tuple[Path, Observations]:
        """Return the float model and what calibration saw of it."""
        key = equalized, offset
        if key not in self.floats:
            path = self.folder / f"float-{equalized:d}-{offset:d}.onnx"
            if offset:
                self.move(*self.prepared(equalized, False), path)
            elif equalized:
                equalize(self.model, self.fitting, path)
            else:
                graph = load(self.model)
                give_biases(graph)
                _save(graph, path)
            self.observations[key] = observed(path, self.fitting, self.progress)
            self.floats[key] = path
        return self.floats[key], self.observations[key]

    def move(self, path: Path, observations: Observations, out: Path) -> None:
        """Write a float model whose tensors after ReLU are moved by half of their best range."""
        graph = load(path)
        highs = {
            name: least_cost_range(item, importance, False)[1]
            if (importance := observations.importance.get(name))
            else least_squares_range(item, False)[1]
            for name, item in observations.histograms.items()
        }
        offset_activations(graph, {name: high for name, high in highs.items() if high > 0.0})
        _save(graph, out)


def _save(graph: FloatGraph, path: Path) -> None:
    write(graph.model, path)
