"""Verify: every committed byte of a volume against its digest, and what it means for snapshots when some are wrong.

Nothing is repaired here: `repair.py` does, from another copy, where there is one. What was found and is still there is
remembered in the volume, so that the next push stores anew what it would otherwise point to
(`Volume.remember_damage`). A run that is stopped leaves marks in `cache.db` (derived: it may
be deleted at any time), and the next one goes on from there; a run that ends removes them, so that the one after it
reads everything again.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

import apsw

from packetfs.env import Env
from packetfs.errors import DamagedError, PacketFSError, UnavailableError
from packetfs.events import Progress
from packetfs.format.address import OFFSET_BITS, SEGMENT_BYTES, Extent, segment_of
from packetfs.format.snapshot import Snapshot
from packetfs.sync.repair import Copy, Repaired, Source, clear_scratch, repair
from packetfs.volume.replica import Replica

__all__ = ["DamagedPath", "DamagedRange", "ScrubReport", "verify"]

STEP_BYTES: Final = 16 << 20  # one call of the kernel: a few milliseconds from memory, so that Ctrl-C answers at once
MARK_EVERY_BYTES: Final = 1 << 30  # what a stopped run reads again at most, per thread
THREADS_MAX: Final = 4  # beyond that it is the disk that is slow
_ADDRESS_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class DamagedRange:
    """Committed bytes that are not what they should be."""

    address: int
    length: int
    file: str
    """The file that holds them."""
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class DamagedPath:
    """A path that needs bytes that are damaged or not committed; in which snapshots: (ref, snapshot), newest first."""

    path: bytes
    snapshots: tuple[tuple[str, Snapshot], ...]


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What a verification found."""

    segments: int
    checked_bytes: int
    """Read and checked by this run."""
    resumed_bytes: int
    """Checked by an earlier run that was stopped."""
    ranges: tuple[DamagedRange, ...]
    """What is damaged now."""
    paths: tuple[DamagedPath, ...]
    journal: str
    """What is wrong with the journal, or empty."""
    found_ranges: int = 0
    """How many ranges were damaged, before anything was repaired."""
    repaired: tuple[Extent, ...] = ()
    """What was damaged and is not any more."""
    reasons: tuple[str, ...] = ()
    """Why the rest was not repaired, if there was another copy to repair it from."""

    @property
    def sound(self) -> bool:
        """Whether every byte is what it should be, and every snapshot has all of its bytes."""
        return not (self.ranges or self.paths or self.journal)


def verify(
    volume: Copy,
    *,
    restart: bool = False,
    source: Source | None = None,
    bytes_per_s: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    found: Callable[[DamagedRange], None] | None = None,
) -> ScrubReport:
    """Check the journal, every committed chunk of `volume` and every snapshot; damage is reported, not raised.

    A snapshot is whole when all that its pages point to is committed. Goes on where a stopped run was, unless
    `restart`. Pushes may run meanwhile: what is committed after the start is left to the next run. Reads no more than
    `bytes_per_s`. What is damaged is repaired from `source`, another copy, as far as that can be proved.
    """
    clear_scratch(volume)
    journal = _journal_damage(volume)
    snapshots = _snapshots(volume)  # first: all that these need is committed in the segments that are asked for next
    segments = volume.segments()
    with _Marks(os.path.join(volume.path, "cache.db")) as marks:
        if restart:
            marks.clear()
        verified = marks.read()
        start = {segment: min(verified.get(segment, 0), head) for segment, head, _ in segments}
        resumed_bytes = sum(start.values())
        total_bytes = sum(head for _, head, _ in segments)
        checked_bytes = 0
        ranges: list[DamagedRange] = []
        unmarked: dict[int, int] = {}
        unmarked_bytes = 0
        pace = _Pace(volume.env, bytes_per_s)
        try:
            for step in _scan(volume, [(segment, start[segment], head) for segment, head, _ in segments], pace):
                checked_bytes += step.checked_bytes
                for damaged in step.damaged:
                    ranges.append(damaged)
                    if found is not None:
                        found(damaged)
                # A segment with damage gets no mark: the next run looks at it again.
                if step.sound:
                    unmarked[step.segment] = step.next
                    unmarked_bytes += step.checked_bytes
                if unmarked_bytes >= MARK_EVERY_BYTES:
                    marks.write(unmarked)
                    unmarked_bytes = 0
                if progress is not None:
                    progress(
                        Progress(
                            phase="verifying",
                            bytes=resumed_bytes + checked_bytes,
                            bytes_total=total_bytes,
                        )
                    )
        except BaseException:
            marks.write(unmarked)
            _remember(volume, ranges, complete=False)
            raise
        found_ranges, done = len(ranges), Repaired((), ())
        if ranges and source is not None:
            _remember(volume, ranges, complete=False)
            extents = [(r.address, r.length) for r in ranges]
            done = repair(volume, extents, source)
            ranges = _looked_again(volume, extents, pace)
        _remember(volume, ranges, complete=True)
        is_cache = isinstance(volume, Replica) and not volume.is_whole  # of which anything may not be here
        outside = (
            [] if is_cache else _uncommitted({segment: head for segment, head, _ in segments}) + volume.reclaimed()
        )
        paths = tuple(_paths(volume, snapshots, [*((r.address, r.length) for r in ranges), *outside]))
        marks.clear()
    ranges.sort(key=lambda damaged: damaged.address)
    return ScrubReport(
        segments=len(segments),
        checked_bytes=checked_bytes,
        resumed_bytes=resumed_bytes,
        ranges=tuple(ranges),
        paths=paths,
        journal=journal,
        found_ranges=found_ranges,
        repaired=done.mended,
        reasons=done.reasons,
    )


