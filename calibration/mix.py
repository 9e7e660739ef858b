"""Mixed precision in one call: from a float model and a budget to a plan, a QDQ model and a packed file.

The INT8 repairs come first (`best`): the plan is made for the float twin they leave, with its channels made
equal and centred. Every fourth batch only judges; labels are never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from calibration.bench import Base, Bench, Judge, Tried
from calibration.best import quantize_best
from calibration.budgets import AverageBits, Budget, LargestDrop, Latency, PackedSize
from calibration.evidence import Progress, divided, first, silent
from calibration.forms import LayerForm
from calibration.mixed import measure
from calibration.packing import PackedSizes, pack_file
from calibration.plan import BitsPlan
from calibration.ranges import Batch
from targets.errors import ConfigError

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention

__all__ = ["Base", "Mixed", "Tried", "quantize_mixed"]

MIXED_SCHEMA = "edgewright.mixed/1"
# Inputs that plans and repairs are made with: activations of all of them are held in memory.
FITTED = 128


@dataclass(frozen=True)
class Mixed:
    """A mixed-precision model.

    Args:
        budget: what it was made for, in words.
        plan: bits of every channel.
        model: QDQ file.
        packed: file for the device; `targets.packed` restores `model` from it.
        float_model: float twin, with the same names of layers as the plan.
        sizes: of the packed file.
        distance: of its outputs from the float model's, on the inputs kept apart; see `output_distance`.
        int8_distance: the same for plain INT8.
        disagreement: percent of those inputs that it answers differently than the float model.
        forms: how layers run, where that was to be chosen.
        tried: what was measured on the way.
    """

    budget: str
    plan: BitsPlan
    model: Path
    packed: Path
    float_model: Path
    sizes: PackedSizes
    distance: float
    int8_distance: float
    disagreement: float
    forms: tuple[LayerForm, ...]
    tried: tuple[Tried, ...]

    def document(self) -> dict[str, Any]:
        """Return everything but the plan's channels as a JSON document of schema `MIXED_SCHEMA`."""
        return {
            "schema": MIXED_SCHEMA,
            "budget": self.budget,
            "sensitivity": self.plan.sensitivity,
            "average_bits": self.plan.average_bits,
            "sizes": asdict(self.sizes),
            "distance": self.distance,
            "int8_distance": self.int8_distance,
            "disagreement": self.disagreement,
            "forms": [asdict(form) for form in self.forms],
            "tried": [asdict(one) for one in self.tried],
        }


def quantize_mixed(
    model: Path,
    batches: Sequence[Batch],
    convention: QuantizationConvention,
    budget: Budget,
    folder: Path,
    base: Base | None = None,
    scores: Path | None = None,
    ignore: Sequence[str] = (),
    progress: Progress | None = None,
) -> Mixed:
    """Write a mixed-precision model within a budget: the same arguments give the same bytes.

    Args:
        model: float ONNX file.
        batches: calibration inputs, unlabelled, read several times; at least four batches.
        convention: of the target's capability.
        budget: see `budgets`.
        folder: exists; gets float.onnx, int8.onnx, bits.json, model.onnx and model.packed.
        base: INT8 model and float twin where they are there already; otherwise `quantize_best` makes them.
        scores: file of sensitivities; without it they are estimated, unlabelled.
        ignore: as for `qdq.quantize`.
        progress: called with what is being done, how much of it is done and how much there is.

    Raises:
        ConfigError: the budget cannot be met; the message gives the nearest that can.
        DataError: fewer than four batches, or scores that do not fit.
        ModelError: as `quantize_best`.
    """
    check_budget(budget)
    fitting, judging = divided(batches)
    report = progress or silent
    base = _copied(base or _best(model, batches, convention, folder, ignore, report), folder)
    fitted = first(fitting, FITTED)
    doing = partial(report, "measuring what every width costs")
    measured = measure(
        base.float_model, fitted, convention.weight_bits, scores, ignore, doing, original=model
    )
    with TemporaryDirectory() as scratch:
        bench = Bench(measured, base, fitted, convention, tuple(ignore), Path(scratch), report)
        return _finished(budget, bench, Judge.of(model, judging), folder)


def check_budget(budget: Budget) -> None:
    """Refuse budgets that no model meets.

    Raises:
        ConfigError: below or above what there is; the message gives the nearest that can be met.
    """
    if isinstance(budget, AverageBits) and not 2.0 <= budget.bits <= 8.0:
        nearest = 8 if budget.bits > 8.0 else 2
        raise ConfigError(
            f"{budget.bits:g} bits a weight on average cannot be met: weights have 2 to 8",
            mend=f"ask for {nearest}",
        )
    value = {PackedSize: "size_bytes", LargestDrop: "most", Latency: "ms"}.get(type(budget))
    if value is not None and not getattr(budget, value) > 0:
        raise ConfigError(
            f"a budget of {getattr(budget, value):g} cannot be met", mend="give a number above 0"
        )


def _best(
    model: Path,
    batches: Sequence[Batch],
    convention: QuantizationConvention,
    folder: Path,
    ignore: Sequence[str],
    progress: Progress,
) -> Base:
    twin, int8 = folder / "float.onnx", folder / "int8.onnx"
    found = quantize_best(model, batches, convention, int8, twin, ignore, progress, refit=False)
    return Base(twin, int8, found.best.recipe.method)


def _copied(base: Base, folder: Path) -> Base:
    paths = folder / "float.onnx", folder / "int8.onnx"
    for path, source in zip(paths, (base.float_model, base.int8), strict=True):
        if path.resolve() != source.resolve():
            path.write_bytes(source.read_bytes())
    return Base(*paths, base.method)


def _finished(budget: Budget, bench: Bench, judge: Judge, folder: Path) -> Mixed:
    made = bench.make(budget, judge)
    model, packed = folder / "model.onnx", folder / "model.packed"
    model.write_bytes(made.model.read_bytes())
    made.plan.save(folder / "bits.json")
    return Mixed(
        budget=str(budget),
        plan=made.plan,
        model=model,
        packed=packed,
        float_model=bench.base.float_model,
        sizes=pack_file(model, packed),
        distance=judge.distance(model),
        int8_distance=judge.distance(bench.base.int8),
        disagreement=judge.disagreement(model),
        forms=made.forms,
        tried=made.tried,
    )
