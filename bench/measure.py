"""Run one command and say what it cost: wall, CPU, peak anonymous memory, system calls. Judges nothing."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLES_PER_S = 60  # peak memory: a phase shorter than 1/60 s may be missed


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took. CPU is user + system of the command and every child it waited for, without the sync."""

    wall_s: float
    sync_s: float  # the part of wall_s that the syncfs took
    cpu_s: float
    rss_anon_bytes: int


class CommandFailedError(Exception):
    """A measured command ended with an error; the figure would be worthless."""


def run(command: Sequence[str | Path], cwd: Path, settle: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run `command`, then `syncfs` the file system of `settle`; both are inside the time.

    The sync makes every subject promise the same at the end of its time: what it wrote is on disk. Output goes to a
    file, since a pipe that nobody empties would stop the command.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        child = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
        sampler = PeakMemory(lambda: tree(child.pid))
        sampler.start()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        ended = time.perf_counter()
        sync(settle)
        synced = time.perf_counter()
        (peak,) = sampler.stop()
        if child.returncode != 0:
            output.seek(0)
            tail = output.read()[-2000:].decode(errors="replace")
            raise CommandFailedError(f"{' '.join(map(str, command))}: exit {child.returncode}\n{tail}")
    return Cost(synced - began, synced - ended, used.ru_utime + used.ru_stime, peak)


def sync(path: Path) -> None:
    """`syncfs` the file system that `path` is on, through sync(1): Python has no call for it."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    subprocess.run(["sync", "-f", str(existing)], check=True)


def syscalls(command: Sequence[str | Path], cwd: Path, environment: dict[str, str] | None = None) -> dict[str, int]:
    """System calls by name, of the command and all its threads and children, under strace -c -f."""
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as counts:
        traced = ["strace", "-c", "-f", "-o", counts.name, *map(str, command)]
        done = subprocess.run(
            traced,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ | (environment or {}),
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailedError(f"{' '.join(traced)}: exit {done.returncode}\n{done.stderr[-2000:].decode()}")
        return parse_counts(counts.read())


def parse_counts(table: str) -> dict[str, int]:
    """The calls column of `strace -c`, by system call, without its total."""
    row = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)
    return {name: int(calls) for calls, name in row.findall(table) if name != "total"}


class PeakMemory(threading.Thread):
    """Adds up RssAnon over each group of processes, and keeps the highest sum seen of each.

    A group is a function that says which processes it has now, so that children and daemons are found as they come.
    """

    def __init__(self, *groups: Callable[[], Iterable[int]]) -> None:
        super().__init__(daemon=True)
        self._groups = groups
        self._peaks = [0] * len(groups)
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(1 / SAMPLES_PER_S):
            for number, group in enumerate(self._groups):
                self._peaks[number] = max(self._peaks[number], sum(map(rss_anon_bytes, group())))

    def stop(self) -> list[int]:
        """The peaks, in the order of the groups."""
        self._stop_now.set()
        self.join()
        return self._peaks


def tree(pid: int) -> list[int]:
    """The process and everything below it."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children") as children:
                    found.extend(map(int, children.read().split()))
        except OSError:  # it ended between two looks
            continue
    return found


def rss_anon_bytes(pid: int) -> int:
    """Anonymous memory of one process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # it ended between two looks
        pass
    return 0


def cpu_s(pids: Iterable[int]) -> float:
    """User + system time of these processes and of the children that they have waited for."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                ticks += sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
        except OSError:  # it ended between two looks
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def disk_bytes(path: Path) -> int:
    """What `path` takes on disk, everything beneath it included; 0 if it does not exist."""
    if not path.is_dir():
        return path.stat().st_blocks * 512 if path.exists() else 0
    return sum(
        os.lstat(os.path.join(directory, name)).st_blocks * 512
        for directory, directories, names in os.walk(path)
        for name in [*directories, *names]
    )
