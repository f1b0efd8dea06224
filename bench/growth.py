"""How cost grows: with the size of the data, the number of files, the part of it that changed, the length of the way.

    .venv/bin/python -m bench.growth                                  everything (root; about an hour with five rounds)
    .venv/bin/python -m bench.growth --quick --case 'bytes of data'

The same two machines, meters and comparison as in bench/transfer.py. One thing grows in a curve and all else stays; a
case is called `curve: x`. Prints a table for each curve and writes every single run as JSON to bench/results, whence
bench/page.py draws the curves.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.cases import SEED, Case, Make
from bench.harness import Link
from bench.transfer import Figures, Measured, options_of, play_all, shown, who
from bench.workloads import MIB

SUBJECTS = ("packetfs sync", "packetfs push, TLS", "rsync -a", "rsync -az", "unison")
BLOCK_BYTES = 64 << 10
GROWN = 64 * MIB  # of the file in which a part changes
SIZES_MIB = (1, 4, 16, 64, 256, 1024)
FILES = (10, 100, 1_000, 10_000, 100_000)
PARTS_PER_1024 = (1, 8, 64, 256, 1024)
ROUND_TRIPS_MS = (2, 10, 50, 250)


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
    ]


def report(measured: Measured) -> str:
    """The Markdown that stands for the run: for each curve its points, by subject bytes and time."""
    figures = Figures(measured.runs)
    lines: list[str] = []
    for curve in dict.fromkeys(case.name.partition(": ")[0] for case in measured.cases):
        points = [case for case in measured.cases if case.name.partition(": ")[0] == curve]
        names = [
            name for name in SUBJECTS if any(figures.of(case.name, name, "wire_bytes") is not None for case in points)
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
