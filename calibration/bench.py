"""Make mixed-precision models until one fits its budget; nothing is made twice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.budgets import AverageBits, Budget, Figure, LargestDrop, Latency, PackedSize, disagreement
from calibration.evidence import Progress
from calibration.forms import Candidate, LayerForm, changes, spend, split_mask
from calibration.grid import WIDTHS
from calibration.load import load
from calibration.mixed import Measured, lower, smallest
from calibration.packing import PackedSizes, pack_file
from calibration.plan import BitsPlan
from calibration.ranges import Batch, Method, collect
from calibration.sensitivity import measure_sensitivities
from calibration.simulate import Outputs, output_distance, simulate
from calibration.variants import Variants
from targets.errors import ConfigError

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

# A packed file that came out too large is planned again, smaller by what it was over, this often.
REPACKED = 3
# Batches with which layers are ranked by what quantizing each of them alone costs.
RANKED = 4


@dataclass(frozen=True)
class Base:
    """An INT8 model and the float model it was made from, as `quantize_best` writes them.

    Args:
        float_model: file of the float twin.
        int8: file of the quantized model.
        method: how ranges were chosen; used again where layers are split or kept in float.
    """

    float_model: Path
    int8: Path
    method: Method = "mse"


@dataclass(frozen=True)
class Tried:
    """A plan that was measured on the way, and its figure: the drop, or milliseconds."""

    average_bits: float
    figure: float


@dataclass(frozen=True)
class Judge:
    """The inputs kept apart, and what the float model answers to them."""

    batches: list[Batch]
    reference: Outputs

    @classmethod
    def of(cls, model: Path, batches: list[Batch]) -> Judge:
        """Run the float model."""
        return cls(batches, simulate(load(model).model, batches))

    def distance(self, model: Path) -> float:
        """Return how far the outputs of a model are from the float model's, see `output_distance`."""
        return output_distance(self.reference, simulate(onnx.load(model), self.batches))

    def disagreement(self, model: Path) -> float:
        """Return the percentage of inputs that a model answers differently."""
        return disagreement(self.reference, simulate(onnx.load(model), self.batches))

    def figure(self, budget: LargestDrop) -> Figure:
        """Return the figure a budget names."""
        named = {"agreement": self.disagreement, "divergence": self.distance}
        return budget.figure if callable(budget.figure) else named[budget.figure]


@dataclass(frozen=True)
class Made:
    """A model within its budget.

    Args:
        plan: its bits.
        model: its file, in the bench's folder.
        forms: how layers run, where that was to be chosen.
        tried: what was measured on the way.
    """

    plan: BitsPlan
    model: Path
    forms: tuple[LayerForm, ...] = ()
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What models are made from.

    Args:
        measured: the float twin.
        base: its file and the plain INT8 model's.
        batches: calibration inputs for plans and repairs.
        convention: of the target.
        ignore: layers that stay float.
        folder: where models go.
        progress: called with what is being done, how much of it is done and how much there is.
    """

    measured: Measured
    base: Base
    batches: list[Batch]
    convention: QuantizationConvention
    ignore: tuple[str, ...]
    folder: Path
    progress: Progress

    def make(self, budget: Budget, judge: Judge) -> Made:
        """Return a model within a budget.

        Raises:
            ConfigError: the budget cannot be met; the message gives the nearest that can.
        """
        if isinstance(budget, AverageBits):
            return self._lowered(self.measured.plan(budget.bits))
        if isinstance(budget, PackedSize):
            return self._for_size(budget)
        if isinstance(budget, LargestDrop):
            return self._for_drop(budget, judge.figure(budget))
        return self._for_latency(budget)

    def packed_size(self, model: Path) -> PackedSizes:
        """Pack a model and say what it came to."""
        return pack_file(model, self.folder / "model.packed")

    def _lowered(self, plan: BitsPlan) -> Made:
        out = self.folder / f"{plan.weight_bits}.onnx"
        if not out.exists():
            doing = f"rounding weights to {plan.average_bits:.2f} bits on average"
            lower(
                self.measured,
                self.base.int8,
                plan,
                self.batches,
                out,
                self.convention.weight_bits,
                partial(self.progress, doing),
            )
        return Made(plan, out)

    def _for_size(self, budget: PackedSize) -> Made:
        """Plan, lower and pack until the file is small enough: the rest may shrink less."""
        int8 = self.packed_size(self.base.int8)
        size, over = budget.size_bytes, 0
        for _ in range(REPACKED):
            made = self._lowered(self.measured.plan_for_size(size, int8))
            over = self.packed_size(made.model).packed_bytes - budget.size_bytes
            if over <= 0:
                return made
            size -= over
        raise ConfigError(
            f"{budget.size_bytes} bytes cannot be met: the file came out {over} bytes larger",
            mend=f"allow {budget.size_bytes + over} bytes",
        )

    def _for_drop(self, budget: LargestDrop, figure: Figure) -> Made:
        made: dict[float, tuple[Made, Tried]] = {}

        def drop(average: float) -> float:
            one = self._lowered(self.measured.plan(average))
            made[average] = one, Tried(one.plan.average_bits, figure(one.model))
            return made[average][1].figure

        best = made[smallest(drop, budget.most)][0]
        return Made(best.plan, best.model, tried=tuple(tried for _, tried in made.values()))

    def _for_latency(self, budget: Latency) -> Made:
        variants = Variants(
            self.base.float_model, self.batches, self.convention, self.base.method, self.folder, self.ignore
        )
        candidates = self._candidates(budget)
        spending = spend(budget, candidates, variants, self.progress)
        masks = {item.node: item.split for item in candidates if item.split is not None}
        splits, lifted = changes({item.node: item.form for item in spending.forms}, masks)
        out = self.folder / "latency.onnx"
        variants.finish(splits, lifted, partial(self.progress, "repairing layers"), out)
        plan = self._float_plan(splits, lifted)
        tried = tuple(
            Tried(self._float_plan(*changes(forms, masks)).average_bits, ms) for forms, ms in spending.tried
        )
        return Made(plan, out, spending.forms, tried)

    def _candidates(self, budget: Latency) -> list[Candidate]:
        ranked = measure_sensitivities(
            self.base.float_model,
            collect(self.base.float_model, self.batches),
            self.convention,
            self.batches[:RANKED],
            self.base.method,
            partial(self.progress, "ranking layers"),
        )
        known = [item for item in ranked if item.node in self.measured.noise]
        # One layer stays INT8 whatever the time allows: a model without any is the float model.
        looked_at = known[: min(budget.layers, len(known) - 1)]
        return [self._candidate(item.node, item.measured, budget.alignment) for item in looked_at]

    def _candidate(self, node: str, divergence: float, alignment: int) -> Candidate:
        noise = self.measured.noise[node].noise[:, WIDTHS.index(8)] * self.measured.scores[node]
        mask = split_mask(noise, alignment) if self.measured.can_split(node) else None
        left = 0.0 if mask is None else divergence * float(noise[~mask].sum() / noise.sum())
        return Candidate(node, divergence, mask, left, len(noise))

    def _float_plan(self, splits: dict[str, NDArray[np.bool_]], lifted: list[str]) -> BitsPlan:
        """Return the plan of a model with 8 bits everywhere but in its float channels."""
        bits = {name: np.full(len(layer.power), 8) for name, layer in self.measured.noise.items()}
        bits |= {name: np.where(mask, 16, 8) for name, mask in splits.items()}
        bits |= {name: np.full(len(bits[name]), 16) for name in lifted}
        return BitsPlan.of(self.measured.graph, self.measured.sensitivity, bits)
