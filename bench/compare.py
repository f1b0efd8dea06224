"""PacketFS beside what people use today: push, push again, pull; medians in one run on one machine.

    .venv/bin/python -m bench.compare       everything, five rounds (about half an hour on two cores)
    .venv/bin/python -m bench.compare --runs 1 --large-mib 64 --only packetfs --only 'cp -a'

Each round of a subject begins with an empty store: cold push, push with nothing changed, push after 1 % changed, pull
into an empty directory; then what was pulled is compared with the source, exactly. Subjects take turns within a round,
so that a noisy minute of the machine strikes all of them. The source is in the page cache, for all of them. Prints a
Markdown table, every goal that was missed, and writes all single runs as JSON to bench/results.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import measure
from bench.packages import DATA
from bench.subjects import Find, PacketFS, Place, Step, Subject, everyone
from bench.trees import Size, differences, size
from bench.workloads import LargeFiles, SmallFiles, Workload

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One run of one step: what was measured, of whom, on what."""

    workload: str
    subject: str
    step: str
    round: int
    wall_s: float
    sync_s: float
    cpu_s: float
    rss_anon_bytes: int
    stored_bytes: int  # what the store takes on disk when the step ends


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that one workload showed."""

    workload: str
    story: str
    size: Size
    rows: tuple[Row, ...]
    syscalls: dict[str, dict[str, int]]  # subject -> step -> calls


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a peer was asked for and is not here."""
    options = _options(arguments)
    subjects = [s for s in everyone() if not options.only or s.name in options.only]
    absent = [s for s in subjects if s.missing()]
    for subject in absent:
        say(f"{subject.name} is not installed: apt-get install {subject.package}; it is left out")
    present = [s for s in subjects if not s.missing()]
    workloads: list[Workload] = [SmallFiles(), LargeFiles(mib=options.large_mib)]
    chosen = [w for w in workloads if not options.workload or w.name in options.workload]

    place = options.place.absolute()
    tables = [measure_workload(w, present, options.runs, place, trace=options.trace) for w in chosen]
    why = {subject.name: f"not installed: apt-get install {subject.package}" for subject in absent}
    print(report(tables, present, why, options.runs))
    write(tables, present, why, options.runs)
    return 1 if absent and options.only else 0


def measure_workload(workload: Workload, subjects: Sequence[Subject], runs: int, place: Path, *, trace: bool) -> Table:
    """All rounds of all subjects on one workload, then one traced round that counts system calls."""
    say(f"preparing: {workload.story}")
    source = workload.prepare(place)
    rows: list[Row] = []
    for number in range(runs):
        for subject in subjects:
            say(f"round {number + 1} of {runs}, {workload.name}, {subject.name}")
            rows.extend(one_round(workload, subject, source, place, number))
    calls = {}
    if trace and workload.traced and shutil.which("strace"):
        for subject in subjects:
            say(f"counting system calls, {workload.name}, {subject.name}")
            calls[subject.name] = one_traced_round(workload, subject, source, place)
    elif trace and workload.traced:
        say("strace is not installed: apt-get install strace; system calls are left out")
    return Table(workload.name, workload.story, size(source), tuple(rows), calls)


def one_round(workload: Workload, subject: Subject, source: Path, place: Path, number: int) -> list[Row]:
    """Every step of one subject, from an empty store to an exact comparison."""
    rows: list[Row] = []

    def act(step: Step, here: Place) -> None:
        measure.sync(place)  # what others left to be written is not this subject's cost
        cost = measure.run(subject.command(step, here), source.parent, place, subject.environment(here))
        stored = measure.disk_bytes(here.store)
        rows.append(Row(workload.name, subject.name, step, number, **asdict(cost), stored_bytes=stored))

    play(workload, subject, source, place, act)
    return rows


def one_traced_round(workload: Workload, subject: Subject, source: Path, place: Path) -> dict[str, int]:
    """The same steps under strace: their times mean nothing, their calls do."""
    calls: dict[str, int] = {}

    def act(step: Step, here: Place) -> None:
        counted = measure.syscalls(subject.command(step, here), source.parent, subject.environment(here))
        calls[step] = sum(counted.values())

    play(workload, subject, source, place, act)
    return calls


def play(workload: Workload, subject: Subject, source: Path, place: Path, act: Callable[[Step, Place], None]) -> None:
    """Walk a subject through its steps in order, change and restore the source around them, check what came back."""
    round_place = place / "round"
    shutil.rmtree(round_place, ignore_errors=True)
    round_place.mkdir(parents=True)
    here = Place(source, round_place / "store", round_place / "target", round_place / "cache")
    warm(source)
    subject.prepare(here)
    if Step.COLD in subject.steps:
        act(Step.COLD, here)
    if Step.UNCHANGED in subject.steps:
        act(Step.UNCHANGED, here)
    if subject.steps & {Step.CHANGED, Step.PULL}:
        changed = Step.CHANGED in subject.steps
        if changed:
            workload.change(source)
        try:
            if changed:
                act(Step.CHANGED, here)
            if Step.PULL in subject.steps:
                act(Step.PULL, here)
                if wrong := differences(source, subject.pulled(here)):
                    raise SystemExit("\n  ".join([f"{subject.name} did not bring back what it was given:", *wrong]))
        finally:
            if changed:
                workload.restore(source)
    shutil.rmtree(round_place)


