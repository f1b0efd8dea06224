"""Many benchmarks by one command: every table after the other, one record of the whole run, and the page.

    make bench                                        some minutes: little of everything, beside whoever is installed
    make bench-full                                   under two hours: the full counts
    make bench-served                                 work between machines only; hours
    .venv/bin/python -m bench.all --list served --quick

It measures nothing itself. Each part is a command of this directory; one that needs root where there is none is left
out, one that is not there or fails is named, and the others are run all the same. What was printed goes to
bench/results as JSON and Markdown; nothing there is ever written over. The parts write their own single runs.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.compare import RESULTS, machine, say


@dataclass(frozen=True, slots=True)
class Part:
    """One command, and what it answers."""

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    root: bool = False  # all of it needs two machines, and they need root


@dataclass(frozen=True, slots=True)
class Printed:
    """What a part said, and how it ended."""

    title: str
    command: str
    exit_code: int | None  # None: it did not run
    seconds: float
    text: str
    excused: bool = False  # it did not run, and nothing is wrong


def _cases(*names: str) -> tuple[str, ...]:
    return tuple(word for name in names for word in ("--case", name))


PROMISES = "What was promised"
HERE = "On one machine"
GROWTH = "How cost grows"
PAGE = Part("The page", "bench.page")
LISTS = {
    "bench": (
        Part(PROMISES, "bench.promises", ("--quick",)),
        Part(HERE, "bench.compare", ("--runs", "1", "--workload", "large files", "--large-mib", "128", "--no-trace")),
        Part(
            "One directory made equal to another",
            "bench.sync",
            ("--quick", *_cases("no change: plain", "90 files: 50 ms", "touch: plain")),
            root=True,
        ),
        Part(
            GROWTH,
            "bench.growth",
            ("--quick", *_cases(*(f"bytes of data: {mib << 20:g}" for mib in (1, 16, 256)))),
            root=True,
        ),
        PAGE,
    ),
    "full": (
        Part(PROMISES, "bench.promises", ("--full",)),
        Part(HERE, "bench.compare"),
        Part("One directory made equal to another", "bench.sync", ("--runs", "1"), root=True),
        Part(GROWTH, "bench.growth", ("--runs", "1"), root=True),
        PAGE,
    ),
    "served": (
        Part(
            "Push and pull, over TLS and over ssh",
            "bench.transfer",
            _cases(
                "no-op over cold TLS",
                "90 files",
                "touch",
                "directory renamed",
                "first copy of the tree",
                "100 ms, no-op",
            ),
            ("--quick",),
            root=True,
        ),
        Part("Sync", "bench.sync", quick=("--quick",), root=True),
        Part("From a save to a snapshot", "bench.watch", quick=("--files", "1000", "--saves", "5")),
        Part("Replication lag under a write load", "bench.replicate"),
        Part("A server under load", "bench.load"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part, print, write; 1 if one is missing or did not give all of its figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--list", choices=LISTS, default="bench", help="which parts (default: bench)")
    parser.add_argument("--quick", action="store_true", help="little of everything, for development")
    options = parser.parse_args(arguments)
    began = dt.datetime.now(dt.UTC)
    told = []
    for part in LISTS[options.list]:
        told.append(run(part, quick=options.quick, is_root=os.geteuid() == 0))
        print(section(told[-1]), flush=True)
        write(options.list, began, told)
    return 0 if all(one.excused or one.exit_code == 0 for one in told) else 1


def run(part: Part, *, quick: bool, is_root: bool) -> Printed:
    """Run one part; its progress goes to standard error as it comes."""
    command = [sys.executable, "-m", part.module, *part.arguments, *(part.quick if quick else ())]
    shown = " ".join(["python", *command[1:]])
    if importlib.util.find_spec(part.module) is None:
        return Printed(part.title, shown, None, 0.0, f"Not measured: there is no {part.module} yet.")
    if part.root and not is_root:
        why = "Left out: it makes two network namespaces, and that needs root."
        return Printed(part.title, shown, None, 0.0, why, excused=True)
    say(f"== {part.title}: {shown}")
    began_s = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return Printed(part.title, shown, done.returncode, time.monotonic() - began_s, done.stdout.strip())


def section(one: Printed) -> str:
    """A part of the page."""
    ended = "" if not one.exit_code else f"\n\nIt ended with exit code {one.exit_code}: not every figure is there."
    return f"## {one.title}\n\n    {one.command}\n\n{one.text}{ended}\n"


def write(name: str, began: dt.datetime, told: Sequence[Printed]) -> None:
    """What there is so far: a run that is ended early leaves what it had."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{began:%Y%m%dT%H%M%SZ}.json"
    record = {"taken": began.isoformat(), "machine": machine(), "parts": [asdict(one) for one in told]}
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(map(section, told)))


if __name__ == "__main__":
    sys.exit(main())
