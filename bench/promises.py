"""The promises of the pitch, row by row: kept or not, beside a plain copy of the whole, rsync, and what physics allows.

    .venv/bin/python -m bench.promises                            medians of five (root for most of it)
    .venv/bin/python -m bench.promises --quick                    one round of everything, some minutes
    .venv/bin/python -m bench.promises --full                     also 10 GB at once, and 20 GB after each other

A promise is a reduction against "the traditional way": `tar` through a plain TCP connection, which copies the whole,
always. It is judged by the worst of the ways in which PacketFS was measured. Beside it are `rsync -az`, the best of the
rest, and a bound. Machines, meters and comparison are those of bench/transfer.py: a copy that differs has no figure.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from bench import latency, reads, sustained
from bench.cases import PATCH, PUSH, PUSH_TLS, SEED, SYNC, Case, cases, database_dump, no_postgresql
from bench.quantities import amount, less, seconds
from bench.transfer import Measured, Run, options_of, play_all, who
from bench.workloads import MIB

PLAIN, RSYNC_Z = "tar over TCP", "rsync -az"
SYNC_TLS = "packetfs sync, TLS"
OURS = (SYNC_TLS, PUSH_TLS, SYNC, PUSH)
PEERS = (PLAIN, "rsync -a", "rsync -az", "rsync -az -B4096", "unison", "restic")
MOVED_NOWHERE = (PATCH, "find, here", "cp -a, here")
BOUNDS = (*MOVED_NOWHERE, reads.MEMORY)

NUMPY, SCIPY, PAGES, DUMP = "next numpy", "next scipy", "database", "database dump"
FIRST, LARGE = "first copy", "10 GB at once"
RATE_MIN = 25e6  # bytes a second: the upper end of the promised 5 to 25 MB/s


@dataclass(frozen=True, slots=True)
class Figure:
    """What can be read from a run, the less the better, and how it is shown."""

    title: str
    of: Callable[[Run], float]
    text: Callable[[float], str]


WIRE = Figure("bytes on the wire, both ways", lambda run: run.reading.wire_bytes, amount)
MEMORY = Figure("peak anonymous memory of both sides", lambda run: run.reading.both_anon_bytes, amount)
CPU = Figure(
    "CPU seconds of both sides per GB", lambda run: run.reading.cpu_s / (run.source_bytes / 1e9), lambda v: f"{v:.2f} s"
)
TIME = Figure("time", lambda run: run.reading.wall_s, seconds)
PER_BYTE = Figure(
    "time per byte, as a rate", lambda run: run.reading.wall_s / run.source_bytes, lambda v: f"{amount(1 / v)}/s"
)


@dataclass(frozen=True, slots=True)
class Promise:
    """A line of the pitch on one workload: how much less of what than somebody else takes."""

    pitch: str
    case: str
    figure: Figure
    less: float  # the share of the other's figure that must not be there; below 0, how much more it may be
    ours: tuple[str, ...]
    limit: str  # a subject of the case that stands for the bound, or the bound in words
    beside: str = PLAIN


@dataclass(frozen=True, slots=True)
class Row:
    """A promise with what was measured. `kept` is None where ours or what it is judged by is missing."""

    pitch: str
    measured: str
    must: str
    at_most: float | None  # the same as a share of the figure of whom it is judged by
    kept: bool | None
    rounds: int
    ours: str
    worst: str  # of ours: the name in `values` of the one that decides
    beside: str  # whom it is judged by
    limit: str
    best_peer: str
    less: float | None  # than whom it is judged by: 0.99 is 99 % less, -1 twice as much
    less_than_rsync: float | None
    values: Mapping[str, tuple[float, str]]  # of everybody measured: the median, and how it is shown


NETWORK, SPACE, POWER = "network: 100 MB become 1 MB", "memory: 200 MB become 20 MB", "CPU: 40 % become 10 %"
LATENCY, WITHOUT_END = "latency: 100 ms become 25 ms", "5 to 25 MB/s, sustained"
POINTERS = "pointer operations at the speed of memory"
BUFFERS = "what is on the way: some 100 KB"
PROMISES = (
    Promise(NETWORK, NUMPY, WIRE, 0.99, OURS, PATCH),
    Promise(NETWORK, SCIPY, WIRE, 0.99, OURS, PATCH),
    Promise(NETWORK, PAGES, WIRE, 0.99, OURS, PATCH),
    Promise(NETWORK, DUMP, WIRE, 0.99, OURS, PATCH),
    Promise(SPACE, FIRST, MEMORY, 0.9, OURS, BUFFERS),
    Promise(SPACE, LARGE, MEMORY, 0.9, (SYNC_TLS, PUSH_TLS), BUFFERS),
    Promise(POWER, NUMPY, CPU, 0.75, OURS, "find, here"),
    Promise(POWER, SCIPY, CPU, 0.75, OURS, "find, here"),
    Promise(POWER, PAGES, CPU, 0.75, OURS, "find, here"),
    Promise(POWER, FIRST, CPU, 0.75, OURS, "cp -a, here"),
    Promise(LATENCY, latency.NAME, TIME, 0.75, (latency.WATCHING,), "half a round trip: 12.5 ms"),
    Promise(LATENCY, reads.PIECE, TIME, 0.75, (reads.BY_ADDRESS,), reads.MEMORY, reads.OPEN),
    Promise(f"{LATENCY}, by name", reads.PIECE, TIME, 0.75, (reads.BY_NAME,), reads.MEMORY, reads.OPEN),
    Promise(POINTERS, reads.WHOLE, PER_BYTE, -0.25, (reads.HELD,), reads.MEMORY, reads.MEMORY),
    Promise(f"{POINTERS}, checked", reads.WHOLE, PER_BYTE, -0.25, (reads.ASKED,), reads.MEMORY, reads.MEMORY),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a figure that was asked for could not be had."""
    options = options_of("promises", __doc__, arguments)
    rows_of = workloads(quick=options.quick, full=options.full)
    others = [*latency.subjects(), *reads.subjects()]
    return play_all(
        "promises", rows_of, report, options, subjects=others, more=lambda made: {"promises": recorded(made)}
    )


