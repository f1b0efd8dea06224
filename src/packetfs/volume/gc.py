"""Space that nothing needs any more is given back, while others push and pull. Why that is safe: docs/design/space.md.

The order is the whole point. Mark what is kept; *condemn* the rest, so that from then on nothing new points there; wait
for all who began before that; spare what they still came to need; enter the rest into the journal as *reclaimed*; and
only then punch holes. No address is used again or moved. Killed at any instant, the next run goes on.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from packetfs import kernel
from packetfs.errors import BusyError, DamagedError
from packetfs.events import Phase, Progress
from packetfs.format.entry import Reclaim
from packetfs.volume import pins, refs, removals, reserve
from packetfs.volume.commit import enter
from packetfs.volume.removals import Ranges

if TYPE_CHECKING:
    from packetfs.volume.volume import Volume

__all__ = ["GRACE_S", "WAIT_S", "Collected", "collect", "punch"]

GRACE_S: Final = 3600.0  # a push that was killed is run again by then, and finds what it had stored
WAIT_S: Final = 60.0
_LOOK_S: Final = 0.025
_RANGES_BYTES_MAX: Final = 48 << 10  # of an entry's 64 KiB
_ROUND_BYTES_MAX: Final = 1 << 20  # of condemned ranges: what one transaction writes in some milliseconds
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found and given back."""

    snapshots: int
    """That are kept."""
    reached_bytes: int
    """What they need, trees included."""
    unreached_bytes: int
    """What nothing needs. In a dry run that is all; else it was reclaimed."""
    young_bytes: int
    """What nothing needs and was stored too recently."""
    freed_bytes: int
    """What the file system has got back: whole blocks."""
    ranges: int
    dry_run: bool