def _looked_again(volume: Copy, damaged: Sequence[Extent], pace: "_Pace") -> list[DamagedRange]:
    """What is damaged in the segments in which something was, whatever a repair says that it did."""
    touched = {segment_of(address) for address, _ in damaged}
    work = [(segment, 0, head) for segment, head, _ in volume.segments() if segment in touched]
    return [found for step in _scan(volume, work, pace) for found in step.damaged]


@dataclass(frozen=True, slots=True)
class _Step:
    """One call's worth of a segment."""

    segment: int
    next: int
    checked_bytes: int
    damaged: tuple[DamagedRange, ...]
    sound: bool
    """No damage in this segment so far."""


class _Pace:
    """Sees to it that no more is read than may be: whoever has read waits for it to be paid off."""

    def __init__(self, env: Env, bytes_per_s: int | None) -> None:
        self._env = env
        self._bytes_per_s = bytes_per_s
        self._paid_s = env.monotonic_s()
        self.step_bytes = STEP_BYTES
        if bytes_per_s is not None:  # several steps a second, so that Ctrl-C and other readers are not kept waiting
            self.step_bytes = max(1, min(STEP_BYTES, bytes_per_s // 4))

    def pay(self, count: int) -> None:
        """Wait until `count` bytes more may have been read. What was not read in time is not caught up."""
        if self._bytes_per_s is None:
            return
        self._paid_s = max(self._paid_s, self._env.monotonic_s() - 1) + count / self._bytes_per_s
        if (wait_s := self._paid_s - self._env.monotonic_s()) > 0:
            self._env.sleep(wait_s)


def _scan(volume: Copy, work: Sequence[tuple[int, int, int]], pace: _Pace) -> Iterator[_Step]:
    """Check segments (number, from, head), several at a time; steps of one segment come in order."""
    waiting = iter([item for item in work if item[1] < item[2]])
    threads = min(os.cpu_count() or 1, THREADS_MAX)
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        running: dict[Future[_Step], int] = {}
        for _, (segment, offset, head) in zip(range(threads), waiting, strict=False):
            running[pool.submit(_check, volume, segment, offset, head, pace, sound=True)] = head
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                head = running.pop(future)
                step = future.result()
                pace.pay(step.checked_bytes)
                if step.next < head:
                    again = pool.submit(_check, volume, step.segment, step.next, head, pace, sound=step.sound)
                    running[again] = head
                elif (following := next(waiting, None)) is not None:
                    running[pool.submit(_check, volume, *following, pace, sound=True)] = following[2]
                yield step


def _check(volume: Copy, segment: int, offset: int, head: int, pace: _Pace, *, sound: bool) -> _Step:
    file = os.path.join(volume.path, "segments", volume.space.slot(segment) + ".data")
    base = segment << OFFSET_BITS
    try:
        checked_bytes, following, extents = volume.space.verify(segment, offset, pace.step_bytes)
        if extents:
            volume.admit_new()  # what was reclaimed meanwhile is no damage
            checked_bytes, following, extents = volume.space.verify(segment, offset, pace.step_bytes)
    except (DamagedError, UnavailableError) as error:
        if isinstance(error, UnavailableError) and error.values.get("errno") != errno.EIO:
            raise
        # Not a chunk but the file or its table: nothing from here to the segment's head can be vouched for.
        whole = DamagedRange(base + offset, head - offset, file, offset, error.message)
        return _Step(segment, head, 0, (whole,), sound=False)
    damaged = tuple(
        DamagedRange(address, length, file, address % SEGMENT_BYTES, "the bytes do not have their digest")
        for address, length in extents
    )
    return _Step(segment, max(following, offset + 1), checked_bytes, damaged, sound=sound and not damaged)


def _journal_damage(volume: Copy) -> str:
    try:
        volume.check_journal()
    except DamagedError as error:
        return error.message
    return ""


def _snapshots(volume: Copy) -> list[tuple[str, Snapshot]]:
    """Every snapshot with its ref, newest first; of a damaged journal those that can be read."""
    found: list[tuple[str, Snapshot]] = []
    with suppress(DamagedError):  # the check of the journal says so
        found.extend((ref, snapshot) for ref, _, snapshot in volume.snapshots())
    return found[::-1]


def _remember(volume: Copy, ranges: Sequence[DamagedRange], *, complete: bool) -> None:
    # On a volume that is mounted read-only nothing can be remembered, and nothing is pushed to it either. The report
    # matters more than that it is kept: the next run finds the same.
    with suppress(PacketFSError):
        volume.remember_damage([(damaged.address, damaged.length) for damaged in ranges], complete=complete)


def _uncommitted(heads: Mapping[int, int]) -> list[Extent]:
    """All addresses except those below the heads of segments: what no snapshot may point to."""
    outside: list[Extent] = []
    end = 1  # address 0 is a hole
    for segment, head in sorted(heads.items()):
        start = segment << OFFSET_BITS
        if start > end:
            outside.append((end, start - end))
        end = start + head
    outside.append((end, _ADDRESS_MAX - end))
    return outside


def _paths(volume: Copy, snapshots: list[tuple[str, Snapshot]], extents: list[Extent]) -> Iterator[DamagedPath]:
    """The paths of `snapshots` that need `extents`, ascending. A tree that many snapshots share is walked once.

    The same tree, not an equal one: after its damage is healed an equal tree points elsewhere.
    """
    touched: dict[bytes, list[bytes]] = {}
    needing: dict[bytes, list[tuple[str, Snapshot]]] = {}
    for ref, snapshot in snapshots:
        if snapshot.root not in touched:
            touched[snapshot.root] = _touching(volume, snapshot, extents)
        for path in touched[snapshot.root]:
            needing.setdefault(path, []).append((ref, snapshot))
    for path in sorted(needing):
        yield DamagedPath(path, tuple(needing[path]))


def _touching(volume: Copy, snapshot: Snapshot, extents: list[Extent]) -> list[bytes]:
    try:
        page = volume.root(snapshot).page
        return [] if page is None else volume.space.files_touching(page, extents)
    except DamagedError:
        return [b"."]  # its own pages are damaged: nothing below can be told apart


class _Marks:
    """How far each segment has been checked by a run that has not ended."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._database: apsw.Connection | None = None

    def __enter__(self) -> Self:
        try:
            self._database = self._open()
        except (apsw.NotADBError, apsw.CorruptError):  # derived: made anew
            _remove(self._path)
            try:
                self._database = self._open()
            except apsw.Error:
                self._database = None
        except apsw.Error:  # no place to write: then a stopped run starts again from the beginning
            self._database = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def _open(self) -> apsw.Connection:
        database = apsw.Connection(self._path)
        database.set_busy_timeout(2000)
        database.execute("PRAGMA synchronous=OFF")  # a lost mark costs time, never a wrong answer
        database.execute("CREATE TABLE IF NOT EXISTS verified (segment INTEGER PRIMARY KEY, bytes INTEGER NOT NULL)")
        return database

    def read(self) -> dict[int, int]:
        if self._database is None:
            return {}
        try:
            return {int(segment): int(count) for segment, count in self._database.execute("SELECT * FROM verified")}
        except apsw.Error:
            return {}

    def write(self, verified: dict[int, int]) -> None:
        if self._database is None or not verified:
            return
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO verified VALUES (?, ?)", verified.items())
        except apsw.Error:
            return
        verified.clear()

    def clear(self) -> None:
        if self._database is None:
            return
        try:
            self._database.execute("DELETE FROM verified")
        except apsw.Error:
            self._database.close()
            self._database = None
            _remove(self._path)


def _remove(path: str) -> None:
    for name in (path, f"{path}-journal", f"{path}-wal", f"{path}-shm"):
        try:
            os.unlink(name)
        except FileNotFoundError:
            continue
