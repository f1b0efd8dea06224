"""One page of the results, in one file that needs no other: each figure as a bar beside its peers, and how cost grows.

    .venv/bin/python -m bench.page                          the newest record of each kind in bench/results
    .venv/bin/python -m bench.page FILE.json... --to page.html

It measures nothing and leaves nothing out. The promises of the pitch come first, kept or not; a case is on the page if
a record has it, and of the goals the lost ones are listed first. A bar begins at nought, and its length is its share of
the longest in its block: small is small.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.compare import RESULTS, say
from bench.plots import Line, Plot, drawn
from bench.quantities import amount, less, seconds

OURS = "packetfs"
KINDS = ("promises", "sync", "transfer", "compare", "growth")  # of records, in the order of the page
WITH_WORKLOADS = ("sync", "transfer")
# Local or empty: what they show is a bound, not a competitor.
BOUNDS = ("zstd --patch-from", "xdelta3", "ssh alone", "find, here", "cp -a, here", "memcpy")
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    """One subject's figure."""

    subject: str
    value: float
    text: str
    share: float  # of the longest bar of the block, 0 to 1
    kind: str  # "ours", "bound" or "peer"
    least: bool  # nobody but a bound has less


@dataclass(frozen=True, slots=True)
class Block:
    """The bars of one figure of one workload."""

    title: str
    bars: list[Bar]
    rounds: int  # how many runs the median is of, the fewest of a subject


@dataclass(frozen=True, slots=True)
class Promise:
    """A line of the pitch, with everybody's figure."""

    row: Record
    reductions: list[str]
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Workload:
    """All figures of what was moved."""

    name: str
    story: str
    measured: str
    blocks: list[Block]


