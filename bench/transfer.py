"""PacketFS beside what people use today, from one machine to another: bytes, round trips, time, CPU, memory.

    .venv/bin/python -m bench.transfer                            every row (root, some 10 GB of free disk)
    .venv/bin/python -m bench.transfer --case no-op --only 'rsync -a' --quick

Each row begins with both sides in the same state, or with nothing for a first copy; then the change, then the measured
run, then what arrived is compared with the source, exactly. Prints a Markdown table of every goal with what must be,
what PacketFS took, what the peers took and the verdict, and writes every single run as JSON to bench/results.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import datetime as dt
import json
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

import packetfs
from bench.cases import PATCH, SSH, Case, Goal, cases
from bench.compare import RESULTS, machine, say
from bench.harness import (
    HarnessError,
    Machines,
    Reading,
    Subject,
    WrongCopyError,
    counted_round_trips,
    impossible,
    play,
)
from bench.measure import CommandFailedError
from bench.movers import everyone
from bench.packages import DATA
from bench.trees import Size, size

OURS = "packetfs"
COLD = ("packetfs push", "packetfs pull")  # who opens a connection of its own
PAIR_MEDIAN = 0.9
FIGURES = ("sent_bytes", "received_bytes", "round_trips", "wall_s", "cpu_s", "near_anon_bytes", "far_anon_bytes")

Failures = dict[str, dict[str, str]]  # case -> subject -> why there is no figure


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run."""

    case: str
    subject: str
    round: int
    source_bytes: int
    source_files: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal of one case, judged. `met` is None if PacketFS was not measured, or who it is compared with."""

    case: str
    must: str
    ours: str
    peers: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a report is made of: the cases that were asked for, who was to be measured, and what there is of it."""

    cases: Sequence[Case]
    subjects: Sequence[Subject]
    absent: Mapping[str, str] = field(default_factory=dict)  # subject -> why it is not here
    left_out: Mapping[str, str] = field(default_factory=dict)  # case -> why it cannot be played here
    runs: list[Run] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)

    @property
    def present(self) -> list[Subject]:
        """Who can be measured here."""
        return [subject for subject in self.subjects if subject.name not in self.absent]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a figure that was asked for could not be had."""
    return play_all("transfer", cases(), report, options_of("transfer", __doc__, arguments))


def play_all(
    name: str,
    rows: Sequence[Case],
    report: Callable[[Measured], str],
    options: argparse.Namespace,
    *,
    subjects: Sequence[Subject] = (),
    more: Callable[[Measured], Mapping[str, object]] = lambda _: {},
) -> int:
    """Measure those of `rows` that were asked for, print what `report` makes of it, write it; the exit code.

    `subjects` are there besides the movers; what `more` makes of the result is in the record as well. Cases that need
    two machines are left out, and that is said, where there can be none; so are those whose data cannot be made here.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    known = {name for case in rows for name in (case.name, case.name.partition(":")[0])}
    if unknown := set(options.case or ()) - known:
        say(f"no case is called {'; '.join(sorted(unknown))}; there are: {'; '.join(case.name for case in rows)}")
        return 1
    chosen = [
        case
        for case in rows
        if (options.full or not case.full or case.name in (options.case or ()))
        and (not options.case or any(name in (case.name, case.name.partition(":")[0]) for name in options.case))
    ]
    without = left_out(chosen)
    for case, why in without.items():
        say(f"{case} is left out: {why}")
    chosen = [case for case in chosen if case.name not in without]
    if not chosen:
        return 1
    named = {subject for case in chosen for subject in case.subjects}
    asked = [s for s in (*everyone(), *subjects) if s.name in (options.only or named)]
    measured = Measured(chosen, asked, {s.name: why for s in asked if (why := s.missing())}, without)
    for subject, why in measured.absent.items():
        say(f"{subject}: {why}; it is left out")

    # As an installed package is: where nobody may write them, Python makes its modules anew at every start.
    compileall.compile_dir(packetfs.__path__[0], quiet=2)
    code = 0
    try:
        _measure(measured, options)
    except SystemExit as end:
        say("ended early; what was measured until then:")
        code = int(end.code or 1)
    table = report(measured)
    print(table)
    write(name, measured, table, more(measured))
    return code or (1 if measured.failures or (measured.absent and options.only) else 0)


