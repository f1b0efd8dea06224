"""How cost grows: with the size of the data, the number of files, the part that changed, the way, the clients.

    .venv/bin/python -m bench.growth                                  everything (root; about an hour with five rounds)
    .venv/bin/python -m bench.growth --quick --case 'bytes of data'

The same two machines, meters and comparison as in bench/transfer.py. One thing grows in a curve and all else stays; a
case is called `curve: x`. Clients that pull at once are processes of the near machine, each with a key, a replica and a
target of its own. Prints a table for each curve and writes every single run as JSON to bench/results, whence
bench/page.py draws the curves.
"""

from __future__ import annotations

import random
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.cases import PULL_TLS, SEED, Case, Make
from bench.harness import NEW_DAY_NS, Link, Machines, Scene, Subject, check, made, staged
from bench.movers.packetfs_tls import PullOverTLS
from bench.movers.rsync import RsyncPull
from bench.transfer import Figures, Measured, Run, options_of, play_all, shown, who
from bench.trees import size
from bench.workloads import MIB

SUBJECTS = ("packetfs sync", "packetfs push, TLS", "rsync -a", "rsync -az", "unison")
PULLING = (PULL_TLS, "rsync -a, pulled")
BLOCK_BYTES = 64 << 10
GROWN = 64 * MIB  # of the file in which a part changes
SIZES_MIB = (1, 4, 16, 64, 256, 1024)
FILES = (10, 100, 1_000, 10_000, 100_000)
PARTS_PER_1024 = (1, 8, 64, 256, 1024)
ROUND_TRIPS_MS = (2, 10, 50, 250)
CLIENTS = (1, 2, 4, 8, 16)
PULLED = 16 * MIB  # by each of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a figure that was asked for could not be had."""
    return play_all("growth", rows(), report, options_of("growth", __doc__, arguments))


def rows() -> list[Case]:
    """Every point of every curve. The story of a case is what its x counts."""

    def point(curve: str, x: float, what: str, old: Make, new: Make, link: Link | None = None) -> Case:
        return Case(f"{curve}: {x:g}", what, old, new, (), SUBJECTS, link=link or Link(), timed=True)

    thousand = partial(_files, 1_000)
    return [
        *(
            point(
                "bytes of data",
                mib * MIB,
                "bytes of one incompressible file, 16 of them overwritten in each of 10 places",
                partial(_noise, mib * MIB),
                partial(_overwrite, 10),
            )
            for mib in SIZES_MIB
        ),
        *(
            point(
                "number of files",
                count,
                "files of 4,000 bytes in directories of 1,000, one of them changed",
                partial(_files, count),
                _change_one,
            )
            for count in FILES
        ),
        *(
            point(
                "part that changed",
                part / 1024,
                "part of the 64 KiB blocks of a 64 MiB file that is new",
                partial(_noise, GROWN),
                partial(_replace, part),
            )
            for part in PARTS_PER_1024
        ),
        *(
            point(
                "length of the way",
                milliseconds,
                "milliseconds of round trip; one of 1,000 files of 4,000 bytes changed",
                thousand,
                _change_one,
                Link(round_trip_ms=milliseconds),
            )
            for milliseconds in ROUND_TRIPS_MS
        ),
        *(
            Case(
                f"clients at once: {clients}",
                "clients that pull the same incompressible file of 16 MiB from one server at once, a first copy each",
                None,
                partial(_noise, PULLED),
                (),
                PULLING,
                timed=True,
                by=partial(_pulled_by, clients),
            )
            for clients in CLIENTS
        ),
    ]


def report(measured: Measured) -> str:
    """The Markdown that stands for the run: for each curve its points, by subject bytes and time."""
    figures = Figures(measured.runs)
    lines: list[str] = []
    for curve in dict.fromkeys(case.name.partition(": ")[0] for case in measured.cases):
        points = [case for case in measured.cases if case.name.partition(": ")[0] == curve]
        names = [
            name
            for name in points[0].subjects
            if any(figures.of(case.name, name, "wire_bytes") is not None for case in points)
        ]
        lines += [
            f"**{curve}**: {points[0].story}",
            "",
            f"| {curve} | {' | '.join(names)} |",
            "|--:" * (len(names) + 1) + "|",
        ]
        for case in points:
            cells = [_cell(figures, case.name, name) for name in names]
            lines.append(f"| {float(case.name.partition(': ')[2]):,g} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *who(measured)])


def _cell(figures: Figures, case: str, name: str) -> str:
    wire, wall = figures.of(case, name, "wire_bytes"), figures.of(case, name, "wall_s")
    return "" if wire is None or wall is None else f"{shown('bytes', wire)}, {wall:.2f} s"


def _pulled_by(clients: int, machines: Machines, case: Case, subject: Subject, place: Path, number: int) -> Run:
    """One run: so many clients begin at the same time, and the reading is of all until the last has ended."""
    assert isinstance(subject, PullOverTLS | RsyncPull)
    with staged(machines, subject, place / "round", case.link) as scene:
        made(scene.source, case.new, NEW_DAY_NS)
        moved = size(scene.source)
        subject.offer(scene)
        scenes = [replace(scene, near=scene.near / f"client-{client}") for client in range(clients)]
        for one in scenes:
            one.near.mkdir()
            subject.join(one)
        commands = [["env", *_settings(subject, one), *subject.command(one)] for one in scenes]
        reading = machines.run(["sh", "-c", at_once(commands)], scene.far)
        subject.clean(scene)
        for one in scenes:
            check(subject, one)
    return Run(case.name, subject.name, number, moved.bytes, moved.files, reading)


def at_once(commands: Sequence[Sequence[str | Path]]) -> str:
    """A script that runs them all at the same time, and fails if one of them does."""
    started = [f'{shlex.join(map(str, command))} & all="$all $!"' for command in commands]
    return "\n".join([*started, "for one in $all; do wait $one || failed=1; done", "exit ${failed:-0}"])


def _settings(subject: PullOverTLS | RsyncPull, scene: Scene) -> list[str]:
    return [f"{name}={value}" for name, value in subject.environment(scene).items()]


def _noise(count: int, place: Path) -> None:
    dice = random.Random(SEED)
    with (place / "noise.bin").open("wb") as file:
        for _ in range(count // MIB):
            file.write(dice.randbytes(MIB))


def _overwrite(places: int, place: Path) -> None:
    path = place / "noise.bin"
    dice = random.Random(SEED + 1)
    with path.open("r+b") as file:
        for _ in range(places):
            file.seek(dice.randrange(path.stat().st_size - 16))
            file.write(dice.randbytes(16))


def _replace(part: int, place: Path) -> None:
    dice = random.Random(SEED + 2)
    blocks = GROWN // BLOCK_BYTES
    with (place / "noise.bin").open("r+b") as file:
        for block in dice.sample(range(blocks), blocks * part // 1024):
            file.seek(block * BLOCK_BYTES)
            file.write(dice.randbytes(BLOCK_BYTES))


def _files(count: int, place: Path) -> None:
    dice = random.Random(SEED)
    for number in range(count):
        path = place / f"{number // 1000:03d}" / f"{number % 1000:03d}.dat"
        if number % 1000 == 0:
            path.parent.mkdir()
        path.write_bytes(dice.randbytes(4_000))


def _change_one(place: Path) -> None:
    path = place / "000" / "005.dat"
    path.write_bytes(random.Random(SEED + 3).randbytes(4_000))


if __name__ == "__main__":
    sys.exit(main())