def workloads(*, quick: bool, full: bool) -> list[Case]:
    """What is moved. Every case is timed: CPU and memory vary from run to run."""
    known = {case.name: case for case in cases()}
    everyone = (*OURS, *PEERS, *MOVED_NOWHERE)

    def of(case: str, name: str, story: str = "") -> Case:
        changed = replace(known[case], name=name, goals=(), subjects=everyone, pair=False, timed=True)
        return replace(changed, story=story or changed.story)

    return [
        of("pair: wheel numpy", NUMPY),
        of("pair: wheel scipy", SCIPY),
        of("pair: database pages", PAGES),
        Case(
            DUMP,
            "the same database as pg_dump writes it, before and after pgbench",
            partial(database_dump, 0),
            partial(database_dump, 1),
            (),
            everyone,
            timed=True,
            missing=no_postgresql,
        ),
        of("first copy of the tree", FIRST),
        Case(
            LARGE,
            "one incompressible file of 10 GB, a first copy",
            None,
            ten_gigabytes,
            (),
            (SYNC_TLS, PUSH_TLS, PLAIN, "rsync -a"),
            full=True,
        ),
        latency.case(saves=5 if quick else 20),
        sustained.case(*((10, 1_908) if full else (4, 477))),  # 20 GB, or 2
        *reads.cases(),
    ]