def left_out(chosen: Sequence[Case]) -> dict[str, str]:
    """The cases that cannot be played here, and why."""
    nowhere = impossible()
    return {case.name: why for case in chosen if (why := (not case.here and nowhere) or case.missing())}


def _measure(measured: Measured, options: argparse.Namespace) -> None:
    """All runs of the chosen cases; each is in `runs` or its failure in `failures` once it has ended."""
    runs, failures = measured.runs, measured.failures
    away = any(not case.here for case in measured.cases)
    with Machines() if away else contextlib.nullcontext() as machines:
        for case in measured.cases:
            rounds = options.runs if case.timed and not options.quick else 1
            for number in range(rounds):
                for subject in measured.present:
                    if subject.name not in case.subjects or subject.name in failures.get(case.name, {}):
                        continue
                    say(f"{case.name}, {subject.name}" + (f", round {number + 1} of {rounds}" if rounds > 1 else ""))
                    try:
                        play_one = case.by or measure_case
                        runs.append(play_one(machines, case, subject, options.place.absolute(), number))
                    except (CommandFailedError, HarnessError, WrongCopyError) as error:
                        say(f"  no figure: {error}")
                        failures.setdefault(case.name, {})[subject.name] = str(error)
            for verdict in judge([case], runs):
                say(f"  {verdict.must}: {verdict.ours or 'not measured'} | {verdict.peers}")


def measure_case(machines: Machines | None, case: Case, subject: Subject, place: Path, number: int) -> Run:
    """One run of one subject; a second one at a long round trip, if the case counts round trips by time."""
    assert machines is not None
    seen = Size(0, 0)

    def new(source: Path) -> None:
        nonlocal seen
        case.new(source)
        seen = size(source)

    here = place / "round"
    kill_at = case.killed_at or None
    reading = play(machines, subject, here, case.link, case.old, new, kill_at=kill_at)
    if case.probe_ms:
        slow = play(machines, subject, here, replace(case.link, round_trip_ms=case.probe_ms), case.old, new)
        reading = counted_round_trips(reading, slow, case.probe_ms)
    return Run(case.name, subject.name, number, seen.bytes, seen.files, reading)


def judge(chosen: Sequence[Case], runs: Sequence[Run]) -> list[Verdict]:
    """Every goal of these cases, with what decided it."""
    figures = Figures(runs)
    verdicts = [_judged(case, goal, figures) for case in chosen for goal in case.goals]
    pairs = [case for case in chosen if case.pair]
    if len(pairs) > 1:
        verdicts.append(_pair_median(pairs, figures))
    return verdicts


class Figures:
    """Medians over rounds, by case, subject and figure."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def of(self, case: str, subject: str, figure: str) -> float | None:
        """The median, or None if nothing was measured."""
        values = [
            value
            for run in self._runs
            if (run.case, run.subject) == (case, subject) and (value := getattr(run.reading, figure)) is not None
        ]
        return statistics.median(values) if values else None

    def source_bytes(self, case: str) -> int | None:
        """How much there was to bring."""
        return next((run.source_bytes for run in self._runs if run.case == case), None)

    def net(self, case: str, subject: str, goal: Goal) -> float | None:
        """The figure after taking off what the goal says is not the subject's."""
        value = self.of(case, subject, goal.figure)
        if value is None:
            return None
        base: float | None = 0.0
        if goal.over:
            base = self.of(goal.over, subject, goal.figure)
        elif goal.net_of_ssh and subject in COLD:
            base = self.of(case, SSH, goal.figure)
        return None if base is None else value - base


