"""The thorough setting: try the repairs one after the other and keep what makes the outputs better.

Every fourth batch is kept out of ranges and repairs, to judge them by: how far the quantized model's outputs
are from the float model's. Labels are never looked at. What was chosen is then made once more, from all, with
more inputs to repair it on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx

from calibration.evidence import TRIED, Progress, divided, first, repaired_on, silent
from calibration.external import write
from calibration.ranges import Batch
from calibration.recipes import Maker, Recipe, Trial
from calibration.summary import QuantizationSummary

if TYPE_CHECKING:
    from targets.capability import QuantizationConvention


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
    progress: Progress | None = None,
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
    rest = convention, tuple(ignore), progress or silent
    with TemporaryDirectory() as tried, TemporaryDirectory() as chosen:
        maker = Maker(model, fitting, first(fitting, TRIED), judging, Path(tried), *rest)
        symmetric = convention.activations == "int8-symmetric"
        found = BestQuantization(*maker.search(Recipe(offset=symmetric)))
        if refit:
            maker = Maker(model, list(batches), repaired_on(batches), [], Path(chosen), *rest)
            summary, maker.quantized = maker.make(found.best.recipe)
            found = replace(found, summary=summary)
        write(maker.quantized, out)
        write(onnx.load(maker.prepared(found.best.recipe.equalized, found.best.recipe.offset)[0]), float_out)
        return found
