"""INT8 within a stated drop: the fewest layers, the most sensitive first, go back to float until it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import onnx

from calibration.best import BestQuantization, quantize_best
from calibration.budgets import Figure, LargestDrop, disagreement
from calibration.correct import Rounding, repair, takes_weights
from calibration.evidence import Progress, divided, observed, repaired_on, silent, weighed_positions
from calibration.external import write
from calibration.half import to_half
from calibration.load import load
from calibration.observations import Observations
from calibration.placement import LAYERS, place
from calibration.positions import PositionWeights
from calibration.qdq import quantize
from calibration.ranges import Batch, Method
from calibration.sensitivity import (
    Lifted,
    Sensitivity,
    estimate_sensitivities,
    lift,
    measure_sensitivities,
    rank_agreement,
)
from calibration.simulate import output_distance, simulate
from calibration.summary import QuantizationSummary

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

Ranking = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Within:
    """A quantized model that loses no more than was allowed.

    Args:
        summary: of the written model; `kept_float` holds the lifted layers, too.
        best: what was tried of the repairs; None where ranges alone were chosen.
        lifted: layers that went back to float, the loss with them and with every number tried.
        ranked: layers in the order in which they are lifted; empty where none had to be.
        sensitivities: measured and estimated ones of these, if they were to be measured.
        agreement: Kendall's τ of the measured and the estimated order; None where they were not measured.
        half: nodes that compute in float16.
    """

    summary: QuantizationSummary
    best: BestQuantization | None
    lifted: Lifted
    ranked: tuple[str, ...]
    sensitivities: tuple[Sensitivity, ...]
    agreement: float | None
    half: tuple[str, ...]


def quantize_within(
    model: Path,
    batches: Sequence[Batch],
    convention: QuantizationConvention,
    out: Path,
    float_out: Path,
    drop: LargestDrop,
    *,
    thorough: bool = True,
    ranking: Ranking = "measured",
    half: bool = False,
    ignore: Iterable[str] = (),
    progress: Progress | None = None,
) -> Within:
    """Write a QDQ model that loses at most so much, with as few layers in float as the ranking allows.

    Args:
        model: float ONNX file.
        batches: calibration inputs, unlabelled, read several times; at least four batches. Every fourth is
            kept out of ranges and repairs: layers are ranked on those, and they are what the drop is measured
            on, unless it comes with a figure of its own.
        convention: of the target's capability.
        out: where the quantized ONNX file goes.
        float_out: where its float twin goes, see `quantize_best`.
        drop: the most that may be lost, and of what; a callable figure is given each ONNX file tried.
        thorough: also try repairs, as `quantize_best`; else ranges alone.
        ranking: "measured": every layer quantized alone, one run each; "estimated": two runs in all.
        half: write the layers that stay in float, ignored ones included, in float16 (TensorRT).
        ignore: as for `qdq.quantize`.
        progress: called with what is being done, how much of it is done and how much there is.

    Raises:
        GateFailed: not even one layer in INT8 loses so little; the message says the nearest that can be had.
        DataError, ModelError, ConfigError: as `quantize_best` does.
    """
    ignore, show = tuple(ignore), progress or silent
    fitting, judging = divided(batches)
    if thorough:
        best = quantize_best(model, batches, convention, out, float_out, ignore, progress, refit=False)
        recipe = best.best.recipe
        method, rounding = recipe.method, recipe.rounding
    else:
        best, method, rounding = None, "mse", None
        write(load(model).model, float_out)
    seen = observed(float_out, fitting, show)
    repairing = repaired_on(fitting)
    wanted = rounding is not None and takes_weights(rounding)
    weights = weighed_positions(load(float_out), repairing, show) if wanted else {}
    maker = _Maker(float_out, seen, convention, method, rounding, repairing, weights, ignore, half)
    figure = _figure(drop, model, judging)
    with TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.onnx"

        @cache
        def loss(layers: tuple[str, ...]) -> float:
            show(f"trying {len(layers)} layers in float", 0, 1)
            maker.make(layers, trial)
            return figure(trial)

        ranked: tuple[str, ...] = ()
        found: tuple[Sensitivity, ...] = ()
        lifted = Lifted((), loss(()), {0: loss(())})
        if lifted.loss > drop.most:
            ranked, found = maker.rank(judging, ranking, partial(show, "ranking layers"))
            lifted = lift(ranked, loss, drop.most)
    summary, halved = maker.make(lifted.layers, out)
    return Within(summary, best, lifted, ranked, found, _agreement(found), halved)


def _figure(drop: LargestDrop, model: Path, judging: list[Batch]) -> Figure:
    """Return how a file is judged: by the given figure, or against the float model's outputs."""
    if callable(drop.figure):
        return drop.figure
    compare = {"agreement": disagreement, "divergence": output_distance}[drop.figure]
    reference = simulate(load(model).model, judging)
    return lambda path: compare(reference, simulate(onnx.load(path), judging))


def _agreement(found: Sequence[Sensitivity]) -> float | None:
    if not found:
        return None
    return rank_agreement([item.measured for item in found], [item.estimated for item in found])


@dataclass(frozen=True)
class _Maker:
    """Makes models with some layers in float."""

    model: Path
    observations: Observations
    convention: QuantizationConvention
    method: Method
    rounding: Rounding | None
    batches: list[Batch]
    weights: PositionWeights
    ignore: tuple[str, ...]
    half: bool

    def make(self, layers: tuple[str, ...], out: Path) -> tuple[QuantizationSummary, tuple[str, ...]]:
        """Write the model with these layers in float, and say which nodes compute in float16."""
        rules = (*self.ignore, *map(re.escape, layers))
        summary = quantize(self.model, self.observations, self.convention, out, self.method, rules)
        model = onnx.load(out)
        if self.rounding is not None:
            repaired = repair(
                load(self.model),
                model,
                summary.layers,
                self.convention.weight_bits,
                self.batches,
                self.rounding,
                weights=self.weights,
            )
            summary = replace(summary, layers=repaired)
        kept = [item.node for item in summary.kept_float if item.op_type in LAYERS]
        halved = to_half(model, kept) if self.half else ()
        write(model, out)
        return summary, halved

    def rank(
        self, judging: list[Batch], ranking: Ranking, progress: Callable[[int, int], None]
    ) -> tuple[tuple[str, ...], tuple[Sensitivity, ...]]:
        """Return the layers that may be lifted, the most sensitive first, and what was measured of them."""
        residual_inputs = self.convention.quantize_residual_inputs
        lifted = {layer.node.name for layer in place(load(self.model), residual_inputs, self.ignore).layers}
        arguments = (self.model, self.observations, self.convention, judging, self.method)
        if ranking == "estimated":
            estimates = estimate_sensitivities(*arguments)
            return tuple(sorted(lifted, key=lambda name: (-estimates[name], name))), ()
        found = tuple(item for item in measure_sensitivities(*arguments, progress) if item.node in lifted)
        return tuple(item.node for item in found), found
