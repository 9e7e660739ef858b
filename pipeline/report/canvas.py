"""What the plots of a report have in common: size, type, colours and the way into the page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.report import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A network has a colour, a precision a shape; the page has the same in its style sheet.
MARKERS = ("o", "s", "^", "D", "v", "P")
# Stand-ins that matplotlib draws with; svg.inline puts the page's own colours in their place.
SERIES = tuple(f"#0000f{number}" for number in range(len(MARKERS)))
INK, FAINT = "#0000a0", "#0000b0"
COLOURS = {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)}
COLOURS |= {INK: "var(--ink-soft)", FAINT: "var(--line)"}
LOGARITHMIC_FROM = 3.0
POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Mark:
    """What stands for a variant in every table and plot: numbers of its colour and shape."""

    colour: int
    shape: int

    @classmethod
    def numbered(cls, colour: int, shape: int) -> Mark:
        """The mark of these numbers, which start again where there are no more."""
        return cls(colour % len(SERIES), shape % len(MARKERS))


@dataclass(frozen=True)
class Naming:
    """What a plot is called.

    Args:
        identifier: unique on the page.
        title: what is plotted.
        description: what there is to see, for those who cannot see it.
    """

    identifier: str
    title: str
    description: str


@contextmanager
def style(naming: Naming) -> Iterator[None]:
    """Draw with the report's settings, whatever those of the user are."""
    import matplotlib

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": naming.identifier,
        "path.simplify": False,
        "text.parse_math": False,
        "font.size": 12,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": "medium",
        "xtick.labelsize": "medium",
        "ytick.labelsize": "medium",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of that many pixels of the page, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    return figure


def frame(axes: Axes) -> None:
    """Leave of the frame what reads: faint left and bottom lines, no ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", length=0)
    axes.set_axisbelow(True)


def scale(axes: Axes, which: str, low: float, high: float, padding: float) -> None:
    """Set limits around [low, high] > 0, logarithmic where the values span a factor of three."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        room = (high / low) ** padding
        axes.set(**{f"{which}scale": "log", f"{which}lim": (low / room, high * room)})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        room = (high - low or high or 1.0) * padding
        axes.set(**{f"{which}lim": (max(low - room, 0.0), high + room)})
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(ScalarFormatter(useOffset=False))


def element(figure: Figure, naming: Naming) -> str:
    """Return a figure as an SVG element to stand inside HTML; the same figure gives the same bytes."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return svg.inline(stream.getvalue(), naming.identifier, naming.title, naming.description, COLOURS)
