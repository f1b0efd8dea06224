"""From the save of a file to where it is to be: `packetfs push --watch` and `sync --watch`, and what waiting costs.

    .venv/bin/python -m bench.watch                      # 1,000, 10,000 and 50,000 files; 50 saves each
    .venv/bin/python -m bench.watch --files 1000 --saves 20

One file of a directory tree gets new content by write, rename over the old one, as editors do. Of a push the time ends
when the command has said that the snapshot is made: durable, in a volume on the same disk, or at an origin that a shell
starts here in the place of ssh. Of a sync it ends when the file in the far directory, which the same shell or a server
on loopback writes, has the new content: somebody looks at it all the time. Then the command is left alone for some
seconds: the CPU that it and the far side used is what waiting costs, and the bytes on the wire.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from bench.measure import CommandFailedError

BINARY = Path(sys.executable).with_name("packetfs")
IDLE_S = 10.0
PATIENCE_S = 60.0
SAVED = Path("d00", "f00000")
_SSH = '#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift 2\neval "exec $*"\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.watch", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--files", type=int, action="append")
    parser.add_argument("--saves", type=int, default=50)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args(arguments)
    print("| files | to | p50 | p99 | idle CPU | idle bytes |\n|--:|---|--:|--:|--:|--:|")
    for files in options.files or [1000, 10_000, 50_000]:
        with tempfile.TemporaryDirectory(dir=options.place, prefix="packetfs-watch-") as directory:
            place = Path(directory)
            write(place / "source", files)
            (place / "ssh").write_text(_SSH)
            (place / "ssh").chmod(0o755)
            ways = (
                ("a volume here", Push(place, f"{place}/here::main")),
                ("an origin", Push(place, f"far:{place}/far::main")),
                ("sync, by a shell", Sync(place)),
                ("sync, by a server", Served(place)),
            )
            for name, way in ways:
                with way:
                    taken = sorted(way.save(number) for number in range(options.saves))
                    idle, idle_bytes = way.idle()
                p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
                silent = "" if idle_bytes is None else f"{idle_bytes:,} B"
                print(
                    f"| {files:,} | {name} | {p50 * 1e3:.0f} ms | {p99 * 1e3:.0f} ms | {idle:.3%} | {silent} |",
                    flush=True,
                )
    return 0


class Push:
    """`push --watch` of a tree; a context manager."""

    verb = "push"
    saved = SAVED  # below the source

    def __init__(self, place: Path, location: str) -> None:
        self.place = place
        self.source = place / "source"
        self.location = location
        self._events: Iterator[None] = iter(())

    def __enter__(self) -> Self:
        options = ["-e", str(self.place / "ssh"), "--remote-packetfs", str(BINARY)]
        self.process = self.started(
            [str(BINARY), self.verb, "--watch", "--json", *options, f"{self.source}/", self.location]
        )
        self._events = events(self.process, self.verb)
        next(self._events)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        for _event in self._events:
            pass
        self.process.wait()

    def started(self, command: list[str]) -> subprocess.Popen[bytes] | subprocess.Popen[str]:
        """Start what watches."""
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment("near"))

    def environment(self, machine: str) -> dict[str, str]:
        """Each machine has a data directory of its own."""
        return os.environ | {"HOME": str(self.place / machine), "XDG_DATA_HOME": str(self.place / machine / "data")}

    def save(self, number: int) -> float:
        """Save a file; how many seconds until it is where it is to be."""
        content = self.written(number)
        began_s = time.perf_counter()
        (self.place / "new").rename(self.source / self.saved)
        self.arrived(content)
        return time.perf_counter() - began_s

    def written(self, number: int) -> bytes:
        """What is saved next."""
        content = b"version %d of it\n" % number * (40 + number)  # rsync compares sizes and whole seconds
        (self.place / "new").write_bytes(content)
        return content

    def arrived(self, content: bytes) -> None:
        """Wait for it."""
        del content
        next(self._events)

    def processes(self) -> list[int]:
        """All that wait with it."""
        return [self.process.pid, *descendants(self.process.pid)]

    def idle(self) -> tuple[float, int | None]:
        """The share of a core that waiting takes, and the bytes on the wire, where they are counted."""
        processes, before_bytes = self.processes(), self.wire_bytes()
        before_s = sum(map(cpu_s, processes))
        time.sleep(IDLE_S)
        idle = (sum(map(cpu_s, processes)) - before_s) / IDLE_S
        now_bytes = self.wire_bytes()
        return idle, None if before_bytes is None or now_bytes is None else now_bytes - before_bytes

    def wire_bytes(self) -> int | None:
        """What has gone over the wire so far."""
        return None


class Sync(Push):
    """`sync --watch` with a directory that a shell reaches."""

    verb = "sync"

    def __init__(self, place: Path) -> None:
        super().__init__(place, f"far:{place}/synced/")
        self.there = place / "synced"

    def arrived(self, content: bytes) -> None:
        """Look until it is there; the event comes later, and has to be read."""
        path = self.there / self.saved
        deadline_s = time.perf_counter() + PATIENCE_S
        while not path.exists() or path.read_bytes() != content:
            if time.perf_counter() > deadline_s:
                raise CommandFailedError(f"{path} did not come in {PATIENCE_S:g} s")
            time.sleep(0.0005)

    def save(self, number: int) -> float:
        """See Push."""
        taken = super().save(number)
        next(self._events)
        return taken


class Served(Sync):
    """The same with a directory that a server on loopback exports."""

    def __enter__(self) -> Self:
        self.there = self.place / "exported" / "dir"
        self.there.parent.mkdir()
        serve = [str(BINARY), "serve", "--export", f"bench={self.there.parent}", "--listen", "127.0.0.1:0", "--json"]
        self.server = subprocess.Popen(serve, stdout=subprocess.PIPE, env=self.environment("server"))
        assert self.server.stdout is not None
        self.port = int(json.loads(self.server.stdout.readline())["port"])
        invite = [str(BINARY), "serve", "--invite", "--role", "write"]
        token = subprocess.check_output(invite, text=True, env=self.environment("server"), stderr=subprocess.DEVNULL)
        pair = [str(BINARY), "pair", token.strip()]
        subprocess.run(pair, check=True, env=self.environment("near"), stderr=subprocess.DEVNULL)
        self.location = f"pfs://127.0.0.1:{self.port}/bench:/dir"
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.server.terminate()
        self.server.communicate()

    def processes(self) -> list[int]:
        """See Push."""
        return [*super().processes(), self.server.pid]

    def wire_bytes(self) -> int | None:
        """Of all TCP connections with the server; None without `ss`."""
        try:
            told = subprocess.check_output(["ss", "-tiHn", f"sport = :{self.port}"], text=True)
        except OSError:
            return None
        return sum(int(number) for number in re.findall(r"bytes_(?:sent|received):([0-9]+)", told))


def events(process: subprocess.Popen[bytes] | subprocess.Popen[str], verb: str) -> Iterator[None]:
    """Each push or sync that the command tells of, once all is said of it."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == verb:
            yield


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def cpu_s(pid: int) -> float:
    """What a process has used so far, to the nanosecond: ticks of 10 ms would say 0 or 0.1 %."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def write(source: Path, files: int) -> None:
    """A tree of small files, a hundred in a directory."""
    for number in range(files):
        path = source / f"d{number // 100:02}" / f"f{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "little") * 250)


if __name__ == "__main__":
    raise SystemExit(main())
