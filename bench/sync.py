"""`packetfs sync` beside rsync, unison, syncthing and lsyncd: one directory made equal to another, over four links.

    .venv/bin/python -m bench.sync                                       everything (root; some hours with five rounds)
    .venv/bin/python -m bench.sync --quick --case 'no change' --only 'rsync -a' --only 'packetfs sync'

The same two machines, meters and comparison as in bench/transfer.py, and workloads of its cases. Data goes from the
near side to the far one. Every time is of a run over that link, nothing is computed; both sides have been brought to
the old state by the same subject before (nothing, for a first copy), and their files are in the page cache. Prints a
table for each workload, the lost rows like the others, and writes every single run as JSON to bench/results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.cases import SYNC, Case, cases
from bench.harness import Link
from bench.transfer import Figures, Measured, Run, options_of, play_all, shown, who

SUBJECTS = (
    SYNC,
    "packetfs sync, TLS",
    "rsync -a",
    "rsync -az",
    "rsync -a daemon",
    "unison",
    "syncthing",
    "lsyncd, start",
)
PLAIN, FAR_AWAY = "plain", "50 ms"
LINKS = {
    PLAIN: Link(),
    "1 Gbit/s": Link(mbit_per_s=1_000),
    "100 Mbit/s": Link(mbit_per_s=100),
    FAR_AWAY: Link(round_trip_ms=50),
}
WORKLOADS = {  # what it is called here: the case of bench/cases.py
    "first copy": "first copy of the tree",
    "no change": "no-op",
    "90 files": "90 files",
    "touch": "touch",
    "directory renamed": "directory renamed",
    "next release": "pair: wheel numpy",
    "insertion": "pair: insert",
    "edits": "256 MiB, 100 x 16 B",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a figure that was asked for could not be had."""
    return play_all("sync", rows(), report, options_of("sync", __doc__, arguments))


def rows() -> list[Case]:
    """Every workload over every link."""
    known = {case.name: case for case in cases()}
    return [
        replace(
            known[of],
            name=f"{workload}: {name}",
            link=link,
            subjects=SUBJECTS,
            goals=(),
            probe_ms=0,
            pair=False,
            timed=True,
        )
        for workload, of in WORKLOADS.items()
        for name, link in LINKS.items()
    ]


def report(measured: Measured) -> str:
    """The Markdown that stands for the run: a table for each workload, the least of each column in bold."""
    chosen, runs = measured.cases, measured.runs
    figures = Figures(runs)
    lines: list[str] = []
    for workload in dict.fromkeys(_workload(case.name) for case in chosen):
        story = next(case.story for case in chosen if _workload(case.name) == workload)
        found = [run for run in runs if _workload(run.case) == workload]
        if not found:
            continue
        moved = f" ({found[0].source_files:,} files, {found[0].source_bytes / 1e6:,.1f} MB)"
        lines += [f"**{workload}**: {story}{moved}", "", *_table(workload, found, figures), ""]
    rounds = 1 + max((run.round for run in runs), default=0)
    lines.append(
        f"Medians of {rounds} round{'s'[: rounds != 1]}. Bytes are TCP payload both ways, the channel's own included; "
        "bytes, CPU (both sides) and peak anonymous memory (near, far) are of the plain link. Round trips are what "
        "50 ms add to the plain time, and one for each connection: on a noisy machine they are noise."
    )
    return "\n".join([*lines, *who(measured)])


def _table(workload: str, runs: Sequence[Run], figures: Figures) -> list[str]:
    heads = ["subject", "bytes", "round trips", *(f"s, {name}" for name in LINKS), "CPU s", "near MiB", "far MiB"]
    table = {name: _cells(workload, name, figures) for name in SUBJECTS if any(run.subject == name for run in runs)}
    columns = zip(*([value for value, _ in row] for row in table.values()), strict=True)
    least = [min((value for value in column if value is not None), default=None) for column in columns]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for name, row in table.items():
        bold = [f"**{text}**" if text and value == low else text for (value, text), low in zip(row, least, strict=True)]
        lines.append(f"| {' | '.join([name, *bold])} |")
    return lines


def _cells(workload: str, name: str, figures: Figures) -> list[tuple[float | None, str]]:
    """The value of each column, and how it is shown."""
    plain = f"{workload}: {PLAIN}"

    def cell(case: str, figure: str, text: Callable[[float], str]) -> tuple[float | None, str]:
        value = figures.of(case, name, figure)
        return value, "" if value is None else text(value)

    near, far_away = figures.of(plain, name, "wall_s"), figures.of(f"{workload}: {FAR_AWAY}", name, "wall_s")
    connections = figures.of(plain, name, "connections") or 0
    trips = None
    if near is not None and far_away is not None:
        trips = round(connections + (far_away - near) * 1000 / LINKS[FAR_AWAY].round_trip_ms)
    return [
        cell(plain, "wire_bytes", lambda value: shown("bytes", value)),
        (trips, "" if trips is None else str(trips)),
        *(cell(f"{workload}: {link}", "wall_s", lambda value: f"{value:.2f}") for link in LINKS),
        cell(plain, "cpu_s", lambda value: f"{value:.2f}"),
        cell(plain, "near_anon_bytes", lambda value: f"{value / 2**20:.0f}"),
        cell(plain, "far_anon_bytes", lambda value: f"{value / 2**20:.0f}"),
    ]


def _workload(case: str) -> str:
    return case.partition(":")[0]


if __name__ == "__main__":
    sys.exit(main())
