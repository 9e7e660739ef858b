"""What the build came to: the variants of each target and how they compare, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.measured import Speedup
from pipeline.record import Record, Result, Target
from pipeline.report.canvas import Mark, Naming
from pipeline.report.numbers import Measured, Unit, byte_unit, count_unit, measured, measured_column, percent
from pipeline.report.tradeoff import Point, tradeoff
from pipeline.report.wording import Wording, wording


@dataclass(frozen=True)
class Comparison:
    """A variant's speed beside another's.

    Args:
        kind: "win", "loss" or "tie".
        symbol: a mark for `kind` that needs no colour.
        verdict: `kind` in words.
        baseline: the other variant.
        ratio: baseline time / own time.
        unseen: of a tie, the least difference that would have been found, where the record says it.
    """

    kind: str
    symbol: str
    verdict: str
    baseline: str
    ratio: Measured
    unseen: str = ""

    @property
    def words(self) -> str:
        """The verdict with the variant it is about, as in "slower than student fp32"."""
        return f"{self.verdict} {'from' if self.kind == 'tie' else 'than'} {self.baseline}"


@dataclass(frozen=True)
class Variant:
    """One row of the table of variants, in the units of its columns."""

    result: Result
    mark: Mark
    accuracy: Measured
    median: Measured
    comparisons: list[Comparison]
    engine_size: str
    onnx_size: str
    macs: str

    @property
    def name(self) -> str:
        """Network and precision."""
        return self.result.variant

    @property
    def shipped(self) -> bool:
        """Whether this is what the build delivers."""
        return self.result.role == "product"


@dataclass(frozen=True)
class TargetResults:
    """Everything measured on one target."""

    target: Target
    anchor: str
    variants: list[Variant]
    words: Wording
    size_unit: Unit
    mac_unit: Unit

    @property
    def products(self) -> list[Variant]:
        """The variants that are shipped."""
        return [variant for variant in self.variants if variant.shipped]

    @property
    def notes(self) -> list[str]:
        """What the toolchain says of the engines, equal notes once."""
        said: dict[str, list[str]] = {}
        for variant in self.variants:
            if variant.result.engine.notes:
                said.setdefault("; ".join(variant.result.engine.notes), []).append(variant.name)
        return [f"{', '.join(names)}: {note}." for note, names in said.items()]

    def tradeoff(self) -> str:
        """The plot of accuracy against latency, as an SVG element."""
        points = [Point(variant.result, variant.mark) for variant in self.variants]
        seen = "; ".join(
            f"{variant.name}: {variant.median} ms, {self.words.short} {variant.accuracy} %"
            for variant in self.variants
        )
        title = f"{self.words.score.capitalize()} against median latency on {self.target.name}"
        naming = Naming(f"{self.anchor}-tradeoff", title, f"{seen}. Intervals in brackets, 95 %.")
        return tradeoff(points, naming, self.words.score)


def compare(speedup: Speedup) -> Comparison:
    """Put a speed-up into words: only an interval that excludes 1 is a difference."""
    low, high = speedup.interval
    kind, symbol, verdict = "tie", "=", "no measurable difference"
    if low > 1:
        kind, symbol, verdict = "win", "▲", "faster"
    elif high < 1:
        kind, symbol, verdict = "loss", "▼", "slower"
    ratio = measured(speedup.ratio, low, high, apart_from=None if kind == "tie" else 1.0)
    smallest = speedup.smallest_difference
    unseen = f"{percent(smallest)} %" if kind == "tie" and smallest is not None else ""
    return Comparison(kind, symbol, verdict, speedup.baseline, ratio, unseen)


def marks_of(record: Record) -> dict[str, Mark]:
    """Return variant → its mark, the same in every table and plot: colour by network, shape by precision."""
    networks = [network.name for network in record.networks]
    precisions = list(dict.fromkeys(result.precision for result in record.results))
    return {
        result.variant: Mark.numbered(networks.index(result.network), precisions.index(result.precision))
        for result in record.results
    }


def shown_speedups(results: Sequence[Result]) -> list[list[Speedup]]:
    """Return those comparisons of each result that a table shows.

    A result is compared with those before it that are baselines or of its own network: every pair that tells
    something stands once, and a family of many students does not fill the table with pairs of siblings.
    """
    shown = []
    for place, result in enumerate(results):
        others = {
            other.variant
            for other in results[:place]
            if other.role == "baseline" or other.network == result.network
        }
        shown.append([speedup for speedup in result.speedups if speedup.baseline in others])
    return shown


def all_targets(record: Record) -> list[TargetResults]:
    """Return the results of each target, in the record's order."""
    return [_target(record, target, number) for number, target in enumerate(record.targets, 1)]


def _target(record: Record, target: Target, number: int) -> TargetResults:
    results = [result for result in record.results if result.target == target.name]
    macs = {network.name: network.macs for network in record.networks}
    sizes = [size for result in results for size in (result.engine.size_bytes, result.engine.onnx_size_bytes)]
    size_unit, mac_unit = byte_unit(sizes), count_unit(macs[result.network] for result in results)
    marks = marks_of(record)
    accuracies = [(result.accuracy.top1, *result.accuracy.top1_interval) for result in results]
    variants = [
        Variant(
            result=result,
            mark=marks[result.variant],
            accuracy=accuracy,
            median=measured(result.latency.median_ms, *result.latency.median_interval_ms),
            comparisons=[compare(speedup) for speedup in speedups],
            engine_size=size_unit.write(result.engine.size_bytes),
            onnx_size=size_unit.write(result.engine.onnx_size_bytes),
            macs=mac_unit.write(macs[result.network]),
        )
        for result, accuracy, speedups in zip(
            results, measured_column(accuracies, scale=100), shown_speedups(results), strict=True
        )
    ]
    words = wording(record.data.labels)
    return TargetResults(target, f"target-{number}", variants, words, size_unit, mac_unit)
