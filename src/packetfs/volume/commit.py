"""The commit: a tree becomes a snapshot, and a ref moves to it. The last step of every push, from here or from a peer.

The order is the whole point (docs/formats/journal.md): bytes, chunk table, and only then, in one transaction, the
journal entry, the ref and the heads of the segments. Killed before that transaction is durable, nothing has happened.
What removes something is entered into the journal in the same way.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import apsw

from packetfs import kernel
from packetfs.errors import ConflictError, PacketFSError, UnavailableError
from packetfs.format.entry import ENTRY_BYTES_MAX, MAC_BYTES, Body, Commit, Position
from packetfs.format.snapshot import Snapshot, Statistics, decode_snapshot, encode_snapshot
from packetfs.volume import refs, removals, space, standing

if TYPE_CHECKING:
    from packetfs.volume.keys import Keys
    from packetfs.volume.volume import Volume

__all__ = ["GROUP_MAX", "Committed", "Proposal", "commit", "encode", "enter", "proposal_of", "snapshot_of"]

GROUP_MAX: Final = 64  # commits in one transaction: 4 MiB of entries at most, which have to be one batch


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


@dataclass(slots=True, eq=False)
class _Wish:
    """A commit that waits for its turn; then `done`, or why it is not."""

    volume: "Volume"
    filling: space.Filling
    lease: kernel.Lease
    ref: str
    proposal: Proposal
    durable: space.Durable | None
    """What its lease holds, once that is synced."""
    done: Committed | None = None
    error: BaseException | None = None
    turn: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """See group.Wish."""
        return self.done is not None or self.error is not None


def commit(
    volume: "Volume", filling: space.Filling, lease: kernel.Lease, ref: str, proposal: Proposal, *, settled: bool
) -> Committed:
    """Make what the leases hold durable, then move `ref`. On a conflict the data stays, for the push that is run again.

    `lease` gets the journal entry and is the last to be synced. Unless it is `settled`, its bytes are synced before the
    exclusive part, which then syncs no more than one chunk. Where threads of one process commit at the same time, one
    of them does it for all that wait, in one transaction (see `group.py`).
    """
    filling.settle()  # what the pages point to in earlier leases is durable before the entry that needs it
    queue = volume.journal.queue
    durable = None if settled and queue.is_free else filling.sync(lease)
    wish = _Wish(volume, filling, lease, ref, proposal, durable)
    queue.join(wish, _commit_together)
    if isinstance(wish.error, ConflictError):
        filling.keep(lease)
    if wish.error is not None:
        raise wish.error
    assert wish.done is not None, "a wish that is over is done, or has failed"
    return wish.done


def _commit_together(first: _Wish, waiting: Sequence[_Wish]) -> None:
    """Commit `first`, and as many of those that wait as there is room for their entries; only what is durable."""
    room = min(GROUP_MAX, first.lease.room // (ENTRY_BYTES_MAX + MAC_BYTES)) - 1
    group = [first, *[other for other in waiting if other.durable is not None][: max(0, room)]]
    done: list[tuple[_Wish, Committed]] = []
    try:
        if len(group) > 1 and first.durable is None:
            first.durable = first.filling.sync(first.lease)  # so that their entries are one batch of the chunk table
        with first.volume.journal.writing() as db:
            done = _enter_together(db, group)
            if not done:
                return
            durable = first.filling.sync(first.lease)
            space.record(db, first.volume.keys, durable, full=False)
    except BaseException as error:
        for one in group:
            if not first.volume.journal.is_usable or not isinstance(error, PacketFSError):
                one.volume.journal.poison(error)
            one.error = error if one is first or isinstance(error, PacketFSError) else _interrupted(one.ref)
        if not isinstance(error, PacketFSError):
            raise
        return
    for one, committed in done:
        one.done = committed  # of all, before anything else can fail: nobody who is committed may try again
    for one, _ in done:
        one.volume.admit([durable if one is first or one.durable is None else one.durable])


def _enter_together(db: apsw.Connection, group: Sequence[_Wish]) -> list[tuple[_Wish, Committed]]:
    """Append the entries of those whose ref is where it was to the first one's lease, and move their refs."""
    first, keys = group[0], group[0].volume.keys
    standing.check_origin(db)
    previous, previous_ns = refs.last_entry(db, keys)
    epoch = space.epoch(db, keys)
    done = []
    for one in group:
        try:
            refs.check_unmoved(db, one.ref, one.proposal.parent)
            removals.check_round(db, one.volume.round)
        except ConflictError as error:
            one.error = error
            continue
        time_ns = max(first.volume.env.now_ns(), previous_ns + 1)
        snapshot = snapshot_of(one.proposal, time_ns, keys)
        entry = Commit(ref=one.ref, expected=one.proposal.parent, snapshot_id=snapshot.id, snapshot=snapshot.data)
        data, position = refs.append(keys, entry, previous=previous, epoch=epoch, time_ns=time_ns)
        address = first.lease.append_journal(keys.sealed(data))
        refs.moved(db, data=data, position=position, address=address, ref=one.ref, snapshot=snapshot)
        if one is not first and one.durable is not None:
            space.record(db, keys, one.durable, full=False)
        done.append((one, Committed(snapshot, position)))
        previous, previous_ns = position, time_ns
    return done


def _interrupted(ref: str) -> UnavailableError:
    return UnavailableError(
        f"whether ref {ref!r} was moved is not known: another push of this process, which did it, was interrupted",
        code="volume-failed",
        hint="run the push again: it continues from what was committed",
        ref=ref,
    )


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
