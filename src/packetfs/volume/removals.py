"""What was removed from a volume and what is about to be: the rows that say so, inside a transaction of `journal.py`.

*Condemned* ranges are still there, and nothing new is pointed at them; they may be spared. *Reclaimed* ranges are gone
for ever: the journal has said so first. `gc.py` tells when which becomes what.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apsw

from packetfs import kernel
from packetfs.errors import ConflictError, DamagedError
from packetfs.format.address import OFFSET_BITS, Extent
from packetfs.format.entry import Reclaim
from packetfs.volume.journal import has_removals, prepare_removals, select
from packetfs.volume.keys import Keys

__all__ = [
    "Ranges",
    "Round",
    "change",
    "check_round",
    "clear",
    "condemn",
    "condemned",
    "current_round",
    "extents",
    "punched",
    "punching",
    "reclaim",
    "reclaimed_bytes",
    "spare",
]

Ranges = tuple[int, bytes]
"""Segment, and ranges in it as the kernel packs them."""


@dataclass(frozen=True, slots=True)
class Round:
    """How far the reclaiming of space is."""

    number: int
    """How often anything was condemned."""
    seq: int
    """The last journal entry before that happened the last time."""
    reclaimed: int
    """The last round that reclaimed anything."""


def extents(segment: int, ranges: bytes) -> Iterator[Extent]:
    """Packed ranges as extents."""
    for start, end in struct.iter_unpack("<II", ranges):
        yield segment << OFFSET_BITS | start, end - start


def current_round(db: apsw.Connection) -> Round:
    """Where it is."""
    if not has_removals(db):
        return Round(0, 0, 0)
    rows = select(db, (int, int, int), "SELECT round, seq, reclaimed FROM rounds")
    if len(rows) != 1:
        raise _damaged("does not say how often anything was condemned")
    return Round(*rows[0])


def check_round(db: apsw.Connection, number: int | None) -> None:
    """ConflictError if space was reclaimed since round `number`: what its holder points to may be gone.

    Whoever reclaims waits for all pins, so this cannot be; but a commit that points to a hole cannot be undone.
    """
    if number is None or number < current_round(db).reclaimed:
        raise ConflictError(
            "space of the volume was reclaimed during the push",
            code="reclaimed-meanwhile",
            hint="run the push again",
        )


def condemn(db: apsw.Connection, rows: Sequence[Ranges], seq: int) -> int:
    """Condemn these ranges and no others, as of entry `seq`; the number of the round that this begins."""
    prepare_removals(db)
    db.execute("DELETE FROM condemned")
    db.executemany("INSERT INTO condemned VALUES (?, ?)", rows)
    db.execute("UPDATE rounds SET round = round + 1, seq = ?", (seq,))
    return current_round(db).number


def condemned(db: apsw.Connection) -> list[Ranges]:
    """What is condemned."""
    return select(db, (int, bytes), "SELECT segment, ranges FROM condemned") if has_removals(db) else []


def spare(db: apsw.Connection) -> None:
    """What is condemned and was not reclaimed is as good as it was."""
    db.execute("DELETE FROM condemned")


def reclaim(db: apsw.Connection, keys: Keys, entry: Reclaim, seq: int) -> None:
    """Do what entry `seq` says. The blocks are given back later: `punching` remembers which segments are waiting."""
    prepare_removals(db)
    for segment, ranges in entry.ranges:
        before = select(db, (bytes,), "SELECT ranges FROM reclaimed WHERE segment = ?", (segment,))
        merged = kernel.merge_ranges(before[0][0], ranges) if before else ranges
        row = (segment, merged, kernel.ranges_bytes(merged), seq, keys.ranges_check(segment, seq, merged))
        db.execute("INSERT OR REPLACE INTO reclaimed VALUES (?, ?, ?, ?, ?)", row)
        db.execute("INSERT OR REPLACE INTO punching VALUES (?)", (segment,))
    db.execute("UPDATE rounds SET reclaimed = round")


def clear(db: apsw.Connection) -> None:
    """Forget what is gone and what is about to be, to do again what the entries say."""
    if has_removals(db):
        for table in ("reclaimed", "condemned", "punching"):
            db.execute(f"DELETE FROM {table}")  # noqa: S608 - literals


def change(db: apsw.Connection, keys: Keys, after_seq: int) -> tuple[list[Ranges], int]:
    """All that is gone of segments of which entries after `after_seq` reclaimed something, and the last of these."""
    if not has_removals(db):
        return [], after_seq
    rows = select(
        db,
        (int, bytes, int, bytes),
        "SELECT segment, ranges, seq, row_check FROM reclaimed WHERE seq > ? ORDER BY seq",
        (after_seq,),
    )
    for segment, ranges, seq, check in rows:
        if check != keys.ranges_check(segment, seq, ranges):
            raise _damaged(f"has a row of segment {segment} without its check")
    return [(row[0], row[1]) for row in rows], rows[-1][2] if rows else after_seq


def reclaimed_bytes(db: apsw.Connection) -> int:
    """How many addresses have no bytes any more."""
    return int(db.execute("SELECT coalesce(sum(bytes), 0) FROM reclaimed").get) if has_removals(db) else 0


def punching(db: apsw.Connection) -> list[int]:
    """Segments of which blocks may still have to be given back."""
    return [row[0] for row in select(db, (int,), "SELECT segment FROM punching")] if has_removals(db) else []


def punched(db: apsw.Connection, segments: Sequence[int]) -> None:
    """The blocks of these segments have been given back."""
    db.executemany("DELETE FROM punching WHERE segment = ?", [(segment,) for segment in segments])


def _damaged(what: str) -> DamagedError:
    return DamagedError(
        f"journal.db {what}", code="journal-damaged", hint="`packetfs rebuild` recovers it from the segments"
    )
