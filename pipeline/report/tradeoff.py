"""The plot of accuracy against latency, with a label at every point where all of them have room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.record import Result
from pipeline.report.canvas import (
    FAINT,
    INK,
    MARKERS,
    SERIES,
    Mark,
    Naming,
    element,
    frame,
    new_figure,
    scale,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Place = tuple[int | None, tuple[int, int], str, str]
# Places of a label in the order they are tried: beside the point, then over or under its interval. Each is
# an end of the interval of accuracy (None: the point itself), an offset in points and two alignments.
PLACES: tuple[Place, ...] = (
    *((None, (7, 7 * up), "left", "bottom" if up > 0 else "top") for up in (1, -1, 3, -3)),
    *((None, (-7, 7 * up), "right", "bottom" if up > 0 else "top") for up in (1, -1, 3, -3)),
    (1, (0, 5), "center", "bottom"),
    (0, (0, -5), "center", "top"),
)


@dataclass(frozen=True)
class Point:
    """One variant in the plot of accuracy against latency."""

    result: Result
    mark: Mark


def tradeoff(points: Sequence[Point], naming: Naming, score: str) -> str:
    """Plot accuracy, called `score`, against median latency, both with their intervals."""
    from matplotlib.ticker import MaxNLocator

    with style(naming):
        figure = new_figure(380, 285)
        axes = figure.add_subplot()
        frame(axes)
        axes.grid(True, color=FAINT, linewidth=0.7)
        _draw_front(axes, points)
        for point in points:
            _draw_point(axes, point)
        axes.set_xlabel("Median latency, ms   (left is faster)")
        axes.set_ylabel(f"{score.capitalize()}, %")
        ends = [end for point in points for end in point.result.latency.median_interval_ms]
        scale(axes, "x", min(ends), max(ends), padding=0.35)
        axes.margins(y=0.18)
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        _place_labels(figure, axes, points)
        return element(figure, naming)


def _draw_front(axes: Axes, points: Sequence[Point]) -> None:
    """Join the points that no other is both faster and better than."""
    front = sorted(
        (point.result.latency.median_ms, 100 * point.result.accuracy.top1)
        for point in points
        if not any(_dominates(other, point) for other in points)
    )
    axes.plot(*zip(*front, strict=True), color=INK, linewidth=1.2, linestyle=(0, (4, 3)), alpha=0.6, zorder=1)


def _dominates(one: Point, other: Point) -> bool:
    faster = one.result.latency.median_ms <= other.result.latency.median_ms
    better = one.result.accuracy.top1 >= other.result.accuracy.top1
    same = one.result.latency.median_ms == other.result.latency.median_ms and (
        one.result.accuracy.top1 == other.result.accuracy.top1
    )
    return faster and better and not same


def _draw_point(axes: Axes, point: Point) -> None:
    latency, accuracy = point.result.latency, point.result.accuracy
    axes.errorbar(
        latency.median_ms,
        100 * accuracy.top1,
        xerr=_reach(latency.median_ms, latency.median_interval_ms),
        yerr=_reach(100 * accuracy.top1, (100 * accuracy.top1_interval[0], 100 * accuracy.top1_interval[1])),
        fmt=MARKERS[point.mark.shape],
        color=SERIES[point.mark.colour],
        markersize=8,
        elinewidth=1.5,
        capsize=3,
    )


def _reach(value: float, interval: tuple[float, float]) -> list[list[float]]:
    return [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _place_labels(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each variant's name at the first place beside its point where nothing else is.

    Where one finds no such place there are too many to be read, and none is written: the page has a legend.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    taken = [_mark(axes, point) for point in points]
    labels: list[Annotation] = []
    for point in points:
        for place in PLACES:
            label = _label(axes, point, place)
            box = label.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and box.y1 <= figure.bbox.y1 and not box.count_overlaps(taken):
                taken.append(box)
                labels.append(label)
                break
            label.remove()
        else:
            for label in labels:
                label.remove()
            return


def _label(axes: Axes, point: Point, place: Place) -> Annotation:
    end, offset, horizontal, vertical = place
    accuracy = point.result.accuracy
    at = accuracy.top1 if end is None else accuracy.top1_interval[end]
    return axes.annotate(
        point.result.variant,
        (point.result.latency.median_ms, 100 * at),
        xytext=offset,
        textcoords="offset points",
        color=SERIES[point.mark.colour],
        fontweight="bold",
        ha=horizontal,
        va=vertical,
    )


def _mark(axes: Axes, point: Point) -> Any:
    """Return the box on the canvas that a point and its intervals take up."""
    from matplotlib.transforms import Bbox

    latency, accuracy = point.result.latency, point.result.accuracy
    corners = axes.transData.transform(
        [
            (latency.median_interval_ms[0], 100 * accuracy.top1_interval[0]),
            (latency.median_interval_ms[1], 100 * accuracy.top1_interval[1]),
        ]
    )
    return Bbox(corners).padded(4)
