"""`packetfs verify` beside what it cannot be faster than, and beside restic and borg doing the same.

    .venv/bin/python -m bench.verify --mib 4096              # with twice to four times that of free disk
    .venv/bin/python -m bench.verify --mib 4096 --cold

The store of each holds the same incompressible files and is in the page cache; with `--cold` it is evicted before each
run, so that the disk counts. The floors are the kernel's own keyed BLAKE3 over the volume's segments, a mebibyte a call
(each call also copies it), and reading them, both with as many threads as `verify` uses. Subjects take turns within
a round. Prints a Markdown table of medians; what is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import packetfs
from packetfs import kernel
from packetfs.sync.scrub import THREADS_MAX

_PIECE_BYTES = 1 << 20


def over_segments(volume: Path, work: Callable[[Path], int]) -> int:
    """Do `work` with every segment; how many bytes that were."""
    filled = [path for path in sorted(volume.glob("segments/*.data")) if path.stat().st_size]  # one may be granted only
    with ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS_MAX)) as pool:
        return sum(pool.map(work, filled))


def read(volume: Path) -> int:
    """Read every segment."""

    def into_nothing(path: Path) -> int:
        buffer, count = bytearray(_PIECE_BYTES), 0
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                count += got
        return count

    return over_segments(volume, into_nothing)


def blake3(volume: Path) -> int:
    """Digest every segment."""

    def digest(path: Path) -> int:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            for at in range(0, len(view), _PIECE_BYTES):
                kernel.keyed_digest(bytes(32), view[at : at + _PIECE_BYTES])
            view.release()
            return len(mapped)

    return over_segments(volume, digest)


def evict(place: Path) -> None:
    """Let the page cache forget what is below `place`."""
    os.sync()
    for path in place.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def quietly(*command: str | Path, **environment: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.decode()}")


def subjects(place: Path, source: Path) -> dict[str, Callable[[], object]]:
    """Fill a store of each; name -> what checks it."""
    volume = place / "volume"
    with packetfs.open(volume, create=True) as opened:
        packetfs.push(opened, [source])
    command = Path(sys.executable).parent / "packetfs"
    found: dict[str, Callable[[], object]] = {
        "reading the segments": lambda: read(volume),
        "keyed BLAKE3 of the segments": lambda: blake3(volume),
        "`packetfs verify`": lambda: quietly(command, "verify", "--quiet", volume),
    }
    home = {"HOME": str(place), "RESTIC_PASSWORD": "x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    if missing := [name for name in ("restic", "borg") if not shutil.which(name)]:
        print(f"not here: {', '.join(missing)}", file=sys.stderr)
    if shutil.which("restic"):
        repository = ("restic", "-r", place / "restic", "--no-cache")
        quietly(*repository, "init", **home)
        quietly(*repository, "backup", source, **home)
        found["`restic check --read-data`"] = lambda: quietly(*repository, "check", "--read-data", **home)
    if shutil.which("borg"):
        quietly("borg", "init", "--encryption", "none", place / "borg", **home)
        quietly("borg", "create", f"{place / 'borg'}::one", source, **home)
        found["`borg check --verify-data`"] = lambda: quietly("borg", "check", "--verify-data", place / "borg", **home)
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packetfs-bench-") as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        for number in range(0, chosen.mib, 16):
            (source / f"file {number}").write_bytes(os.urandom(16 << 20))
        checks = subjects(Path(scratch), source)
        times: dict[str, list[float]] = {name: [] for name in checks}
        for round_ in range(chosen.rounds + 1):
            for name, check in checks.items():
                if chosen.cold:
                    evict(Path(scratch))
                began_s = time.perf_counter()
                check()
                if round_:  # the first one warms the cache
                    times[name].append(time.perf_counter() - began_s)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    slower_s = max(medians["reading the segments"], medians["keyed BLAKE3 of the segments"])
    print(f"{chosen.mib} MiB, {'cold' if chosen.cold else 'warm'}, median of {chosen.rounds} rounds\n")
    print("| what | s | MB/s | of the slower floor |\n|---|--:|--:|--:|")
    for name, median_s in medians.items():
        rate = chosen.mib * 1.048576 / median_s
        print(f"| {name} | {median_s:.2f} | {rate:,.0f} | {slower_s / median_s:.2f} |")


if __name__ == "__main__":
    main()
