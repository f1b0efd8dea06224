"""What patterns and extended attributes add to a push: `packetfs push` with and without, beside rsync and restic.

    .venv/bin/python -m bench.selection                 # 50,000 files, medians of five
    .venv/bin/python -m bench.selection --files 2000 --runs 1

Two sources hold the same files; in one of them every file has two extended attributes of 40 bytes together. The twenty
patterns match nothing, so that each run stores the same and each pattern is tried on every path. *First* is into a new
store, *unchanged* the same once more. Each command is followed by a `syncfs` inside its time; the page cache is warm.
Variants take turns within a round. A peer that is missing is named and left out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import measure

BINARY = Path(sys.executable).with_name("packetfs")
PATTERNS = [f"*.{number}o" for number in range(10)] + [f"/none/{number}/**/x" for number in range(10)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.selection", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--place", type=Path, help="a file system with attributes; default: a temporary directory")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.place, prefix="packetfs-selection-") as directory:
        place = Path(directory)
        for name, attributes in (("plain", False), ("attributed", True)):
            write(place / name, options.files, attributes=attributes)
        (place / "patterns").write_text("\n".join(PATTERNS) + "\n")
        taken: dict[tuple[str, str, str], list[measure.Cost]] = {}
        for number in range(options.runs + 1):
            for subject in ("packetfs", "rsync", "restic"):
                if subject != "packetfs" and not shutil.which(subject):
                    print(f"not here: {subject}", file=sys.stderr)
                    continue
                for variant, source, patterns in (
                    ("without", "plain", False),
                    ("20 patterns", "plain", True),
                    ("attributes", "attributed", False),
                    ("both", "attributed", True),
                ):
                    for step, cost in one_run(place, subject, place / source, patterns=patterns).items():
                        if number:  # the first one warms the cache
                            taken.setdefault((subject, step, variant), []).append(cost)
    print(f"{options.files:,} files, median of {options.runs} runs, {os.cpu_count()} cores\n")
    print("| subject | step | variant | wall | CPU | CPU over without |\n|---|---|---|--:|--:|--:|")
    for (subject, step, variant), costs in taken.items():
        wall_s, cpu_s = (statistics.median(getattr(cost, field) for cost in costs) for field in ("wall_s", "cpu_s"))
        without_s = statistics.median(cost.cpu_s for cost in taken[subject, step, "without"])
        print(f"| {subject} | {step} | {variant} | {wall_s:.2f} s | {cpu_s:.2f} s | {cpu_s / without_s - 1:+.0%} |")
    return 0


def one_run(place: Path, subject: str, source: Path, *, patterns: bool) -> dict[str, measure.Cost]:
    """Into a new store, and once more."""
    store, home = place / "store", place / "home"
    home.mkdir()
    environment = {"HOME": str(home), "RESTIC_PASSWORD": "x"}
    command: list[str | Path]
    if subject == "packetfs":
        choice = [f"--exclude-from={place / 'patterns'}"] if patterns else []
        command = [BINARY, "push", *choice, source, store]
        measure.run([BINARY, "init", store], place, place, environment)
    elif subject == "rsync":
        attributes = ["-X"] if source.name == "attributed" else []
        choice = [f"--exclude-from={place / 'patterns'}"] if patterns else []
        command = ["rsync", "-a", *attributes, *choice, f"{source}/", f"{store}/"]
    else:
        choice = [f"--exclude-file={place / 'patterns'}"] if patterns else []
        command = ["restic", "backup", "--repo", store, "--compression", "off", *choice, source]
        measure.run(["restic", "init", "--repo", store, "--repository-version", "2"], place, place, environment)
    found = {step: measure.run(command, place, place, environment) for step in ("first", "unchanged")}
    shutil.rmtree(store)
    shutil.rmtree(home)
    return found


def write(source: Path, files: int, *, attributes: bool) -> None:
    """The files, of the sizes that those of a source tree have."""
    for number in range(files):
        dice = random.Random(number)
        path = source / f"d{number % 97:02}" / f"e{number % 23:02}" / f"f{number:05}.c"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(int(dice.paretovariate(1.2) * 1500) % 100_000))
        if attributes:
            os.setxattr(path, "user.mime_type", b"text/plain")
            os.setxattr(path, "user.origin", b"number %08d" % number)


if __name__ == "__main__":
    raise SystemExit(main())
