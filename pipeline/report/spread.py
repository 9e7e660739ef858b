"""The plot of the samples behind a median: in the order taken, and as a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.measured import Latency
from pipeline.report.canvas import INK, SERIES, Mark, Naming, element, frame, new_figure, scale, style
from pipeline.report.numbers import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Milliseconds = NDArray[np.float64]


def spread(latency: Latency, ceiling: float, mark: Mark, naming: Naming) -> str:
    """Plot every sample in the order taken and, on the same axis, their histogram.

    The line is the median, the band its interval. Samples above the ceiling, in milliseconds, are marked at
    the upper edge.
    """
    with style(naming):
        figure = new_figure(310, 200)
        run, bars = figure.subplots(1, 2, sharey=True, width_ratios=(2.6, 1))
        times = np.asarray(latency.samples_ms, dtype=np.float64)
        shown = times[times <= ceiling]
        for axes in (run, bars):
            frame(axes)
            axes.axhspan(*latency.median_interval_ms, color=SERIES[mark.colour], alpha=0.25, linewidth=0)
            axes.axhline(latency.median_ms, color=INK, linewidth=1)
        scale(run, "y", float(shown.min()), float(shown.max()), padding=0.06)
        _draw_run(run, times, ceiling, SERIES[mark.colour])
        _draw_histogram(bars, shown, SERIES[mark.colour])
        _label_median(bars, latency)
        run.set_title("ms", loc="left")
        return element(figure, naming)


def _draw_run(axes: Axes, times: Milliseconds, ceiling: float, colour: str) -> None:
    """Draw one dot a sample, all as a single path, which keeps the page small."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.ticker import MaxNLocator

    order = np.arange(1, len(times) + 1)
    low = times <= ceiling
    dots = np.repeat(np.column_stack([order[low], times[low]]), 2, axis=0)
    codes = np.tile([Path.MOVETO, Path.LINETO], int(low.sum()))
    axes.add_patch(
        PathPatch(Path(dots, codes), edgecolor=colour, linewidth=2.6, capstyle="round", fill=False)
    )
    edge = np.ones(int((~low).sum()))
    axes.plot(
        order[~low],
        edge,
        "^",
        color=colour,
        markersize=5,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )
    axes.set_xlim(0, len(times) + 1)
    axes.set_xlabel("sample, in the order taken")
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def _draw_histogram(axes: Axes, times: Milliseconds, colour: str) -> None:
    """Draw horizontal bars of equal height on the page, on a logarithmic axis too."""
    count = int(np.clip(round(2 * np.sqrt(len(times))), 12, 48))
    spaced = np.geomspace if axes.get_yscale() == "log" else np.linspace
    heights, edges = np.histogram(times, spaced(*axes.get_ylim(), count + 1))
    axes.stairs(heights, edges, orientation="horizontal", fill=True, color=colour, linewidth=0)
    axes.set_xlim(0, heights.max() * 1.05)
    axes.set_xlabel("count")
    axes.set_xticks([0, int(heights.max())])


def _label_median(axes: Axes, latency: Latency) -> None:
    axes.tick_params(left=False, labelleft=False)
    axes.annotate(
        significant(latency.median_ms),
        (1, latency.median_ms),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontweight="bold",
    )
