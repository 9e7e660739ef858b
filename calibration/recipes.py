"""Recipes for INT8, and what makes models by them and judges them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.biases import give_biases
from calibration.clipping import least_cost_range, least_squares_range
from calibration.correct import Rounding, repair, takes_weights
from calibration.equalize import equalize
from calibration.evidence import Progress, observed, weighed_positions
from calibration.external import write
from calibration.graph import FloatGraph
from calibration.load import load
from calibration.observations import Observations
from calibration.positions import PositionWeights
from calibration.qdq import quantize
from calibration.ranges import Batch, Method
from calibration.recentre import offset_activations
from calibration.simulate import Outputs, output_distances, simulate
from calibration.summary import QuantizationSummary

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

# What is tried, in this order.
CHANGES: tuple[dict[str, Any], ...] = (
    {"equalized": False},
    {"offset": False},
    {"method": "minmax"},
    {"rounding": "absorbing"},
    {"rounding": "nearest"},
)


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


def is_closer(distances: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Say whether distances are smaller than others of the same inputs, by more than one standard error."""
    gain = others - distances
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return bool(gain.mean() > error)


@dataclass
class Maker:
    """Makes and judges quantized models; nothing is computed twice.

    Args:
        model: float ONNX file.
        fitting: batches that ranges are of.
        repairing: those of them that layers are repaired on.
        judging: batches that compare recipes.
        folder: for the models.
        convention: of the target's capability.
        ignore: as for `qdq.quantize`.
        progress: told what is being done.
    """

    model: Path
    fitting: list[Batch]
    repairing: list[Batch]
    judging: list[Batch]
    folder: Path
    convention: QuantizationConvention
    ignore: tuple[str, ...]
    progress: Progress
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
        """Quantize by a recipe, repairs and all."""
        path, observations = self.prepared(recipe.equalized, recipe.offset)
        out = self.folder / "quantized.onnx"
        summary = quantize(path, observations, self.convention, out, recipe.method, self.ignore)
        quantized, graph = onnx.load(out), load(path)
        key = recipe.equalized, recipe.offset
        if key not in self.weights and takes_weights(recipe.rounding):
            self.weights[key] = weighed_positions(graph, self.repairing, self.progress)
        layers = repair(
            graph,
            quantized,
            summary.layers,
            self.convention.weight_bits,
            self.repairing,
            recipe.rounding,
            lambda done, total: self.progress(f"repairing: {recipe}", done, total),
            self.weights.get(key),
        )
        return replace(summary, layers=layers), quantized

    def prepared(self, equalized: bool, offset: bool) -> tuple[Path, Observations]:
        """Return the float model and what calibration saw of it."""
        key = equalized, offset
        if key not in self.floats:
            path = self.folder / f"float-{equalized:d}-{offset:d}.onnx"
            if offset:
                self._move(*self.prepared(equalized, False), path)
            elif equalized:
                equalize(self.model, self.fitting, path)
            else:
                graph = load(self.model)
                give_biases(graph)
                _save(graph, path)
            self.observations[key] = observed(path, self.fitting, self.progress)
            self.floats[key] = path
        return self.floats[key], self.observations[key]

    def _move(self, path: Path, observations: Observations, out: Path) -> None:
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
