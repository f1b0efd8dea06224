"""From the save of a file to a snapshot that has it: `packetfs push --watch` on an idle tree, and what waiting costs.

    .venv/bin/python -m bench.watch                      # 1,000, 10,000 and 50,000 files; 50 saves each
    .venv/bin/python -m bench.watch --files 1000 --saves 20

One file of a directory tree gets new content by write, rename over the old one, as editors do; the time ends when the
command has said that the snapshot is made: durable, in a volume on the same disk, or at an origin that a shell starts
here in the place of ssh. Then the command is left alone for some seconds: the CPU that it used is what waiting costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

BINARY = Path(sys.executable).with_name("packetfs")
IDLE_S = 10.0
_SSH = '#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift 2\neval "exec $*"\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.watch", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--files", type=int, action="append")
    parser.add_argument("--saves", type=int, default=50)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args(arguments)
    print("| files | to | p50 | p99 | idle CPU |\n|--:|---|--:|--:|--:|")
    for files in options.files or [1000, 10_000, 50_000]:
        with tempfile.TemporaryDirectory(dir=options.place, prefix="packetfs-watch-") as directory:
            place = Path(directory)
            write(place / "source", files)
            (place / "ssh").write_text(_SSH)
            (place / "ssh").chmod(0o755)
            for name, location in (("a volume here", f"{place}/here::main"), ("an origin", f"far:{place}/far::main")):
                seconds, idle = saves(place, location, options.saves)
                p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
                print(f"| {files:,} | {name} | {p50 * 1e3:.0f} ms | {p99 * 1e3:.0f} ms | {idle:.2%} |", flush=True)
    return 0


def saves(place: Path, location: str, count: int) -> tuple[list[float], float]:
    """Seconds of each of `count` saves, and the share of a core that waiting takes."""
    source = place / "source"
    options = ["-e", str(place / "ssh"), "--remote-packetfs", str(BINARY)]
    command = [str(BINARY), "push", "--watch", "--json", *options, str(source), location]
    environment = os.environ | {"HOME": str(place / "home")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        pushes = events(process)
        next(pushes)
        taken = []
        for number in range(count):
            (place / "new").write_bytes(b"version %d of it\n" % number * 40)
            began_s = time.perf_counter()
            (place / "new").rename(source / "d00" / "f00000")
            next(pushes)
            taken.append(time.perf_counter() - began_s)
        before_s = cpu_s(process.pid)
        time.sleep(IDLE_S)
        idle = (cpu_s(process.pid) - before_s) / IDLE_S
        process.terminate()
        for _ in pushes:
            pass
    return taken, idle


def events(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Each push that the command tells of, once all is said of it."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "push":
            yield


def cpu_s(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write(source: Path, files: int) -> None:
    """A tree of small files, a hundred in a directory."""
    for number in range(files):
        path = source / f"d{number // 100:02}" / f"f{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * 250)


if __name__ == "__main__":
    raise SystemExit(main())
