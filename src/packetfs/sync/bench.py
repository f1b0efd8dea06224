"""What a user's own two versions would cost to move: really moved, to the other end of a pipe, and counted.

A push to `packetfs serve --stdio`, as over ssh without ssh, and rsync to itself beside it. Everything is written
beneath one scratch directory, which is gone afterwards; the two versions are only read. No network is touched.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Final

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import NotFoundError, UnavailableError, UsageError, disk_error
from packetfs.events import Problem, Progress
from packetfs.format.location import Endpoint, Location
from packetfs.sync.checkout import refuse_growth
from packetfs.sync.reckoning import STEPS, Moved, Row, room_needed
from packetfs.sync.remote import over
from packetfs.volume import PushReport, Source, sources_of
from packetfs.wire.transports import Command

__all__ = ["Versions", "measure_packetfs", "measure_rsync", "rsync_version", "scratch_directory", "versions_of"]

OnProgress = Callable[[Progress], None]

_REF: Final = "main"
_NAME: Final = b"file"  # of a single file, which may be called differently in the two versions
# What rsync takes for ssh: it drops the name of the host and lets a shell read the rest, as sshd does.
_SHELL: Final = "sh -c 'shift; eval \"exec $*\"' sh"
_RSYNC_PARTIAL: Final = (23, 24)  # some files could not be read, or vanished: what PacketFS reports as problems


@dataclass(frozen=True, slots=True)
class Versions:
    """What the other side holds, and what is here now: two directories or two files, as absolute paths."""

    old: bytes
    new: bytes
    is_directory: bool

    def sources(self, path: bytes) -> list[Source]:
        """What is pushed of one of them."""
        return [Source(path, None if self.is_directory else _NAME)]


@dataclass(frozen=True, slots=True)
class Ours:
    """What PacketFS took, and what was in each version."""

    rows: tuple[Row, ...]
    reports: tuple[PushReport, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be read of both versions."""
        first, second, _ = self.reports
        return first.problems + second.problems


def versions_of(old: str | bytes, new: str | bytes) -> Versions:
    """The two that are named; NotFoundError if one is not there, UsageError if they cannot be versions of one thing."""
    (first,), (second,) = sources_of([old]), sources_of([new])
    if (first.name is None) != (second.name is None):
        raise UsageError(
            f"{os.fsdecode(first.path)!r} and {os.fsdecode(second.path)!r} are not two versions of one thing",
            hint="give two directories or two files: first what the other side holds, then what is here now",
        )
    for source in (first, second):
        if source.name is not None and not os.path.isfile(source.path):
            raise UsageError(f"{os.fsdecode(source.path)!r} is neither a file nor a directory")
    return Versions(first.path, second.path, is_directory=first.name is None)


@contextmanager
def scratch_directory(place: str, *, old_bytes: int, new_bytes: int, outside: Sequence[bytes] = ()) -> Iterator[str]:
    """A new directory in `place` for all that is written; removed afterwards, however that comes about.

    Nothing is made if there is no room for what two versions of `old_bytes` and `new_bytes` can come to, or if it would
    be inside one of `outside`.
    """
    if not os.path.isdir(place):
        raise NotFoundError(f"there is no directory {place!r} to work in", code="file-not-found", hint="make it first")
    real = os.path.realpath(os.fsencode(place))
    for path in outside:
        if os.path.commonpath([real, os.path.realpath(path)]) == os.path.realpath(path):
            raise UsageError(
                f"the scratch directory {place!r} is inside {os.fsdecode(path)!r}, which is only read",
                hint="name a directory elsewhere with --scratch",
            )
    refuse_growth(
        room_needed(old_bytes, new_bytes),
        kernel.free_bytes(real),
        real,
        hint="free some space, or name a directory on another disk with --scratch",
    )
    try:
        scratch = TemporaryDirectory(prefix="packetfs-bench-", dir=place)
    except OSError as error:
        raise disk_error("make a directory in", place, error.errno or 0) from None
    try:
        yield scratch.name
    finally:
        try:
            scratch.cleanup()
        except KeyboardInterrupt:  # once: the second signal ends the process
            scratch.cleanup()
            raise


