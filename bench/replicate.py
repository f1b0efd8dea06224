"""How far a full replica is behind while its origin is written to: `packetfs replicate` beside pushes at a steady rate.

    .venv/bin/python -m bench.replicate                      # 1, 5 and 20 pushes a second, 20 s each, and as many as go
    .venv/bin/python -m bench.replicate --rate 2 --seconds 5

Each push changes one of the files of a tree (another 64 KiB) and commits into a volume on this disk; the replica
follows it through a shell that stands in for ssh, into a volume on the same disk. *Lag* of a push is the time from its
commit (the journal's time) until the command has said that it is durable in the replica; *behind* is the most content
that the origin had and the replica had not when it said so. Then everything is left alone: the CPU that waiting costs
on both sides.
At the end the two are compared: equal positions, and the replica verified.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.watch import cpu_s
from packetfs.sync import scrub
from packetfs.volume import Volume, sources_of

BINARY = Path(sys.executable).with_name("packetfs")
IDLE_S = 10.0
FILES = 1000
FILE_BYTES = 64 << 10
_SSH = '#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift 2\necho $$ > "$ORIGIN_PID"\neval "exec $*"\n'


@dataclass
class Followed:
    """What the command says, as it says it."""

    process: subprocess.Popen[bytes]
    arrived: list[tuple[int, int]] = field(default_factory=list)
    """(seq, when, ns since 1970) of each word."""
    behind_bytes: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def listen(self) -> None:
        """Read until the command ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == "followed":
                with self.changed:
                    self.arrived.append((said["position_seq"], time.time_ns()))
                    self.behind_bytes = max(self.behind_bytes, said["lag_bytes"])
                    self.changed.notify()

    def until(self, seq: int) -> None:
        """Wait until it is there."""
        with self.changed:
            there = self.changed.wait_for(lambda: bool(self.arrived) and self.arrived[-1][0] >= seq, timeout=600)
        assert there, "the replica does not follow"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.replicate", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rate", type=float, action="append", help="Pushes a second; 0: as fast as it goes.")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args(arguments)
    print("| pushes/s wanted | done | lag p50 | p99 | max | behind at most | idle CPU, replica | origin |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for rate in options.rate or [1.0, 5.0, 20.0, 0.0]:
        with tempfile.TemporaryDirectory(dir=options.place, prefix="packetfs-replicate-") as directory:
            print(row(Path(directory), rate, options.seconds), flush=True)
    return 0


def row(place: Path, rate: float, seconds: float) -> str:
    """One line of the table."""
    (place / "ssh").write_text(_SSH)
    (place / "ssh").chmod(0o755)
    source = place / "source"
    write(source)
    with Volume.create(place / "origin") as volume:
        volume.push(sources_of([source]), "main")
        seq = volume.position.seq
    pid = place / "origin.pid"
    command = [str(BINARY), "replicate", "--json", "-e", str(place / "ssh"), "--remote-packetfs", str(BINARY)]
    environment = os.environ | {"HOME": str(place / "home"), "ORIGIN_PID": str(pid)}
    with subprocess.Popen(
        [*command, f"far:{place}/origin", str(place / "replica")], stdout=subprocess.PIPE, env=environment
    ) as process:
        followed = Followed(process)
        listening = threading.Thread(target=followed.listen)
        listening.start()
        followed.until(seq)
        followed.behind_bytes = 0
        times = pushes(place, source, rate, seconds)
        followed.until(max(times))
        before = cpu_s(process.pid), cpu_s(int(pid.read_text()))
        time.sleep(IDLE_S)
        idle = [
            (after - one) / IDLE_S
            for after, one in zip((cpu_s(process.pid), cpu_s(int(pid.read_text()))), before, strict=True)
        ]
        process.terminate()
        listening.join()
    lags = [next(at for there, at in followed.arrived if there >= seq) - time_ns for seq, time_ns in times.items()]
    check(place)
    spread = statistics.quantiles(lags, n=100, method="inclusive") if len(lags) > 1 else lags * 99
    ms = [f"{value / 1e6:.0f} ms" for value in (statistics.median(lags), spread[98], max(lags))]
    wanted = f"{rate:g}" if rate else "all"
    done = f"{len(times) / seconds:.1f}"
    behind = f"{followed.behind_bytes / 1e6:.2f} MB"
    return f"| {wanted} | {done} | {' | '.join(ms)} | {behind} | {idle[0]:.2%} | {idle[1]:.2%} |"


def pushes(place: Path, source: Path, rate: float, seconds: float) -> dict[int, int]:
    """Push at that rate; the journal time of each commit by its entry."""
    times: dict[int, int] = {}
    with Volume.open(place / "origin") as volume:
        began_s = time.monotonic()
        number = 0
        while (now_s := time.monotonic()) - began_s < seconds:
            if rate and now_s < (due_s := began_s + number / rate):
                time.sleep(due_s - now_s)
            (source / f"d{number % 10}" / f"f{number % FILES}").write_bytes(os.urandom(FILE_BYTES))
            snapshot = volume.push(sources_of([source]), "main").snapshot
            assert snapshot is not None, "something has changed"
            times[volume.position.seq] = snapshot.time_ns
            number += 1
    return times


def check(place: Path) -> None:
    """The two are one, and sound."""
    with Volume.open(place / "origin") as origin, Volume.open(place / "replica") as replica:
        assert replica.position == origin.position
        assert scrub.verify(replica, restart=True).sound


def write(source: Path) -> None:
    """A tree of files that do not compress."""
    for number in range(FILES):
        path = source / f"d{number % 10}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(FILE_BYTES // 16))


if __name__ == "__main__":
    raise SystemExit(main())