def _judged(case: Case, goal: Goal, figures: Figures) -> Verdict:
    ours = {name: value for name in goal.ours if (value := figures.net(case.name, name, goal)) is not None}
    peers = {
        name: value
        for name in case.subjects
        if name not in goal.ours
        and not name.startswith(OURS)
        and (value := figures.of(case.name, name, goal.figure)) is not None
    }
    limit: float | None = goal.at_most
    what = ""
    if goal.beside:
        beside = [peers[name] for name in goal.beside if name in peers]
        limit = goal.at_most * min(beside) if beside else None
        what = f"{goal.at_most:g} x {' or '.join(goal.beside)}"
    elif goal.of_source:
        whole = figures.source_bytes(case.name)
        limit = goal.at_most * whole if whole is not None else None
        what = f"{goal.at_most:g} x the source"
    shown_limit = "" if limit is None else shown(goal.figure, limit)
    must = f"{_word(goal.figure)} <= {f'{what} = {shown_limit}' if what else shown_limit}"
    if goal.over:
        must += f" over {goal.over}"
    if goal.net_of_ssh:
        must += " net of ssh"
    return Verdict(
        case.name,
        must,
        ", ".join(f"{name.removeprefix(OURS + ' ')} {shown(goal.figure, value)}" for name, value in ours.items()),
        ", ".join(f"{name} {shown(goal.figure, value)}" for name, value in peers.items()),
        None if limit is None or not ours else max(ours.values()) <= limit,
    )


def _pair_median(pairs: Sequence[Case], figures: Figures) -> Verdict:
    """All version pairs together: how the subjects' bytes relate to the patch of the whole, in the median."""

    def ratios(subject: str) -> list[float]:
        found = []
        for case in pairs:
            value = figures.net(case.name, subject, case.goals[0])
            bound = figures.of(case.name, PATCH, "wire_bytes")
            if value is not None and bound:
                found.append(value / bound)
        return found

    names = dict.fromkeys(name for case in pairs for name in case.subjects if name not in (SSH, PATCH))
    medians = {name: statistics.median(found) for name in names if (found := ratios(name))}
    ours = {name: value for name, value in medians.items() if name.startswith(OURS)}
    return Verdict(
        f"{len(pairs)} pairs",
        f"median <= {PAIR_MEDIAN} x {PATCH}",
        ", ".join(f"{name.removeprefix(OURS + ' ')} {value:.2f} x" for name, value in ours.items()),
        ", ".join(f"{name} {value:.2f} x" for name, value in medians.items() if name not in ours),
        max(ours.values()) <= PAIR_MEDIAN if ours else None,
    )