def collect(
    volume: "Volume",
    *,
    grace_s: float = GRACE_S,
    wait_s: float = WAIT_S,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Collected:
    """Reclaim what no snapshot that is kept needs, unless it was stored within the last `grace_s`.

    Who else began to use the volume before is waited for, at most `wait_s`: then BusyError names them, and the next run
    goes on. What this object itself has read before is not waited for. DamagedError, and nothing is reclaimed, if a
    page of a kept tree is damaged: nobody knows what it needs.
    """
    if dry_run:
        _tell(progress, "marking")
        mark = kernel.Mark(volume.space)
        count, _ = _mark(volume, mark)
        found, young_bytes = mark.unreached(_settled(volume, grace_s))
        return Collected(count, mark.reached_bytes, _bytes(found), young_bytes, 0, _count(found), dry_run=True)
    volume.check_writable()
    with volume.in_turn(), pins.collecting(volume.gate), reserve.spent(volume.path):
        total = Collected(0, 0, 0, 0, punch(volume, progress), 0, dry_run=False)
        with volume.journal.reading() as db:
            is_begun = bool(removals.condemned(db))
        if is_begun:
            total = _added(total, _finish(volume, kernel.Mark(volume.space), wait_s, progress))
        while True:
            _tell(progress, "marking")
            chosen = _condemn(volume, grace_s)
            if chosen.condemned:
                total = _added(total, _finish(volume, chosen.mark, wait_s, progress))
            if chosen.is_all:
                return replace(
                    total,
                    snapshots=chosen.snapshots,
                    reached_bytes=chosen.mark.reached_bytes,
                    young_bytes=chosen.young_bytes,
                )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What was marked, and what was condemned."""

    mark: kernel.Mark
    snapshots: int
    young_bytes: int
    condemned: int
    is_all: bool
    """Whether one round does for all that is not needed."""


def _condemn(volume: "Volume", grace_s: float) -> _Chosen:
    """Condemn what is not needed, or as much of it as one round takes."""
    mark = kernel.Mark(volume.space)
    for _ in range(_ATTEMPTS):
        count, seq = _mark(volume, mark)
        found, young_bytes = mark.unreached(_settled(volume, grace_s))
        rows, is_all = _as_much_as(found)
        if not rows:
            return _Chosen(mark, count, young_bytes, 0, is_all=True)
        with volume.journal.writing() as db:
            # What was committed since may point to what nothing pointed to before.
            if refs.last_entry(db, volume.keys)[0].seq == seq:
                removals.condemn(db, rows, seq)
                return _Chosen(mark, count, young_bytes, len(rows), is_all)
    raise BusyError(
        "others commit to the volume faster than what is needed can be marked",
        hint="run it again when there is less going on",
    )


def _finish(
    volume: "Volume", mark: kernel.Mark, wait_s: float, progress: Callable[[Progress], None] | None
) -> Collected:
    """Reclaim what is condemned and, now that nobody can come to need it any more, is still not needed."""
    volume.renew()
    with volume.journal.reading() as db:
        this = removals.current_round(db)
        rows = removals.condemned(db)
    _tell(progress, "waiting")
    _wait(volume, this.number, wait_s)
    count, _ = _mark(volume, mark)
    _mark_unkept(volume, mark, this.seq)
    rows = mark.spared(rows)
    _tell(progress, "reclaiming")
    for entry in _entries(rows):
        _enter(volume, entry)
    with volume.journal.writing() as db:
        removals.spare(db)
    volume.renew()
    freed_bytes = punch(volume, progress)
    return Collected(count, mark.reached_bytes, _bytes(rows), 0, freed_bytes, _count(rows), dry_run=False)


def _enter(volume: "Volume", entry: Reclaim) -> None:
    enter(volume, lambda _: entry, lambda db, at: removals.reclaim(db, volume.keys, entry, at.seq))


def _mark(volume: "Volume", mark: kernel.Mark) -> tuple[int, int]:
    """Mark what every snapshot that is kept needs; how many there are, and the entry as of which that is."""
    with volume.journal.reading() as db:
        position, _ = refs.last_entry(db, volume.keys)
        snapshots = refs.all_kept(db, volume.keys)
    volume.admit_new()
    try:
        mark.trees([snapshot.root for snapshot in snapshots])
    except DamagedError as error:
        raise DamagedError(
            f"a kept snapshot needs a page that is damaged, and what the page points to is not known: {error.message}",
            hint="`packetfs verify` names the snapshots: forget them, then run it again",
        ) from None
    return len(snapshots), position.seq


def _mark_unkept(volume: "Volume", mark: kernel.Mark, after_seq: int) -> None:
    """What was committed since and is forgotten already may still be read by who found it: this round spares it."""
    while True:
        with volume.journal.reading() as db:
            page = refs.committed_after(db, volume.keys, after_seq)
        if not page:
            return
        for _, after_seq, snapshot in page:  # noqa: B007 - the last one is where the next page begins
            with suppress(DamagedError):  # then nobody can read it either
                mark.trees([snapshot.root])


def _settled(volume: "Volume", grace_s: float) -> list[tuple[int, int, int, int]]:
    """Of each segment (number, head, chunk-table bytes), and up to where it was filled before the grace period."""
    segments = volume.segments()
    if grace_s <= 0:
        return [(segment, head, table_bytes, head) for segment, head, table_bytes in segments]
    since_ns = volume.env.now_ns() - int(grace_s * 1e9)
    with volume.journal.reading() as db:
        ends = refs.entry_ends(db, volume.keys, since_ns)
    return [
        (segment, head, table_bytes, head if _written_ns(volume, segment) < since_ns else ends.get(segment, 0))
        for segment, head, table_bytes in segments
    ]


def _written_ns(volume: "Volume", segment: int) -> int:
    """When a segment was last written to; without its file, which is damage, now."""
    try:
        return os.stat(os.path.join(volume.path, "segments", f"{volume.space.slot(segment)}.data")).st_mtime_ns
    except OSError:
        return volume.env.now_ns()


def _wait(volume: "Volume", number: int, wait_s: float) -> None:
    """Until nobody is left who has not seen what is condemned."""
    env, begun_s = volume.env, volume.env.monotonic_s()
    while pins.is_pinned(volume.gate, number):
        if env.monotonic_s() - begun_s >= wait_s:
            found = pins.holders(volume.gate, number)
            who = f"process {', '.join(map(str, found))}" if found else "another process"
            raise BusyError(
                f"{who} used the volume before it was chosen what to reclaim, and still does after {wait_s:g} s",
                code="volume-in-use",
                hint="run it again when that has ended, or wait longer with --wait: it goes on from here",
                processes=found,
            )
        env.sleep(_LOOK_S)


def punch(volume: "Volume", progress: Callable[[Progress], None] | None = None) -> int:
    """Give back the blocks of what is reclaimed; bytes that this freed. What was begun is done again."""
    with volume.journal.reading() as db:
        segments = removals.punching(db)
    if not segments:
        return 0
    freed_bytes = 0
    for segment in segments:
        _tell(progress, "punching", freed_bytes)
        freed_bytes += volume.space.punch(segment)
    with volume.journal.writing() as db:
        removals.punched(db, segments)
    return freed_bytes


def _as_much_as(found: Sequence[Ranges]) -> tuple[list[Ranges], bool]:
    """As many of the ranges as one round takes, and whether that is all."""
    rows: list[Ranges] = []
    room = _ROUND_BYTES_MAX
    for segment, ranges in found:
        if rows and len(ranges) > room:
            return rows, False
        rows.append((segment, ranges))
        room -= len(ranges)
    return rows, True


def _entries(rows: Sequence[Ranges]) -> Iterator[Reclaim]:
    """The ranges in entries that are short enough."""
    part: list[Ranges] = []
    room = _RANGES_BYTES_MAX
    for segment, ranges in rows:
        for start in range(0, len(ranges), _RANGES_BYTES_MAX):
            piece = ranges[start : start + _RANGES_BYTES_MAX]
            if part and len(piece) + 16 > room:
                yield Reclaim(ranges=part)
                part, room = [], _RANGES_BYTES_MAX
            part.append((segment, piece))
            room -= len(piece) + 16
    if part:
        yield Reclaim(ranges=part)


def _added(one: Collected, other: Collected) -> Collected:
    return Collected(
        snapshots=other.snapshots,
        reached_bytes=other.reached_bytes,
        unreached_bytes=one.unreached_bytes + other.unreached_bytes,
        young_bytes=other.young_bytes,
        freed_bytes=one.freed_bytes + other.freed_bytes,
        ranges=one.ranges + other.ranges,
        dry_run=False,
    )


def _bytes(rows: Sequence[Ranges]) -> int:
    return sum(kernel.ranges_bytes(ranges) for _, ranges in rows)


def _count(rows: Sequence[Ranges]) -> int:
    return sum(len(ranges) // 8 for _, ranges in rows)


def _tell(progress: Callable[[Progress], None] | None, phase: Phase, done: int = 0) -> None:
    if progress is not None:
        progress(Progress(phase=phase, bytes=done))