@dataclass(frozen=True, slots=True)
class Figure:
    """What can be read from a run."""

    title: str
    of: Callable[[Record], float | None]
    text: Callable[[float], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; 1 if there is no record to make it from."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("records", nargs="*", type=Path, help="records to show (default: the newest of each kind)")
    parser.add_argument("--to", type=Path, default=RESULTS / "report.html", help="where the page goes")
    options = parser.parse_args(arguments)
    paths = options.records or newest(RESULTS)
    if not paths:
        say(f"{RESULTS} has no record; `python -m bench.sync --quick` makes one in some minutes")
        return 1
    records = [(kind_of(path), json.loads(path.read_text())) for path in paths]
    options.to.write_text(page(records))
    say(f"written: {options.to}")
    return 0


def newest(results: Path) -> list[Path]:
    """The last record of each kind, in the order of the page."""
    return [path for kind in KINDS if (path := last(results, kind)) is not None]


def last(results: Path, kind: str) -> Path | None:
    """The newest record of that kind. Names end with the time, so that they sort by it."""
    return max(results.glob(f"{kind}-[0-9]*.json"), default=None)


def kind_of(path: Path) -> str:
    """What wrote the record."""
    return path.name.partition("-")[0]


def page(records: Sequence[tuple[str, Record]]) -> str:
    """The page, with its style and its drawings inside."""
    return rendered(
        "page.html",
        taken=[(kind, record["taken"], record["machine"]) for kind, record in records],
        verdicts=[verdict for _, record in records for verdict in record.get("verdicts", ())],
        promises=[promise for _, record in records for promise in promises(record)],
        workloads=[
            *(workload for kind, record in records if kind in WITH_WORKLOADS for workload in workloads(record)),
            *(workload for kind, record in records if kind == "compare" for workload in stores(record)),
        ],
        curves=[
            (plot, Markup(drawn(plot)))  # drawn by us, from numbers and our own names
            for kind, record in records
            if kind == "growth"
            for plot in curves(record)
        ],
        subjects={name: about for _, record in records for name, about in record["subjects"].items()},
        absent={name: why for _, record in records for name, why in record.get("absent", {}).items()},
        failures=[
            (case, name, " ".join(why.split("\n", 2)[:2]))
            for _, record in records
            for case, by in record.get("failures", {}).items()
            for name, why in by.items()
        ],
    )


def rendered(name: str, **values: object) -> str:
    """The template of that name, which lies here, with the values in their places; text in them is never markup."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return made.get_template(name).render(values)


def promises(record: Record) -> list[Promise]:
    """The rows of the pitch, if the record has them."""
    return [
        Promise(
            row,
            [
                f"{less(share)}{' than' if share >= 0 else ''} {name}"
                for name, share in ((row["beside"], row["less"]), ("rsync -az", row["less_than_rsync"]))
                if share is not None
            ],
            # Nobody to be beside: parts, which stand in the order in which they came.
            _bars({name: (value, text) for name, (value, text) in row["values"].items()}, ordered=not row["beside"]),
        )
        for row in record.get("promises", ())
    ]


def workloads(record: Record) -> list[Workload]:
    """What the record has, one after the other. Cases called `workload: link` are one workload over several links."""
    cases: dict[str, list[str]] = {}
    for case in record["cases"]:
        name, _, link = case.partition(": ")
        cases.setdefault(name if link and name not in _NO_WORKLOADS else case, []).append(case)
    made = []
    for name, members in cases.items():
        runs = [run for run in record["runs"] if run["case"] == members[0]]
        if not runs:
            continue
        size = f"{runs[0]['source_files']:,} files, {amount(runs[0]['source_bytes'])}"
        blocks = [_block(figure.title, figure, runs) for figure in FIGURES]
        for case in members:
            over = [run for run in record["runs"] if run["case"] == case]
            blocks.append(_block(f"time, {record['cases'][case]['link']} link", _WALL, over))
        story = record["cases"][members[0]]["story"]
        made.append(Workload(name, story, size, [block for block in blocks if block is not None]))
    return made


def stores(record: Record) -> list[Workload]:
    """What bench/compare.py has of work on one machine: the time of each step, and what the first push takes."""
    made = []
    for table in record["tables"]:
        rows: dict[str, list[Record]] = {}
        for row in table["rows"]:
            rows.setdefault(row["step"], []).append({"subject": row["subject"], "reading": row})
        blocks = [_block(f"time, {step}", _WALL, found) for step, found in rows.items()]
        blocks += [_block(f"{figure.title}, cold", figure, rows.get("cold", ())) for figure in STORED]
        moved = f"{table['size']['files']:,} files, {amount(table['size']['bytes'])}"
        made.append(
            Workload(table["workload"], table["story"], moved, [block for block in blocks if block is not None])
        )
    return made


def _block(title: str, figure: Figure, runs: Iterable[Record]) -> Block | None:
    """None if nothing was measured."""
    found = _found(figure, runs)
    if not found:
        return None
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Block(title, bars(medians, figure.text), min(map(len, found.values())))


def _found(figure: Figure, runs: Iterable[Record]) -> dict[str, list[float]]:
    """What each subject took, run by run."""
    found: dict[str, list[float]] = {}
    for run in runs:
        value = figure.of(run["reading"])
        if value is not None:
            found.setdefault(run["subject"], []).append(value)
    return found


def bars(values: Mapping[str, float], text: Callable[[float], str]) -> list[Bar]:
    """A bar for each, the least first; equal ones by name."""
    return _bars({name: (value, text(value)) for name, value in values.items()})


def _bars(values: Mapping[str, tuple[float, str]], *, ordered: bool = False) -> list[Bar]:
    longest = max(value for value, _ in values.values()) or 1.0
    least = min((value for name, (value, _) in values.items() if _kind(name) != "bound"), default=None)
    return [
        Bar(name, value, text, value / longest, _kind(name), value == least)
        for name, (value, text) in (
            values.items() if ordered else sorted(values.items(), key=lambda item: (item[1][0], item[0]))
        )
    ]


def curves(record: Record) -> list[Plot]:
    """What grows with what: plots of bytes and time for each set of cases called `curve: x`."""
    named: dict[str, list[tuple[float, str]]] = {}
    for case in record["cases"]:
        curve, _, x = case.partition(": ")
        named.setdefault(curve, []).append((float(x), case))
    return [
        Plot(
            f"{figure.title}, by {curve}",
            record["cases"][points[0][1]]["story"],
            amount if curve.startswith("bytes") else "{:,g}".format,
            figure.text,
            _lines(record, points, figure),
        )
        for curve, points in named.items()
        for figure in (FIGURES[0], _WALL)
    ]


def _lines(record: Record, points: Sequence[tuple[float, str]], figure: Figure) -> list[Line]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for x, case in sorted(points):
        for name, values in _found(figure, (run for run in record["runs"] if run["case"] == case)).items():
            lines.setdefault(name, []).append((x, statistics.median(values)))
    return [Line(name, along, ours=_kind(name) == "ours") for name, along in lines.items()]


FIGURES = (
    Figure("bytes on the wire, both ways", lambda reading: reading["sent_bytes"] + reading["received_bytes"], amount),
    Figure("CPU of both sides", lambda reading: reading["near_cpu_s"] + reading["far_cpu_s"], seconds),
    Figure(
        "anonymous memory, the larger side",
        lambda reading: max(reading["near_anon_bytes"], reading["far_anon_bytes"]),
        amount,
    ),
    Figure("round trips", lambda reading: reading["round_trips"], lambda value: f"{value:,.1f}"),
)
STORED = (
    Figure("CPU", lambda row: row["cpu_s"], seconds),
    Figure("anonymous memory", lambda row: row["rss_anon_bytes"], amount),
    Figure("size of the store", lambda row: row["stored_bytes"], amount),
)
_WALL = Figure("time", lambda reading: reading["wall_s"], seconds)
_NO_WORKLOADS = ("pair",)  # what stands before ": " in these says of what kind they are


def _kind(subject: str) -> str:
    return "ours" if subject.startswith(OURS) else "bound" if subject.startswith(BOUNDS) else "peer"


if __name__ == "__main__":
    sys.exit(main())