def report(measured: Measured) -> str:
    """The Markdown that stands for the run."""
    chosen, runs = measured.cases, measured.runs
    lines = ["| case | must be | packetfs | peers | verdict |", "|---|---|---|---|---|"]
    lines += [
        f"| {v.case} | {v.must} | {v.ours or 'not measured'} | {v.peers} | {_verdict(v.met)} |"
        for v in judge(chosen, runs)
    ]
    lines += [
        "",
        "| case | subject | sent | received | round trips | wall s | CPU s near + far | anon MiB near / far |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in chosen:
        for name in case.subjects:
            if any((run.case, run.subject) == (case.name, name) for run in runs):
                lines.append(_line(case.name, name, Figures(runs)))
    lines += ["", "What the cases are:", ""]
    for case in chosen:
        found = next((run for run in runs if run.case == case.name), None)
        moved = f" ({found.source_files:,} files, {found.source_bytes / 1e6:,.1f} MB; {case.link})" if found else ""
        lines.append(f"- {case.name}: {case.story}{moved}")
    return "\n".join([*lines, *who(measured)])


def who(measured: Measured) -> list[str]:
    """The end of a report: what each subject is, who was not measured, and why."""
    lines = ["", "What each does:", ""]
    lines += [f"- {s.name} ({s.version()}): {s.promise}" for s in measured.present]
    lines += [f"- {name}: not measured, {why}" for name, why in {**measured.absent, **measured.left_out}.items()]
    lines += [
        f"- {case}, {name}: no figure, {why.splitlines()[0]}"
        for case, by in measured.failures.items()
        for name, why in by.items()
    ]
    return lines


def write(name: str, measured: Measured, table: str, more: Mapping[str, object]) -> None:
    """Every single run and the table, to bench/results."""
    RESULTS.mkdir(exist_ok=True)
    taken = dt.datetime.now(dt.UTC)
    path = RESULTS / f"{name}-{taken:%Y%m%dT%H%M%SZ}.json"
    record = {
        "taken": taken.isoformat(),
        "machine": machine(),
        "subjects": {s.name: {"version": s.version(), "promise": s.promise} for s in measured.present},
        "absent": {**measured.absent, **measured.left_out},
        "failures": measured.failures,
        "cases": {c.name: {"story": c.story, "link": "" if c.here else str(c.link)} for c in measured.cases},
        "medians": medians(measured.cases, measured.runs),
        "verdicts": [asdict(verdict) for verdict in judge(measured.cases, measured.runs)],
        "runs": [asdict(run) for run in measured.runs],
        **more,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(table + "\n")
    say(f"written: {path} and .md")


def medians(chosen: Sequence[Case], runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Case -> subject -> figure -> the median of its rounds, and how many there were."""
    figures = Figures(runs)
    return {
        case.name: {
            name: {"rounds": len(taken)} | {figure: figures.of(case.name, name, figure) for figure in FIGURES}
            for name in case.subjects
            if (taken := [run for run in runs if (run.case, run.subject) == (case.name, name)])
        }
        for case in chosen
    }


def shown(figure: str, value: float) -> str:
    """A figure with its unit, short enough for a cell, exact where it is small."""
    if figure.endswith("_s"):
        return f"{value:.2f} s"
    if figure == "round_trips":
        return f"{value:.1f}"
    if abs(value) < 10_000:
        return f"{value:,.0f} B"
    return f"{value / 1e3:,.1f} KB" if abs(value) < 1e6 else f"{value / 1e6:,.2f} MB"


def _line(case: str, subject: str, figures: Figures) -> str:
    def of(figure: str) -> float:
        return figures.of(case, subject, figure) or 0.0

    trips = figures.of(case, subject, "round_trips")
    cells = (
        case,
        subject,
        shown("bytes", of("sent_bytes")),
        shown("bytes", of("received_bytes")),
        "" if trips is None else f"{trips:.1f}",
        f"{of('wall_s'):.2f}",
        f"{of('near_cpu_s'):.2f} + {of('far_cpu_s'):.2f}",
        f"{of('near_anon_bytes') / 2**20:.0f} / {of('far_anon_bytes') / 2**20:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _word(figure: str) -> str:
    words = {"wire_bytes": "bytes both ways", "sent_bytes": "bytes sent", "wall_s": "wall", "cpu_s": "CPU of both"}
    return words.get(figure, {"anon_bytes": "anonymous memory of a side"}.get(figure, figure.replace("_", " ")))


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "**LOST**"


def _end(number: int, _: FrameType | None) -> None:
    # So that the machines are taken down on the way out, and what was measured is told.
    raise SystemExit(128 + number)


def options_of(name: str, doc: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for on the command line of the module `name`."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="rounds where time or CPU counts (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round of everything, for development")
    parser.add_argument(
        "--case", action="append", metavar="NAME", help="this row only ('pair' is all pairs); repeatable"
    )
    parser.add_argument("--only", action="append", metavar="SUBJECT", help="measure this subject only; repeatable")
    parser.add_argument("--full", action="store_true", help="the rows of 4 GiB and of a million files as well")
    parser.add_argument("--place", type=Path, default=DATA / "transfer", help="where the bytes are moved")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