def ten_gigabytes(place: Path) -> None:
    """Written anew each time: to keep it would take as much disk again."""
    dice = random.Random(SEED)
    with (place / "noise.bin").open("wb") as file:
        for _ in range(10_000_000_000 // MIB):
            file.write(dice.randbytes(MIB))


# What it says


def rows(runs: Sequence[Run]) -> list[Row]:
    """Every promise that something was measured for, in the order of the pitch."""
    found = [judged(promise, runs) for promise in PROMISES]
    found[-2:-2] = [endless(run) for run in runs if run.case == sustained.NAME]
    return [row for row in found if row.values]


def judged(promise: Promise, runs: Sequence[Run]) -> Row:
    """One promise. The worst of ours decides."""
    others = set(BOUNDS) - {promise.limit, promise.beside}  # bounds of other promises on the same runs
    taken = _taken(promise.figure, (r for r in runs if r.case == promise.case and r.subject not in others))
    values = {name: statistics.median(found) for name, found in taken.items()}
    ours = {name: values[name] for name in promise.ours if name in values}
    worst = max(ours, key=lambda name: ours[name], default=None)
    named = (promise.beside, RSYNC_Z, *BOUNDS)
    peers = {name: v for name, v in values.items() if name not in named and not name.startswith("packetfs")}
    best = min(peers, key=lambda name: peers[name], default=None)
    text = promise.figure.text
    decides = None if worst is None else ours[worst]
    share = _less(decides, values.get(promise.beside))
    return Row(
        pitch=promise.pitch,
        measured=f"{promise.case}: {promise.figure.title}",
        must=_must(promise),
        at_most=1 - promise.less,
        kept=None if share is None else share >= promise.less,
        rounds=min((len(found) for found in taken.values()), default=0),
        ours="; ".join(f"{name.partition(' ')[2]} {text(value)}" for name, value in ours.items()),
        worst=worst or "",
        beside=promise.beside,
        limit=f"{promise.limit} {text(values[promise.limit])}" if promise.limit in values else _words(promise.limit),
        best_peer="" if best is None else f"{best} {text(peers[best])}",
        less=share,
        less_than_rsync=_less(decides, values.get(RSYNC_Z)),
        values={name: (value, text(value)) for name, value in values.items()},
    )


def endless(run: Run) -> Row:
    """Whether a rate was kept up: no part too slow, the last third as fast as the first, and in as little memory."""
    part_bytes, walls_s, anon = (run.reading.notes[key] for key in ("part_bytes", "walls_s", "far_anon_bytes"))
    assert isinstance(part_bytes, int)
    assert isinstance(walls_s, list)
    assert isinstance(anon, list)
    rates = [part_bytes / wall_s for wall_s in walls_s]
    (first, last), (memory_first, memory_last) = sustained.thirds(rates), sustained.thirds(anon)
    kept = (
        min(rates) >= RATE_MIN
        and last >= sustained.DECAY_MIN * first
        and memory_last <= sustained.GROWTH_MAX * memory_first
    )
    each = f"slowest part {amount(min(rates))}/s, first third {amount(first)}/s, last {amount(last)}/s"
    return Row(
        pitch=WITHOUT_END,
        measured=f"{run.case}: {len(rates)} parts of {amount(part_bytes)}",
        must=f"at least {amount(RATE_MIN)}/s; last third >= {sustained.DECAY_MIN} x the first, "
        f"in <= {sustained.GROWTH_MAX} x its memory",
        at_most=None,
        kept=kept,
        rounds=1,
        ours=f"{each}; memory of the server {amount(memory_first)}, then {amount(memory_last)}",
        worst="",
        beside="",
        limit="the disk",
        best_peer="",
        less=None,
        less_than_rsync=None,
        values={
            f"{run.subject}, part {n}": (wall_s, f"{amount(r)}/s")
            for n, (wall_s, r) in enumerate(zip(walls_s, rates, strict=True), 1)
        },
    )


def report(measured: Measured) -> str:
    """The Markdown that stands for the run."""
    heads = (
        "promise",
        "measured",
        "packetfs",
        "the other",
        "rsync -az",
        "best of the rest",
        "bound",
        "less",
        "must be",
    )
    lines = [f"| {' | '.join(heads)} | |", "|---" * (len(heads) + 1) + "|"]
    lines += [_line(row) for row in rows(measured.runs)]
    lines += ["", "*The other* is whom the promise is judged by. *Less* is than that one and than `rsync -az`."]
    lines += ["", "What is moved:", ""]
    for case in measured.cases:
        if found := next((run for run in measured.runs if run.case == case.name), None):
            size = f"{found.source_files:,} file{'s'[: found.source_files != 1]}, {amount(found.source_bytes)}"
            lines.append(f"- {case.name}: {case.story} ({size}{'' if case.here else f'; {case.link}'})")
    return "\n".join([*lines, *who(measured)])


def recorded(measured: Measured) -> list[dict[str, object]]:
    """The rows as they are in the record."""
    return [asdict(row) for row in rows(measured.runs)]


def verdict(kept: bool | None) -> str:
    """As it is printed."""
    return "not judged" if kept is None else "kept" if kept else "NOT KEPT"


def _line(row: Row) -> str:
    def value(name: str) -> str:
        return row.values[name][1] if name in row.values else ""

    shares = [share for share in (row.less, row.less_than_rsync) if share is not None]
    cells = (
        row.pitch,
        f"{row.measured} ({row.rounds} round{'s'[: row.rounds != 1]})",
        row.ours or "not measured",
        f"{row.beside} {value(row.beside)}".strip(),
        value(RSYNC_Z),
        row.best_peer,
        row.limit,
        ", ".join(map(less, shares)),
        row.must,
        f"**{verdict(row.kept)}**",
    )
    return f"| {' | '.join(cells)} |"


def _must(promise: Promise) -> str:
    if promise.less > 0:
        return f"{less(promise.less)} than {promise.beside}"
    return f"at most {1 - promise.less:g} x {promise.beside}"


def _taken(figure: Figure, runs: Iterable[Run]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.subject, []).append(figure.of(run))
    return found


def _less(ours: float | None, other: float | None) -> float | None:
    """Which share of the other's figure ours does without."""
    return None if ours is None or not other else 1 - ours / other


def _words(limit: str) -> str:
    return "" if limit in BOUNDS else limit


if __name__ == "__main__":
    sys.exit(main())
