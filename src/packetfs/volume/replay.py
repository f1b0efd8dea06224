"""What a journal entry says is done again: after a rebuild from the segments, and in a copy that follows its origin.

Whether the entry belongs where it is put is the caller's question, but for `check_next`; what is done is only rows.
"""

import apsw

from packetfs.errors import DamagedError
from packetfs.format.entry import Commit, Entry, Forget, NewEpoch, Position, Reclaim
from packetfs.format.snapshot import decode_snapshot
from packetfs.volume import refs, removals
from packetfs.volume.keys import Keys

__all__ = ["check_next", "replay"]


def check_next(entry: Entry, previous: Position, previous_ns: int, epoch: int) -> None:
    """DamagedError unless `entry` can follow the one at `previous`, which was of that time and epoch."""
    if entry.seq != previous.seq + 1 or entry.previous != previous.hash:
        raise _damaged(f"journal entry {entry.seq} does not continue position {previous}")
    if entry.time_ns <= previous_ns or entry.epoch < epoch:
        raise _damaged(f"journal entry {entry.seq} is older than the one before it")
    if entry.epoch > epoch and not isinstance(entry.body, NewEpoch):
        raise _damaged(f"journal entry {entry.seq} is of epoch {entry.epoch}, which did not begin")
    if isinstance(entry.body, NewEpoch) and (entry.body.recovered_seq, entry.body.recovered_hash) != previous:
        raise _damaged(f"journal entry {entry.seq} begins an epoch elsewhere than where it stands")


def replay(db: apsw.Connection, keys: Keys, entry: Entry, *, data: bytes, position: Position, address: int) -> None:
    """Write an entry, whose bytes are `data` and rest at `address`, and do what it says."""
    match entry.body:
        case Commit() as commit:
            if keys.snapshot_id(commit.snapshot) != commit.snapshot_id:
                raise DamagedError(f"the snapshot of journal entry {position.seq} does not have its id")
            snapshot = decode_snapshot(commit.snapshot, commit.snapshot_id)
            refs.moved(db, data=data, position=position, address=address, ref=commit.ref, snapshot=snapshot)
        case NewEpoch():
            refs.entered(db, data=data, position=position, address=address)
        case Forget() as forget:
            refs.entered(db, data=data, position=position, address=address)
            refs.forgotten(db, forget)
        case Reclaim() as reclaim:
            refs.entered(db, data=data, position=position, address=address)
            removals.reclaim(db, keys, reclaim, position.seq)


def _damaged(message: str) -> DamagedError:
    return DamagedError(
        message, code="transfer-damaged", hint="verify the journal at the origin: `packetfs verify` there"
    )
