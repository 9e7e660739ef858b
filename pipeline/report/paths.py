"""How far apart the classes' critical paths lie, and which channels serve which class."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.measured import LayerPaths, Paths
from pipeline.report.numbers import percent
from pipeline.report.scores import DEEPEST_SHADE
from pipeline.report.structure import Strip, strip


@dataclass(frozen=True)
class Shade:
    """One cell of a heat map: exclusiveness in percent; `shade` is an opacity."""

    percent: str
    shade: float


@dataclass(frozen=True)
class ClassPath:
    """One class in one layer: its channels, and how far it is from each class."""

    label: str
    size: int
    strip: Strip
    cells: list[Shade]


@dataclass(frozen=True)
class LayerView:
    """One layer; `apart` is the mean exclusiveness of two classes in percent."""

    layer: str
    channels: int
    share: str
    apart: str
    length: float
    rows: list[ClassPath]


@dataclass(frozen=True)
class PathsView:
    """All that a page shows of critical paths."""

    classes: list[str]
    words: str
    layers: list[LayerView]


def view(paths: Paths) -> PathsView:
    """Return critical paths as a page shows them."""
    return PathsView(paths.classes, paths.words, [_layer(paths.classes, layer) for layer in paths.layers])


def _layer(classes: list[str], layer: LayerPaths) -> LayerView:
    pairs = max(len(classes) * (len(classes) - 1), 1)
    apart = sum(map(sum, layer.exclusiveness)) / pairs
    rows = [
        ClassPath(
            label=label,
            size=layer.sizes[place],
            strip=strip(layer.channels, layer.critical[place], f"channels on the path of {label}"),
            cells=[_shade(value) for value in layer.exclusiveness[place]],
        )
        for place, label in enumerate(classes)
    ]
    return LayerView(
        layer=layer.layer,
        channels=layer.channels,
        share=percent(layer.share),
        apart=percent(apart),
        length=round(100 * apart, 2),
        rows=rows,
    )


def _shade(value: float) -> Shade:
    return Shade(f"{100 * value:.0f}", round(DEEPEST_SHADE * value, 3))
