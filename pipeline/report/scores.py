"""What the network gets right and wrong: recall by class against the baselines, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.record import Accuracy, ClassScore
from pipeline.report.numbers import percent
from pipeline.report.results import TargetResults, Variant

# Text stays readable on a shade of at most this opacity, in both colour schemes.
DEEPEST_SHADE = 0.45


@dataclass(frozen=True)
class Bar:
    """One variant's scores on one class; `length` is the share of the full bar, in percent."""

    variant: Variant
    length: float
    recall: str
    precision: str


@dataclass(frozen=True)
class ClassBars:
    """One class and every variant's scores on it, the products' first."""

    label: str
    images: str
    bars: list[Bar]


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix; `shade` is an opacity."""

    count: str
    shade: float
    hit: bool


@dataclass(frozen=True)
class ConfusionRow:
    """The images of one true class."""

    label: str
    cells: list[Cell]
    recall: str


def recalls(results: TargetResults) -> list[ClassBars]:
    """Return the scores of each class."""
    ordered = sorted(results.variants, key=lambda variant: not variant.shipped)
    return [
        ClassBars(
            label=score.label,
            images=f"{score.count:,}",
            bars=[_bar(variant, variant.result.accuracy.classes[index]) for variant in ordered],
        )
        for index, score in enumerate(results.variants[0].result.accuracy.classes)
    ]


def confusion(accuracy: Accuracy) -> list[ConfusionRow]:
    """Return the rows of a confusion matrix.

    Hits are shaded by their share of the row, misses by theirs beside the largest share of any miss.
    """
    shares = [[count / max(sum(row), 1) for count in row] for row in accuracy.confusion]
    misses = [share for true, row in enumerate(shares) for said, share in enumerate(row) if said != true]
    worst = max(misses, default=0.0) or 1.0
    return [
        ConfusionRow(
            label=score.label,
            cells=[_cell(count, shares[true][said], worst, said == true) for said, count in enumerate(row)],
            recall=percent(score.recall),
        )
        for true, (score, row) in enumerate(zip(accuracy.classes, accuracy.confusion, strict=True))
    ]


def _cell(count: int, share: float, worst: float, hit: bool) -> Cell:
    return Cell(f"{count:,}", round(DEEPEST_SHADE * (share if hit else share / worst), 3), hit)


def _bar(variant: Variant, score: ClassScore) -> Bar:
    length = round(100 * (score.recall or 0.0), 2)
    return Bar(variant, length, percent(score.recall), percent(score.precision))
