"""The promises in short, for README: one drawing and one table of the newest record of bench/promises.py.

    .venv/bin/python -m bench.summary                             writes them into README.md and docs/promises.svg
    .venv/bin/python -m bench.summary --record FILE.json --readme README.md

It measures nothing and chooses nothing: every row that the record has is in both, kept or not. A bar goes from what
the plain copy takes to the share of it that somebody else takes, and a step of the axis is ten times: so what takes a
hundredth and what takes thirty times as much can both be seen.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from bench.compare import RESULTS, say
from bench.page import Record, last, rendered
from bench.promises import PLAIN, RSYNC_Z, verdict
from bench.quantities import less

BEGIN, END = "<!-- figures: make bench; .venv/bin/python -m bench.summary -->", "<!-- /figures -->"
DRAWING = "docs/promises.svg"  # beside README
README_COLUMNS = 140

TOP, HEAD, ROW, GAP = (
    88,
    10,
    34,
    20,
)  # in pixels of the drawing: above all, above the rows of a pitch, a row, below them
LEFT, RIGHT = 330, 624  # where bars are drawn


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of the plain copy, from the line at one."""

    kind: str  # "ours" or "peer"
    x: float
    width: float
    down: int
    thick: int


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the drawing."""

    y: int
    name: str
    figure: str
    text_x: int
    text: str
    more: str  # below it
    bars: list[Bar]
    must_x: float | None  # None: it is told in words
    must: str
    verdict: str
    kind: str  # "kept", "broken" or "soft"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both; 1 if there is no record, or no place in README."""
    parser = argparse.ArgumentParser(prog="python -m bench.summary", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--record", type=Path, help="of bench.promises (default: the newest in bench/results)")
    parser.add_argument("--readme", type=Path, default=RESULTS.parents[1] / "README.md", help="where the table goes")
    options = parser.parse_args(arguments)
    path = options.record or last(RESULTS, "promises")
    if path is None:
        say(f"{RESULTS} has no record of the promises; `python -m bench.promises --quick` makes one in some minutes")
        return 1
    text = options.readme.read_text()
    if BEGIN not in text:
        say(f"{options.readme} has no line {BEGIN}: there is no place for the table")
        return 1
    record = json.loads(path.read_text())
    options.readme.write_text(placed(text, summary(record)))
    picture = options.readme.parent / DRAWING
    picture.write_text(drawing(record["promises"]))
    say(f"written from {path}: {options.readme} and {picture}")
    return 0


def placed(text: str, inside: str) -> str:
    """The text with what stands between the two marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{inside}\n\n{end}{after}"


def summary(record: Record) -> str:
    """The Markdown: what and where, the drawing, the table."""
    rows, machine = record["promises"], record["machine"]
    of = [verdict(row["kept"]) for row in rows]
    counted = ", ".join(f"{of.count(word)} {word.lower()}" for word in dict.fromkeys(of))
    rounds = min((row["rounds"] for row in rows if row["less"] is not None), default=1)
    runs = "one run each" if rounds == 1 else f"medians of {rounds}"
    story = (
        f"Of {len(rows)} rows {counted}. Each is judged by the worst of the ways in which PacketFS was measured, "
        f"beside a plain copy of the whole (`tar` through a TCP connection) or whom it names; {runs}. "
        f"Taken {record['taken'][:10]} at commit {machine.get('commit') or 'unknown'} on {machine['cpu']}, "
        f"{machine['cores']} cores, load {machine['load'][0]:.1f} at the end. [How](bench/README.md#promisespy)."
    )
    lines = [
        *textwrap.wrap(story, README_COLUMNS, break_long_words=False, break_on_hyphens=False),
        "",
        f"![PacketFS and rsync -az as shares of a plain copy; the table has the same figures]({DRAWING})",
        "",
        "| | PacketFS | beside | rsync -az | less than the one, than the other | promised | | bound |",
        "|---|--:|--:|--:|--:|--:|---|---|",
    ]
    return "\n".join([*lines, *map(_cells, rows)])


def drawing(rows: Sequence[Record]) -> str:
    """The whole SVG file, which brings its colours and follows the reader's choice of light or dark."""
    low, high = _decades(rows)

    def x(share: float) -> float:
        along = (math.log10(max(share, 10**low)) - low) / (high - low)
        return round(LEFT + along * (RIGHT - LEFT), 1)

    y = TOP
    heads: list[tuple[str, int]] = []
    lines: list[Line] = []
    for pitch, members in groupby(rows, key=lambda row: row["pitch"]):
        heads.append((pitch, y))
        y += HEAD
        for row in members:
            lines.append(_line(row, y, x))
            y += ROW
        y += GAP
    ticks = [
        (x(10.0**step), f"{100 * 10.0**step:g} %" if step <= 0 else f"{10**step} x") for step in range(low, high + 1)
    ]
    return rendered("summary.svg", height=y - GAP, one=x(1), ticks=ticks, heads=heads, lines=lines)


def _line(row: Record, y: int, x: Callable[[float], float]) -> Line:
    name, _, figure = row["measured"].partition(": ")
    is_words = row["at_most"] is None  # a rate by itself
    told, _, more = row["ours"].partition("; ")
    share = "not judged" if row["less"] is None else less(row["less"])
    of = "" if row["beside"] == PLAIN or is_words else f"; beside {row['beside']}"
    rsync = f"{RSYNC_Z} {_value(row, RSYNC_Z)}" if RSYNC_Z in row["values"] else ""
    return Line(
        y=y,
        name=name,
        figure=figure + of,
        text_x=LEFT if is_words else RIGHT + 16,
        text=told if is_words else f"{_value(row, row['worst'])} of {_value(row, row['beside'])}, {share}",
        more=more if is_words else rsync,
        bars=[] if is_words else _bars(row, x),
        must_x=None if is_words else x(row["at_most"]),
        must=_must(row).partition(";")[0],
        verdict=verdict(row["kept"]),
        kind={None: "soft", True: "kept", False: "broken"}[row["kept"]],
    )


def _bars(row: Record, x: Callable[[float], float]) -> list[Bar]:
    made = (("ours", 1, 12, _share(row, row["worst"])), ("peer", 15, 8, _share(row, RSYNC_Z)))
    return [
        Bar(kind, min(x(share), x(1)), round(abs(x(share) - x(1)), 1), down, thick)
        for kind, down, thick, share in made
        if share is not None
    ]


def _cells(row: Record) -> str:
    is_words = row["at_most"] is None
    way = row["worst"].removeprefix("packetfs").lstrip(" ,")
    shares = [_as_much(share) for share in (row["less"], row["less_than_rsync"]) if share is not None]
    cells = (
        row["measured"],
        row["ours"] if is_words else f"{_value(row, row['worst'])} ({way})" if way else "not measured",
        "" if is_words else f"{row['beside']} {_value(row, row['beside'])}",
        _value(row, RSYNC_Z) if RSYNC_Z in row["values"] else "",
        ", ".join(shares),
        _must(row),
        f"**{verdict(row['kept'])}**" if row["kept"] is False else verdict(row["kept"]),
        row["limit"],
    )
    return f"| {' | '.join(cells)} |"


def _decades(rows: Sequence[Record]) -> tuple[int, int]:
    """The powers of ten between which every share and every promise lies."""
    shares = [
        share for row in rows for share in (row["at_most"], _share(row, row["worst"]), _share(row, RSYNC_Z)) if share
    ]
    return math.floor(math.log10(min(shares, default=0.1))), max(1, math.ceil(math.log10(max(shares, default=10))))


def _share(row: Record, name: str) -> float | None:
    """What somebody takes of the figure of whom the row is judged by."""
    if name not in row["values"] or not row["values"].get(row["beside"], (0,))[0]:
        return None
    return float(row["values"][name][0] / row["values"][row["beside"]][0])


def _value(row: Record, name: str) -> str:
    return str(row["values"][name][1]) if name in row["values"] else "not measured"


def _as_much(share: float) -> str:
    return less(share) if share >= 0 else f"{less(share)} as much"


def _must(row: Record) -> str:
    if row["at_most"] is None:
        return str(row["must"])
    return less(1 - row["at_most"]) if row["at_most"] < 1 else f"at most {row['at_most']:g} x"


if __name__ == "__main__":
    sys.exit(main())