def measure_packetfs(
    versions: Versions,
    scratch: str,
    *,
    cache_bytes: int | None = None,
    lock_wait_s: float = 10.0,
    progress: OnProgress | None = None,
    env: Env = SYSTEM,
) -> Ours:
    """Push the old version, the new one and that again, each over a connection of its own, as commands would.

    What is pushed to, and the replica that a push keeps, are in `scratch` and gone when this returns.
    """
    place = f"{scratch}/packetfs"
    os.mkdir(place)
    rows: list[Row] = []
    reports: list[PushReport] = []
    for step, path in zip(STEPS, (versions.old, versions.new, versions.new), strict=True):
        clock = _Clock(env)
        # -P: a directory `packetfs` where the user happens to be is not what is to be run.
        with over(
            Command([sys.executable, "-P", "-m", "packetfs", "serve", "--stdio"], alone=True),
            Location(f"{place}/volume", endpoint=Endpoint("ssh", "bench")),
            ref=_REF,
            create=True,
            cache_bytes=cache_bytes,
            replica=f"{place}/replica",
            lock_wait_s=lock_wait_s,
            env=env,
        ) as session:
            pushed = session.push(versions.sources(path), _REF, progress=progress)
        seconds, cpu_s = clock.read()
        traffic = pushed.traffic
        moved = Moved(traffic.sent_bytes + traffic.received_bytes, traffic.round_trips, seconds, cpu_s)
        rows.append(Row(step, "packetfs", moved))
        reports.append(pushed.report)
    shutil.rmtree(place)
    return Ours(tuple(rows), tuple(reports))


def rsync_version(environment: Mapping[str, str] = os.environ) -> str | None:
    """What the installed rsync calls itself; None if there is none."""
    found = shutil.which("rsync", path=environment.get("PATH"))
    if found is None:
        return None
    return _run([found, "--version"], "/", environment).out.partition("\n")[0].strip()


def measure_rsync(
    versions: Versions,
    options: str,
    scratch: str,
    *,
    environment: Mapping[str, str] = os.environ,
    env: Env = SYSTEM,
) -> list[Row]:
    """The same three steps with `rsync OPTIONS --delete`, to an rsync at the other end of a pipe.

    If it fails, the row says why and is the last. The copy is in `scratch` and gone when this returns.
    """
    subject = f"rsync {options}"
    copy = f"{scratch}/copy"
    os.mkdir(copy)
    rows: list[Row] = []
    slash = b"/" if versions.is_directory else b""
    target = b"here:copy/" + (b"" if versions.is_directory else _NAME)
    delete = ["--delete"] if versions.is_directory else []
    for step, path in zip(STEPS, (versions.old, versions.new, versions.new), strict=True):
        clock = _Clock(env)
        ended = _run(
            ["rsync", options, *delete, "--stats", "--no-human-readable", "-e", _SHELL, "--", path + slash, target],
            scratch,
            environment,
        )
        seconds, cpu_s = clock.read()
        wire_bytes = _rsync_bytes(ended.out)
        if wire_bytes is None or ended.code not in (0, *_RSYNC_PARTIAL):
            said = ended.err.strip().splitlines()
            rows.append(
                Row(step, subject, None, f"failed with exit code {ended.code}: {said[0] if said else 'silent'}")
            )
            break
        why = f"exit code {ended.code}: not all of it could be read" if ended.code else ""
        rows.append(Row(step, subject, Moved(wire_bytes, None, seconds, cpu_s), why))
    with TemporaryDirectory(dir=scratch) as unwanted:  # which also removes what its owner may not write to
        os.rename(copy, f"{unwanted}/copy")
    return rows


class _Clock:
    """Seconds, and CPU seconds of this process and of those it has waited for, since it was made."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._begun = env.monotonic_s(), _cpu_s()

    def read(self) -> tuple[float, float]:
        begun_s, begun_cpu_s = self._begun
        return self._env.monotonic_s() - begun_s, _cpu_s() - begun_cpu_s


def _cpu_s() -> float:
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    out: str
    err: str


def _run(argv: Sequence[str | bytes], directory: str, environment: Mapping[str, str]) -> _Ended:
    """Run a command to its end. If that is not waited for, nobody of its processes is left."""
    plain = {name: value for name, value in environment.items() if not name.startswith("RSYNC_")} | {"LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=plain,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
    except OSError as error:
        raise UnavailableError(f"cannot run {argv[0]!r}: {os.strerror(error.errno or 0)}") from None
    with process:
        try:
            out, err = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()  # to the end of its streams, which all of its processes share
            raise
    return _Ended(process.returncode, out, err)


def _rsync_bytes(statistics: str) -> int | None:
    """Bytes both ways, as `--stats` has them."""
    found = {
        name: int(value)
        for line in statistics.splitlines()
        for name, _, value in [line.partition(": ")]
        if name in ("Total bytes sent", "Total bytes received") and value.isdecimal()
    }
    return sum(found.values()) if len(found) == 2 else None
