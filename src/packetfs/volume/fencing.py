"""A copy of a volume learns that a later epoch began elsewhere: from then on it is not written to.

Whoever says so proves it with the entry that began the epoch and its MAC, which only full holders of the volume can
make; where the operator says so (`packetfs replicate NEW DIR`) the new origin's journal is proof enough. `go_back` then
lets the copy follow the new origin, from the last entry that both have.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from packetfs.errors import BusyError, InvalidError, RefusedError, disk_error
from packetfs.format.entry import Entry, NewEpoch, Position, Reclaim, decode_entry
from packetfs.format.snapshot import Snapshot
from packetfs.volume import files, pins, refs, removals, space, standing
from packetfs.volume.creation import REPLICA_MARK
from packetfs.volume.replay import replay
from packetfs.volume.standing import Arrived, Standing

if TYPE_CHECKING:
    import apsw

    from packetfs.volume.volume import Volume

__all__ = ["alone", "check_proof", "fence", "go_back"]


def check_proof(volume: "Volume", proof: bytes) -> Entry:
    """The entry that began an epoch, from a peer. InvalidError unless a full holder of this volume has made it."""
    data = volume.keys.unsealed(proof)
    entry = decode_entry(data) if data is not None else None
    if entry is None or not isinstance(entry.body, NewEpoch):
        raise InvalidError("what should prove that an epoch began proves nothing", code="protocol-violation")
    return entry


def fence(volume: "Volume", epoch: int, origin: str) -> bool:
    """Write nothing to this copy any more, because `epoch` began elsewhere. Durable when this returns.

    False, and nothing has happened, if that is none later than its own. `origin` is where that was, for people.
    """
    with volume.journal.writing() as db:
        own = _epoch(db, volume)
        found = standing.current(db)
        if epoch <= own or (found is not None and (found.role == "replica" or found.epoch >= epoch)):
            return found is not None and found.role == "fenced" and found.epoch >= epoch
        number = found.number if found is not None else standing.number_in(own)
        standing.enter(db, Standing("fenced", origin or (found.origin if found is not None else ""), number, epoch))
    return True


def alone(volume: "Volume", fork: Position) -> list[tuple[str, int, Snapshot]]:
    """What was committed here after `fork` and is kept: (ref, seq, snapshot), oldest first."""
    found: list[tuple[str, int, Snapshot]] = []
    seq = fork.seq
    while True:
        with volume.journal.reading() as db:
            page = refs.commits(db, volume.keys, seq)
        if not page:
            return found
        found += page
        seq = page[-1][1]


def go_back(volume: "Volume", fork: Position, origin: str, arrived: Sequence[Arrived]) -> None:
    """Be a replica of `origin` at the position `fork`: entries after it are taken out, bytes stay where they are.

    `arrived` are commits after it, there, whose snapshots are here whole. One transaction. What was reclaimed after
    `fork` counts as damaged from then on, until it is mended from there. Open it again: what was read is old.
    """
    with pins.following(volume.gate), pins.collecting(volume.gate):
        entries: list[tuple[Entry, bytes, int]] = []
        with volume.journal.reading() as db:
            last, _ = refs.last_entry(db, volume.keys)
            while page := refs.entries_after(db, volume.keys, entries[-1][0].seq if entries else 0, last.seq):
                entries += page
        gone = [
            extent
            for entry, _, _ in entries
            if entry.seq > fork.seq and isinstance(entry.body, Reclaim)
            for segment, ranges in entry.body.ranges
            for extent in removals.extents(segment, ranges)
        ]
        if gone:
            volume.remember_damage(gone, complete=False)
        _mark(volume)
        with volume.journal.writing() as db:
            found = standing.current(db)
            if found is None or found.role != "fenced" or refs.last_entry(db, volume.keys)[0] != last:
                raise BusyError("the copy was changed by another process", hint="run it again")
            if refs.position_at(db, volume.keys, fork.seq) != fork:
                raise RefusedError(f"position {fork} is not in the journal here", code="diverged")
            refs.clear(db)
            removals.clear(db)
            previous = volume.keys.genesis
            for entry, data, address in entries[: fork.seq]:
                previous = Position(entry.seq, volume.keys.entry_hash(data))
                replay(db, volume.keys, entry, data=data, position=previous, address=address)
            for durable in space.changed_segments(db, volume.keys, 0)[0]:
                space.record(db, volume.keys, durable, full=True)
            standing.enter(db, Standing("replica", origin, found.number, found.epoch))
            for one in arrived:
                standing.arrive(db, one)


def _epoch(db: "apsw.Connection", volume: "Volume") -> int:
    return max(refs.epoch_at(db, volume.keys), space.epoch(db, volume.keys))


def _mark(volume: "Volume") -> None:
    place = os.path.join(volume.path, REPLICA_MARK)
    if os.path.exists(place):
        return
    try:
        files.write_new(place, b"")
        files.sync_directory(volume.path)
    except OSError as error:
        raise disk_error("create", place, error.errno or 0) from None
