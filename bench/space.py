"""What giving space back takes: `packetfs forget` and `gc` beside `restic forget --prune`, `borg prune` and `compact`.

    .venv/bin/python -m bench.space                          # ten snapshots of 50,000 files; some 3 GB of free disk
    .venv/bin/python -m bench.space --files 2000 --runs 1

Ten snapshots are made, unmeasured, each after every 25th file got new content; then all but the newest are let go. Each
command is followed by a `syncfs` inside its time. A peer that is missing is named and left out. Nothing is compared
but time, CPU and what the store takes on disk before and after; that what is left is whole is for `verify` to say.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import measure

SNAPSHOTS = 10
EACH = 25  # every 25th file changes between two snapshots
BINARY = Path(sys.executable).with_name("packetfs")


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured command of one subject, over all runs."""

    subject: str
    step: str
    wall_s: float
    cpu_s: float
    before_bytes: int
    after_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.space", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--place", type=Path, help="where there is room; default: a temporary directory")
    options = parser.parse_args(arguments)
    rows: dict[tuple[str, str], list[Measured]] = {}
    with tempfile.TemporaryDirectory(dir=options.place, prefix="packetfs-space-") as directory:
        for number in range(options.runs):
            for row in one_run(Path(directory) / str(number), options.files):
                rows.setdefault((row.subject, row.step), []).append(row)
            shutil.rmtree(Path(directory) / str(number))
    print(f"{SNAPSHOTS} snapshots of {options.files:,} files, median of {options.runs} runs, {os.cpu_count()} cores\n")
    print("| subject | step | wall | CPU | store before | after |\n|---|---|--:|--:|--:|--:|")
    for (subject, step), runs in rows.items():
        wall_s, cpu_s = (statistics.median(getattr(run, field) for run in runs) for field in ("wall_s", "cpu_s"))
        sizes = f"{runs[-1].before_bytes / 1e6:,.0f} MB | {runs[-1].after_bytes / 1e6:,.0f} MB"
        print(f"| {subject} | {step} | {wall_s:.2f} s | {cpu_s:.2f} s | {sizes} |")
    return 0


def one_run(place: Path, files: int) -> Iterator[Measured]:
    """Every subject once, all from the same states of one source."""
    source, home = place / "source", place / "home"
    home.mkdir(parents=True)
    environment = {"HOME": str(home), "RESTIC_PASSWORD": "x", "BORG_BASE_DIR": str(home)}
    stores = {name: place / name for name in ("packetfs", "restic", "borg")}
    present = [name for name in stores if name == "packetfs" or shutil.which(name)]
    if missing := stores.keys() - present:
        print(f"not here: {', '.join(sorted(missing))}", file=sys.stderr)
    make: dict[str, list[str | Path]] = {
        "packetfs": [BINARY, "init", stores["packetfs"]],
        "restic": ["restic", "init", "--repo", stores["restic"], "--repository-version", "2"],
        "borg": ["borg", "init", "--encryption", "none", stores["borg"]],
    }
    for name in present:
        measure.run(make[name], place, place, environment)
    for number in range(SNAPSHOTS):
        write(source, files, number)
        store: dict[str, list[str | Path]] = {
            "packetfs": [BINARY, "push", source, f"{stores['packetfs']}::main"],
            "restic": ["restic", "backup", "--repo", stores["restic"], "--compression", "off", source],
            "borg": ["borg", "create", "--compression", "none", f"{stores['borg']}::{number}", source],
        }
        for name in present:
            measure.run(store[name], place, place, environment)
    collect: list[str | Path] = [BINARY, "gc", "--grace", "0", stores["packetfs"]]
    steps: list[tuple[str, str, list[str | Path]]] = [
        ("packetfs", "gc, all are kept", collect),
        ("packetfs", "forget", [BINARY, "forget", "--keep-last", "1", f"{stores['packetfs']}::main"]),
        ("packetfs", "gc", collect),
        ("packetfs", "verify", [BINARY, "verify", stores["packetfs"]]),
        ("restic", "forget --prune", ["restic", "forget", "--repo", stores["restic"], "--keep-last", "1", "--prune"]),
        ("borg", "prune", ["borg", "prune", "--keep-last", "1", stores["borg"]]),
        ("borg", "compact", ["borg", "compact", stores["borg"]]),
    ]
    for name, step, command in steps:
        if name not in present:
            continue
        before = on_disk(stores[name])
        cost = measure.run(command, place, place, environment)
        yield Measured(name, step, cost.wall_s, cost.cpu_s, before, on_disk(stores[name]))


def write(source: Path, files: int, number: int) -> None:
    """The source as of snapshot `number`: the first time all files, then every 25th, other ones each time."""
    for index in range(files) if number == 0 else range(number, files, EACH):
        dice = random.Random(f"{number}.{index}")
        path = source / f"d{index % 97:02}" / f"e{index % 23:02}" / f"f{index:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(int(dice.paretovariate(1.2) * 1500) % 100_000))


def on_disk(directory: Path) -> int:
    """What the files of a store take."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


if __name__ == "__main__":
    raise SystemExit(main())
