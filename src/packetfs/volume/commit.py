"""The commit: a tree becomes a snapshot, and a ref moves to it. The last step of every push, from here or from a peer.

The order is the whole point (docs/formats/journal.md): bytes, chunk table, and only then, in one transaction, the
journal entry, the ref and the heads of the segments. Killed before that transaction is durable, nothing has happened.
What removes something is entered into the journal in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw

from packetfs import kernel
from packetfs.errors import ConflictError
from packetfs.format.entry import Body, Commit, Position
from packetfs.format.snapshot import Snapshot, Statistics, decode_snapshot, encode_snapshot
from packetfs.volume import refs, removals, space, standing

if TYPE_CHECKING:
    from packetfs.volume.keys import Keys
    from packetfs.volume.volume import Volume

__all__ = ["Committed", "Proposal", "commit", "encode", "enter", "proposal_of", "snapshot_of"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """All that one who pushes says of a snapshot. When it is committed the sequencer says."""

    root: bytes
    """The root entry, encoded."""
    root_digest: bytes
    parent: bytes
    """Id of the snapshot that the ref has to name until then; empty if there has to be no such ref."""
    host: str
    user: str
    paths: tuple[bytes, ...]
    statistics: Statistics
    message: str
    root_is_source: bool
    tags: tuple[str, ...] = ()
    source_time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A snapshot that its ref names, and the position of the journal entry that says so."""

    snapshot: Snapshot
    position: Position


def snapshot_of(proposal: Proposal, time_ns: int, keys: "Keys") -> Snapshot:
    """The snapshot that a proposal becomes when it is committed at `time_ns`: the same on every machine."""
    data = encode(proposal, time_ns)
    return decode_snapshot(data, keys.snapshot_id(data))


def encode(proposal: Proposal, time_ns: int) -> bytes:
    """The bytes of that snapshot."""
    return encode_snapshot(
        root=proposal.root,
        root_digest=proposal.root_digest,
        parent=proposal.parent,
        time_ns=time_ns,
        host=proposal.host,
        user=proposal.user,
        paths=proposal.paths,
        statistics=proposal.statistics,
        message=proposal.message,
        root_is_source=proposal.root_is_source,
        tags=proposal.tags,
        source_time_ns=proposal.source_time_ns,
    )


def proposal_of(snapshot: Snapshot) -> Proposal:
    """What `snapshot` was before it was committed."""
    return Proposal(
        root=snapshot.root,
        root_digest=snapshot.root_digest,
        parent=snapshot.parent,
        host=snapshot.host,
        user=snapshot.user,
        paths=snapshot.paths,
        statistics=snapshot.statistics,
        message=snapshot.message,
        root_is_source=snapshot.root_is_source,
        tags=snapshot.tags,
        source_time_ns=snapshot.source_time_ns,
    )


def commit(
    volume: "Volume", filling: space.Filling, lease: kernel.Lease, ref: str, proposal: Proposal, *, settled: bool
) -> Committed:
    """Make what the leases hold durable, then move `ref`. On a conflict the data stays, for the push that is run again.

    `lease` gets the journal entry and is the last to be synced. Unless it is `settled`, its bytes are synced before the
    exclusive part, which then syncs no more than one chunk.
    """
    filling.settle()  # what the pages point to in earlier leases is durable before the entry that needs it
    if not settled:
        filling.sync(lease)
    try:
        with volume.journal.writing() as db:
            standing.check_origin(db)
            refs.check_unmoved(db, ref, proposal.parent)
            removals.check_round(db, volume.round)
            previous, previous_ns = refs.last_entry(db, volume.keys)
            time_ns = max(volume.env.now_ns(), previous_ns + 1)
            snapshot = snapshot_of(proposal, time_ns, volume.keys)
            entry = Commit(ref=ref, expected=proposal.parent, snapshot_id=snapshot.id, snapshot=snapshot.data)
            epoch = space.epoch(db, volume.keys)
            data, position = refs.append(volume.keys, entry, previous=previous, epoch=epoch, time_ns=time_ns)
            address = lease.append_journal(volume.keys.sealed(data))
            durable = filling.sync(lease)
            refs.moved(db, data=data, position=position, address=address, ref=ref, snapshot=snapshot)
            space.record(db, volume.keys, durable, full=False)
    except ConflictError:
        filling.keep(lease)
        raise
    volume.admit([durable])
    return Committed(snapshot, position)


def enter(
    volume: "Volume",
    decide: Callable[[apsw.Connection], Body],
    then: Callable[[apsw.Connection, Position], None],
) -> Position:
    """Enter what `decide` says into the journal and do `then`, in one transaction. If either raises, nothing happens.

    One entry at a time: after a crash a segment may hold one that was not committed, and never two.
    """
    with volume.filling() as filling:
        lease = filling.lease_for_entry(None)
        with volume.journal.writing() as db:
            standing.check_origin(db)
            body = decide(db)
            previous, previous_ns = refs.last_entry(db, volume.keys)
            data, position = refs.append(
                volume.keys,
                body,
                previous=previous,
                epoch=space.epoch(db, volume.keys),
                time_ns=max(volume.env.now_ns(), previous_ns + 1),
            )
            address = lease.append_journal(volume.keys.sealed(data))
            durable = filling.sync(lease)
            refs.entered(db, data=data, position=position, address=address)
            then(db, position)
            space.record(db, volume.keys, durable, full=False)
        volume.admit([durable])
    return position
