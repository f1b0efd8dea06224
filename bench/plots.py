"""Line plots as SVG that takes its colours from the page around it, or carries a light and a dark set of its own.

Drawn by matplotlib with stand-in colours, which are then replaced by CSS variables. Letters are drawn as shapes, so
that they take the room that was reckoned for them in every browser.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

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
LIGHT = (
    "--ink:#1c1c1e;--faint:#d0d0d5;--ours:#0a66c2;--peer-1:#8a5a00;--peer-2:#6b7280;--peer-3:#9d4edd;--peer-4:#2f855a"
)
DARK = (
    "--ink:#e8e8ea;--faint:#44444a;--ours:#6cb2ff;--peer-1:#e0a94a;--peer-2:#a0a6b0;--peer-3:#c79bf2;--peer-4:#7bd3a0"
)


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
    y: str
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Dots:
    """A row for each workload, a dot for each subject, on one logarithmic axis."""

    x: str
    rows: Sequence[tuple[str, Mapping[str, float]]]
    ours: str  # what the names of our subjects begin with


def drawn(plot: Plot) -> str:
    """The SVG element, to stand in a page that defines the variables."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": plot.title}):  # the same plot, the same bytes
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log", xlabel=plot.x, ylabel=plot.y)
        axes.grid(visible=True, linewidth=0.5)
        peers = iter(PEERS * 3)
        for line, mark in zip(plot.lines, MARKS * 3, strict=False):
            xs, ys = zip(*line.points, strict=True)
            axes.plot(
                xs,
                ys,
                label=line.name,
                color=OURS if line.ours else next(peers),
                linewidth=2.2 if line.ours else 1.3,
                marker=mark,
                markersize=4,
            )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=9)
        return _svg(figure)


def standing(dots: Dots) -> str:
    """A whole SVG file, which has its colours with it and follows the reader's choice of light or dark."""
    subjects = list(dict.fromkeys(name for _, row in dots.rows for name in row))
    with mpl.rc_context(_STYLE | {"svg.hashsalt": dots.x}):
        figure = Figure(figsize=(9, 1.2 + 0.42 * len(dots.rows)), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel=dots.x)
        axes.grid(visible=True, axis="x", linewidth=0.5)
        peers = iter(PEERS * 3)
        for name, mark in zip(subjects, MARKS * 3, strict=False):
            is_ours = name.startswith(dots.ours)
            points = [(row[name], -number) for number, (_, row) in enumerate(dots.rows) if name in row]
            axes.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                label=name,
                color=OURS if is_ours else next(peers),
                marker=mark,
                s=58 if is_ours else 30,
                zorder=3 if is_ours else 2,
            )
        axes.set_yticks([-number for number in range(len(dots.rows))], [name for name, _ in dots.rows])
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside upper center", ncols=min(len(subjects), 5), frameon=False, fontsize=9)
        text = _svg(figure)
    colours = f"<style>svg{{{LIGHT}}}@media (prefers-color-scheme:dark){{svg{{{DARK}}}}}</style>"
    return text.replace(">", f">{colours}", 1) + "\n"


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    for colour, variable in STAND_INS.items():
        text = text.replace(colour, variable)
    text = text[text.index("<svg") :]
    # Without a size of its own it is as wide as its place.
    return re.sub(r' (width|height)="[^"]*pt"', "", text, count=2).rstrip()
