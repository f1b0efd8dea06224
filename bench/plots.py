"""Line plots as SVG that takes its colours from the page around it.

Drawn by matplotlib with stand-in colours, which are then replaced by CSS variables. Letters are drawn as shapes, so
that they take the room that was reckoned for them in every browser.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

STAND_INS = {  # matplotlib's colour: the variable of the page
    "#010203": "var(--ink)",
    "#040506": "var(--faint)",
    "#070809": "var(--ours)",
    "#0a0b0c": "var(--peer-1)",
    "#0d0e0f": "var(--peer-2)",
    "#101112": "var(--peer-3)",
    "#131415": "var(--peer-4)",
}
INK, FAINT, OURS, *PEERS = STAND_INS
MARKS = "osDv^"
DASHES = ("-", "--", ":")  # ours have one colour
_STYLE: Final[dict[Any, Any]] = {  # matplotlib knows the names one by one
    "svg.fonttype": "path",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One subject's figure at each x, in ascending order."""

    name: str
    points: Sequence[tuple[float, float]]
    ours: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """Both axes are logarithmic, so that what grows in proportion is a straight line; a nought is not drawn."""

    title: str
    x: str
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    lines: Sequence[Line]


def drawn(plot: Plot) -> str:
    """The SVG element, to stand in a page that defines the variables."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": plot.title}):  # the same plot, the same bytes
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log", xlabel=plot.x)
        axes.grid(visible=True, linewidth=0.5)
        peers, dashes = iter(PEERS * 3), iter(DASHES * 3)
        for line, mark in zip(plot.lines, MARKS * 3, strict=False):
            xs, ys = zip(*line.points, strict=True)
            axes.plot(
                xs,
                ys,
                label=line.name,
                color=OURS if line.ours else next(peers),
                linestyle=next(dashes) if line.ours else "-",
                linewidth=2.2 if line.ours else 1.3,
                marker=mark,
                markersize=4,
            )
        for axis, text in ((axes.xaxis, plot.x_text), (axes.yaxis, plot.y_text)):
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0), numticks=99))
            axis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
            axis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)  # never over a line
        return _svg(figure)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    for colour, variable in STAND_INS.items():
        text = text.replace(colour, variable)
    text = text[text.index("<svg") :]
    # Without a size of its own it is as wide as its place.
    return re.sub(r' (width|height)="[^"]*pt"', "", text, count=2).rstrip()