def warm(source: Path) -> None:
    """Read the source once, so that every subject finds it in the page cache."""
    for directory, _, names in os.walk(source):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                with open(path, "rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass


def report(tables: Iterable[Table], subjects: Sequence[Subject], absent: Mapping[str, str], runs: int) -> str:
    """The Markdown that stands for the run: a table for each workload, the promises, the goals missed."""
    tables = list(tables)
    lines = ["Wall seconds, medians; details below.", "", *summary(tables, subjects)]
    for table in tables:
        per = "median" if runs > 1 else "one run"
        lines += [
            "",
            f"### {table.workload}: {table.size.files:,} files, {table.size.bytes / 1e6:,.0f} MB ({per}"
            + (f" of {runs})" if runs > 1 else ")"),
            "",
            f"{table.story[0].upper()}{table.story[1:]}. Source in the page cache; every step ends with syncfs.",
            "",
            "| step | subject | wall s | min-max | sync s | CPU s | peak RssAnon MiB | store MB | calls per file |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for step in Step:
            for subject in subjects:
                if _of(table, subject.name, step):
                    lines.append(_line(table, subject.name, step))
        lines += ["", *(f"- {line}" for line in goals(table, subjects))]
    lines += ["", "What each does:", *(f"- {s.name} ({s.version()}): {s.promise}" for s in subjects)]
    lines += [f"- {name}: not measured, {why}" for name, why in absent.items()]
    return "\n".join(lines)


def summary(tables: Sequence[Table], subjects: Sequence[Subject]) -> list[str]:
    """One line a step, one column a subject: what the front page shows."""
    names = [subject.name for subject in subjects]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for table in tables:
        for step in Step:
            walls = [f"{_median(table, name, step):.2f}" if _of(table, name, step) else "" for name in names]
            lines.append(f"| {table.workload}, {step} | {' | '.join(walls)} |")
    return lines


def goals(table: Table, subjects: Sequence[Subject]) -> list[str]:
    """Each goal of this comparison with its ratio: met or LOST."""
    ours = PacketFS.name
    peers = [s.name for s in subjects if s.name.startswith(("restic", "borg"))]
    lines = []
    for step, factor in ((Step.COLD, 3.0), (Step.PULL, 1.0)):
        times = [(_median(table, peer, step), peer) for peer in peers if _of(table, peer, step)]
        if times and _of(table, ours, step):
            fastest, peer = min(times)
            ratio = fastest / _median(table, ours, step)
            lines.append(f"{step}: {ratio:.1f} x as fast as {peer}, goal >= {factor:g} x: {_verdict(ratio >= factor)}")
    if _of(table, Find.name, Step.UNCHANGED) and _of(table, ours, Step.UNCHANGED):
        ratio = _median(table, ours, Step.UNCHANGED) / _median(table, Find.name, Step.UNCHANGED)
        goal = "goal < 1.5 x" if table.workload == SmallFiles().name else "no goal for so few files"
        lines.append(
            f"unchanged: {ratio:.2f} x the time of find -ls, {goal}"
            + (f": {_verdict(ratio < 1.5)}" if table.workload == SmallFiles().name else "")
        )
    return lines


def write(tables: Sequence[Table], subjects: Sequence[Subject], absent: Mapping[str, str], runs: int) -> None:
    """Every single run and the table, to bench/results."""
    RESULTS.mkdir(exist_ok=True)
    taken = dt.datetime.now(dt.UTC)
    path = RESULTS / f"compare-{taken:%Y%m%dT%H%M%SZ}.json"
    record = {
        "taken": taken.isoformat(),
        "machine": machine(),
        "subjects": {s.name: {"version": s.version(), "promise": s.promise} for s in subjects},
        "absent": dict(absent),
        "runs": runs,
        "tables": [asdict(table) for table in tables],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(report(tables, subjects, absent, runs) + "\n")
    say(f"written: {path} and .md")


def machine() -> dict[str, object]:
    """What a reader needs to compare this machine with another."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": pages,
        "kernel": platform.release(),
        "commit": _commit(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def _commit() -> str:
    """Which state of this project is measured; empty outside a checkout, with a + if something differs from it."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git here
        return ""


def say(line: str) -> None:
    """Progress, for the person who waits."""
    print(line, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="rounds; medians are taken over them (default 5)")
    parser.add_argument("--large-mib", type=int, default=1024, help="size of the large files together (default 1024)")
    parser.add_argument("--only", action="append", metavar="SUBJECT", help="measure this subject only; repeatable")
    parser.add_argument("--workload", action="append", help="'small files' or 'large files'; repeatable")
    parser.add_argument("--place", type=Path, default=DATA / "compare", help="where the bytes are moved (12 GB free)")
    parser.add_argument("--no-trace", dest="trace", action="store_false", help="leave out the counting of system calls")
    return parser.parse_args(arguments)


def _of(table: Table, subject: str, step: Step) -> list[Row]:
    return [row for row in table.rows if row.subject == subject and row.step == step]


def _median(table: Table, subject: str, step: Step) -> float:
    return statistics.median(row.wall_s for row in _of(table, subject, step))


def _line(table: Table, subject: str, step: Step) -> str:
    rows = _of(table, subject, step)
    walls = [row.wall_s for row in rows]
    calls = table.syscalls.get(subject, {}).get(step)
    cells = (
        step,
        subject,
        f"{statistics.median(walls):.2f}",
        f"{min(walls):.2f}-{max(walls):.2f}",
        f"{statistics.median(row.sync_s for row in rows):.2f}",
        f"{statistics.median(row.cpu_s for row in rows):.2f}",
        f"{statistics.median(row.rss_anon_bytes for row in rows) / 2**20:.0f}",
        f"{statistics.median(row.stored_bytes for row in rows) / 1e6:,.0f}",
        "" if calls is None else f"{calls / table.size.files:,.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _verdict(met: bool) -> str:
    return "met" if met else "**LOST**"


if __name__ == "__main__":
    sys.exit(main())
