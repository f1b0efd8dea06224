"""Verify: every committed byte of a volume against its digest, and what it means for snapshots when some are wrong.

Nothing is repaired here, but what was found is remembered in the volume, so that the next push stores anew what it
would otherwise point to (`Volume.remember_damage`). A run that is stopped leaves marks in `cache.db` (derived: it may
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

from packetfs.errors import DamagedError, PacketFSError, UnavailableError
from packetfs.events import Progress
from packetfs.format.address import OFFSET_BITS, SEGMENT_BYTES, Extent
from packetfs.format.snapshot import Snapshot
from packetfs.volume import Volume

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
    paths: tuple[DamagedPath, ...]
    journal: str
    """What is wrong with the journal, or empty."""

    @property
    def sound(self) -> bool:
        """Whether every byte is what it should be, and every snapshot has all of its bytes."""
        return not (self.ranges or self.paths or self.journal)


def verify(
    volume: Volume,
    *,
    restart: bool = False,
    progress: Callable[[Progress], None] | None = None,
    found: Callable[[DamagedRange], None] | None = None,
) -> ScrubReport:
    """Check the journal, every committed chunk of `volume` and every snapshot; damage is reported, not raised.

    A snapshot is whole when all that its pages point to is committed. Goes on where a stopped run was, unless
    `restart`. Pushes may run meanwhile: what is committed after the start is left to the next run.
    """
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
        try:
            for step in _scan(volume, [(segment, start[segment], head) for segment, head, _ in segments]):
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
        _remember(volume, ranges, complete=True)
        outside = _uncommitted({segment: head for segment, head, _ in segments}) + volume.reclaimed()
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
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """One call's worth of a segment."""

    segment: int
    next: int
    checked_bytes: int
    damaged: tuple[DamagedRange, ...]
    sound: bool
    """No damage in this segment so far."""


def _scan(volume: Volume, work: Sequence[tuple[int, int, int]]) -> Iterator[_Step]:
    """Check segments (number, from, head), several at a time; steps of one segment come in order."""
    waiting = iter([item for item in work if item[1] < item[2]])
    threads = min(os.cpu_count() or 1, THREADS_MAX)
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        running: dict[Future[_Step], int] = {}
        for _, (segment, offset, head) in zip(range(threads), waiting, strict=False):
            running[pool.submit(_check, volume, segment, offset, head, sound=True)] = head
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                head = running.pop(future)
                step = future.result()
                if step.next < head:
                    again = pool.submit(_check, volume, step.segment, step.next, head, sound=step.sound)
                    running[again] = head
                elif (following := next(waiting, None)) is not None:
                    running[pool.submit(_check, volume, *following, sound=True)] = following[2]
                yield step


def _check(volume: Volume, segment: int, offset: int, head: int, *, sound: bool) -> _Step:
    file = os.path.join(volume.path, "segments", volume.space.slot(segment) + ".data")
    base = segment << OFFSET_BITS
    try:
        checked_bytes, following, extents = volume.space.verify(segment, offset, STEP_BYTES)
        if extents:
            volume.admit_new()  # what was reclaimed meanwhile is no damage
            checked_bytes, following, extents = volume.space.verify(segment, offset, STEP_BYTES)
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


def _journal_damage(volume: Volume) -> str:
    try:
        volume.check_journal()
    except DamagedError as error:
        return error.message
    return ""


def _snapshots(volume: Volume) -> list[tuple[str, Snapshot]]:
    """Every snapshot with its ref, newest first; of a damaged journal those that can be read."""
    found: list[tuple[str, Snapshot]] = []
    with suppress(DamagedError):  # the check of the journal says so
        found.extend((ref, snapshot) for ref, _, snapshot in volume.snapshots())
    return found[::-1]


def _remember(volume: Volume, ranges: Sequence[DamagedRange], *, complete: bool) -> None:
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


def _paths(volume: Volume, snapshots: list[tuple[str, Snapshot]], extents: list[Extent]) -> Iterator[DamagedPath]:
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


def _touching(volume: Volume, snapshot: Snapshot, extents: list[Extent]) -> list[bytes]:
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
