"""All figures of work between machines, by one command: every table after the other, and one record of the whole run.

    make bench-served                                 hours; root
    .venv/bin/python -m bench.served --quick          one round of everything, for development

It measures nothing itself. Each part is a command of this directory; one that is not there or fails is named, and the
others are run all the same. What was printed goes to bench/results as JSON and Markdown; nothing there is ever written
over. The parts that write their own single runs say where.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
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


@dataclass(frozen=True, slots=True)
class Printed:
    """What a part said, and how it ended."""

    title: str
    command: str
    exit_code: int | None  # None: it is not there
    seconds: float
    text: str


TLS_CASES = ("no-op over cold TLS", "90 files", "touch", "directory renamed", "first copy of the tree", "100 ms, no-op")
PARTS = (
    Part(
        "Push and pull, over TLS and over ssh",
        "bench.transfer",
        tuple(word for name in TLS_CASES for word in ("--case", name)),
        ("--quick",),
    ),
    Part("Sync", "bench.sync", quick=("--quick",)),
    Part("From a save to a snapshot", "bench.watch", quick=("--files", "1000", "--saves", "5")),
    Part("Replication lag under a write load", "bench.replicate"),
    Part("A server under load", "bench.load"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part, print, write; 1 if one is missing or did not give all of its figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.served", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="little of everything, for development")
    options = parser.parse_args(arguments)
    began = dt.datetime.now(dt.UTC)
    told = []
    for part in PARTS:
        told.append(run(part, quick=options.quick))
        print(section(told[-1]), flush=True)
        write(began, told)
    return 0 if all(one.exit_code == 0 for one in told) else 1


def run(part: Part, *, quick: bool) -> Printed:
    """Run one part; its progress goes to standard error as it comes."""
    command = [sys.executable, "-m", part.module, *part.arguments, *(part.quick if quick else ())]
    shown = " ".join(["python", *command[1:]])
    if importlib.util.find_spec(part.module) is None:
        return Printed(part.title, shown, None, 0.0, f"Not measured: there is no {part.module} yet.")
    say(f"== {part.title}: {shown}")
    began_s = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return Printed(part.title, shown, done.returncode, time.monotonic() - began_s, done.stdout.strip())


def section(one: Printed) -> str:
    """A part of the page."""
    ended = "" if not one.exit_code else f"\n\nIt ended with exit code {one.exit_code}: not every figure is there."
    return f"## {one.title}\n\n    {one.command}\n\n{one.text}{ended}\n"


def write(began: dt.datetime, told: Sequence[Printed]) -> None:
    """What there is so far: a run that is ended early leaves what it had."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"served-{began:%Y%m%dT%H%M%SZ}.json"
    record = {"taken": began.isoformat(), "machine": machine(), "parts": [asdict(one) for one in told]}
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(map(section, told)))


if __name__ == "__main__":
    sys.exit(main())
