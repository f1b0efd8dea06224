"""How much of a push is Python: of 1 GiB in one file, and for each file of a tree of small ones.

`python -m bench.python_share` prints both. Time inside the kernel is taken off; what is left, the kernel's callbacks
into Python included, is Python's. The process is warm (imports are not counted, `packetfs --help` is their measure).
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packetfs import kernel
from packetfs.volume import Source, Volume

RUNS = 5
SMALL_FILES = 50_000
LARGE_BYTES = 1 << 30


class Stopwatch:
    """Seconds that the main thread spends inside a function of the kernel, less those it spends back in Python."""

    def __init__(self) -> None:
        self.inside_s = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, grant: Callable[..., Any], progress: Callable[..., Any], **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, grant=self.outside(grant), progress=self.outside(progress), **named)
            finally:
                self.inside_s += time.perf_counter() - began

        return timed

    def outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.inside_s -= time.perf_counter() - began

        return timed


def push_s(place: Path, source: Path, number: int, ingest: Callable[..., Any]) -> tuple[float, float]:
    """Seconds of one push into a new volume: all of it, and Python's part without waiting for the disk."""
    watch = Stopwatch()
    kernel.ingest = watch.around(ingest)
    with Volume.create(place / f"volume-{number}") as volume:
        began, began_cpu = time.perf_counter(), time.thread_time()
        volume.push([Source(os.fsencode(source))], "main", progress=lambda _: None)
        total_s, cpu_s = time.perf_counter() - began, time.thread_time() - began_cpu
    outside_s = total_s - watch.inside_s
    # Outside the kernel's sweep the main thread also waits for syncs and locks: CPU time is what Python itself costs.
    return total_s, min(outside_s, cpu_s)


def main() -> None:
    """Print the two figures."""
    ingest = kernel.ingest
    with tempfile.TemporaryDirectory(dir=os.environ.get("PACKETFS_BENCH_PLACE", "/dev/shm")) as top:
        place = Path(top)
        large, small = place / "large", place / "small"
        large.mkdir()
        with open(large / "file", "wb") as file:
            file.writelines(os.urandom(1 << 20) for _ in range(LARGE_BYTES >> 20))
        for number in range(SMALL_FILES):
            folder = small / f"{number // 200:04}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06}").write_bytes(number.to_bytes(8, "little") * 64)
        rows = [push_s(place, large, number, ingest) for number in range(RUNS)]
        share = statistics.median(python_s / total_s for total_s, python_s in rows)
        print(f"1 GiB in one file: Python {share:.2%} of {statistics.median(t for t, _ in rows):.2f} s (goal < 1 %)")
        rows = [push_s(place, small, RUNS + number, ingest) for number in range(RUNS)]
        each_us = statistics.median(python_s for _, python_s in rows) / SMALL_FILES * 1e6
        print(f"{SMALL_FILES:,} files of 512 B: Python {each_us:.2f} us a file (goal < 5 us)")


if __name__ == "__main__":
    main()
