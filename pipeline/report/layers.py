"""Where the time goes inside an engine, and how many bits its weights have, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.measured import LayerBits, LayerTime
from pipeline.report.numbers import NOTHING, count_unit, fixed, percent, significant
from pipeline.report.results import TargetResults, Variant
from pipeline.report.structure import runs

# What a character of a plan stands for; a float of 32 bits is what was left alone.
WIDTHS = {"f": 16, "F": 32}
NAMES = {"f": "16-bit float", "F": "32-bit float"}
# Rows shown; what the others take together stands in one more.
MOST_ROWS = 40


@dataclass(frozen=True)
class TimeRow:
    """One operator; `length` is its share of the longest, in percent."""

    name: str
    kind: str
    milliseconds: str
    share: str
    length: float
    channels: str
    bits: str
    macs: str


@dataclass(frozen=True)
class LayerTable:
    """The operators of one variant, longest first."""

    variant: Variant
    rows: list[TimeRow]
    rest: str
    mac_unit: str


@dataclass(frozen=True)
class Stretch:
    """Channels of one width: a path that covers one unit for each."""

    bits: str
    path: str


@dataclass(frozen=True)
class BitsRow:
    """The bits of one layer's channels."""

    layer: LayerBits
    channels: int
    average: str
    stretches: list[Stretch]
    words: str


@dataclass(frozen=True)
class BitsTable:
    """The bits of one variant. Where all weights have the same, `words` say so and there are no rows."""

    variant: Variant
    words: str
    rows: list[BitsRow]
    legend: list[tuple[str, str]]


def tables(results: TargetResults) -> list[LayerTable]:
    """Return the operators of every variant that was profiled."""
    return [_table(variant) for variant in results.variants if variant.result.layers]


def bits(results: TargetResults) -> list[BitsTable]:
    """Return the bits of every variant that ships and has any but float."""
    return [_bits(variant) for variant in results.variants if variant.result.bits and variant.shipped]


def _table(variant: Variant) -> LayerTable:
    layers = variant.result.layers
    shown, rest = layers[:MOST_ROWS], layers[MOST_ROWS:]
    unit = count_unit(layer.macs for layer in layers if layer.macs)
    longest = max(layer.median_ms for layer in layers) or 1.0
    left = f"{len(rest)} more take {percent(sum(layer.share for layer in rest))} % together" if rest else ""
    return LayerTable(
        variant=variant,
        rows=[
            _time_row(layer, longest, unit.write(layer.macs) if layer.macs else NOTHING) for layer in shown
        ],
        rest=left,
        mac_unit=unit.name,
    )


def _time_row(layer: LayerTime, longest: float, macs: str) -> TimeRow:
    return TimeRow(
        name=layer.name,
        kind=layer.kind,
        milliseconds=significant(layer.median_ms, 2),
        share=percent(layer.share),
        length=round(100 * layer.median_ms / longest, 2),
        channels=str(layer.channels or NOTHING),
        bits=str(layer.weight_bits or NOTHING),
        macs=macs,
    )


def _bits(variant: Variant) -> BitsTable:
    layers = variant.result.bits
    used = sorted({code for layer in layers for code in layer.bits}, key=_width)
    average = _average(layers)
    if len(used) == 1:
        words = f"all weights of its {len(layers)} layers have {_named(used[0])}"
        return BitsTable(variant, words, [], [])
    words = f"{fixed(average, 2)} bits a weight on average"
    return BitsTable(
        variant, words, [_bits_row(layer) for layer in layers], [(code, _named(code)) for code in used]
    )


def _bits_row(layer: LayerBits) -> BitsRow:
    counts = Counter(layer.bits)
    stretches = [
        Stretch(
            code, "".join(f"M{first} 0h{length}v1h-{length}z" for first, length in runs(_places(layer, code)))
        )
        for code in sorted(counts, key=_width)
    ]
    said = ", ".join(
        f"{counts[code]} {'channel' if counts[code] == 1 else 'channels'} of {_named(code)}"
        for code in sorted(counts, key=_width)
    )
    return BitsRow(layer, len(layer.bits), fixed(_average([layer]), 2), stretches, said)


def _places(layer: LayerBits, code: str) -> list[int]:
    return [place for place, each in enumerate(layer.bits) if each == code]


def _average(layers: Sequence[LayerBits]) -> float:
    weights = sum(len(layer.bits) * layer.weights_per_channel for layer in layers)
    total = sum(sum(map(_width, layer.bits)) * layer.weights_per_channel for layer in layers)
    return total / max(weights, 1)


def _width(code: str) -> int:
    return WIDTHS.get(code) or int(code)


def _named(code: str) -> str:
    return NAMES.get(code) or f"{code} bits"
