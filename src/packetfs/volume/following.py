"""A full replica brought up to date, entry by entry: what its origin sends is placed, proved, and only then entered.

Addresses, entries and their hashes are the origin's, so that two copies at one position are one. A snapshot is proved
by its root digest, made from bytes that were digested here; its entry is entered when it is, in one transaction with
all that belongs together, after the bytes are on disk. A commit whose snapshot the origin has forgotten since comes
without its bytes, and is entered only together with the entry that forgets it. Killed at any instant the replica is at
the position before or after. What had come of a snapshot that was not whole comes again.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw

from packetfs import kernel
from packetfs.errors import BusyError, DamagedError, RefusedError, UsageError
from packetfs.format.address import SEGMENT_BYTES, epoch_of, offset_of, segment_of
from packetfs.format.entry import MAC_BYTES, Commit, Entry, Position, Reclaim, decode_entry
from packetfs.format.location import check_ref
from packetfs.format.snapshot import Snapshot, decode_snapshot
from packetfs.volume import gc, pins, refs, removals, space, standing
from packetfs.volume.replay import check_next, replay
from packetfs.volume.space import PUBLISH_ENTRIES
from packetfs.volume.standing import Arrived, Standing

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from packetfs.volume.space import Durable
    from packetfs.volume.volume import Volume

__all__ = ["Follower"]

_FLUSHED_BYTES: Final = 64 << 20
_LEASES_MAX: Final = 64  # kept between snapshots: each is two open files
_PENDING_MAX: Final = 1 << 16  # entries that are entered together: 4 GiB of them, if each were as long as can be
_SLACK_BYTES: Final = 32 << 20
_SCRIPT_ENTRY_BYTES: Final = 1 << 20  # of one name, with its attributes


@dataclass(frozen=True, slots=True)
class _Pending:
    """An entry that was checked and is not entered yet."""

    entry: Entry
    data: bytes
    position: Position
    address: int
    bare: bool
    """A commit whose bytes never come."""


class Follower:
    """Takes entries into a full replica. A context manager; there is one at a time for a replica."""

    def __init__(self, volume: "Volume", entered: Callable[[Entry], None] | None = None) -> None:
        """`entered` hears of each entry once it is durable here."""
        self._volume = volume
        self._entered = entered
        self._lock = pins.following(volume.gate)
        self._leases: dict[int, kernel.Lease] = {}
        self._incoming: kernel.Incoming | None = None
        self._has_tree = False
        self._base: Snapshot | None = None
        self._carried: Snapshot | None = None
        self._left_bytes = 0
        self._unflushed_bytes = 0
        self._pending: list[_Pending] = []
        self._arrived: dict[int, Arrived] = {}
        self.position = volume.keys.genesis
        """Where the replica is, durable."""
        self._time_ns = 0
        self._epoch = 0

    def __enter__(self) -> "Self":
        self._lock.__enter__()
        try:
            self._check_replica()
            self.forget()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self._close_leases()
        self._incoming = None  # it knows this object, in a way that Python's collector does not see
        if self._volume.space.open_entries >= PUBLISH_ENTRIES:
            self._volume.space.publish_index()
        self._lock.__exit__(kind, error, traceback)

    @property
    def is_pending(self) -> bool:
        """Whether anything came that is not entered."""
        return bool(self._pending)

    def forget_unless_whole(self) -> None:
        """After an answer that broke off: stand where the journal does."""
        if self._pending or self._incoming is not None:
            self.forget()

    @property
    def arrived(self) -> list[int]:
        """Commits after the position whose snapshots are here whole."""
        return sorted(self._arrived)

    def forget(self) -> None:
        """Stand where the journal does: what came and was not entered is nobody's."""
        self._close_leases()
        self._incoming, self._carried = None, None
        self._pending.clear()
        with self._volume.journal.reading() as db:
            self.position, self._time_ns = refs.last_entry(db, self._volume.keys)
            self._epoch = refs.epoch_at(db, self._volume.keys)
            self._arrived = standing.arrived(db)

    def entry(self, data: bytes, address: int, *, carries: bool, base: int) -> Entry:
        """The next entry, which rests at `address`. If it `carries` a snapshot its bytes follow, coded against the
        snapshot that entry `base` committed (0: none). DamagedError if it cannot be what follows.
        """
        volume = self._volume
        self.finish()
        entry = decode_entry(data)
        last = self._pending[-1] if self._pending else None
        previous = last.position if last is not None else self.position
        previous_ns = last.entry.time_ns if last is not None else self._time_ns
        epoch = last.entry.epoch if last is not None else self._epoch
        check_next(entry, previous, previous_ns, epoch)
        if len(self._pending) == _PENDING_MAX:
            raise DamagedError("the origin sends entries that belong together without end", code="transfer-damaged")
        self._check_place(entry, address, len(data) + MAC_BYTES)
        is_commit = isinstance(entry.body, Commit)
        if isinstance(entry.body, Commit):
            _check_commit(entry.body)
        if carries and not is_commit:
            raise DamagedError(f"entry {entry.seq} is no commit and carries a snapshot", code="transfer-damaged")
        bare = is_commit and not carries and not self._has_arrived(entry)
        position = Position(entry.seq, volume.keys.entry_hash(data))
        self._pending.append(_Pending(entry, data, position, address, bare))
        if carries and isinstance(entry.body, Commit):
            self._begin(entry.body, base)
        return entry

    def literals(self, body: "Buffer") -> None:
        """Bytes of the snapshot that the last entry carries."""
        incoming = self._receiving()
        placed = incoming.literals(body)
        self._spend(max(placed, memoryview(body).nbytes))
        self._unflushed_bytes += placed
        if self._unflushed_bytes >= _FLUSHED_BYTES:
            self._volume.admit([lease.flush() for lease in self._leases.values()])
            self._unflushed_bytes = 0

    def tree(self, body: "Buffer") -> None:
        """A part of its tree's script."""
        incoming = self._receiving()
        if not self._has_tree:
            self._has_tree = True
            incoming.begin_tree(self._base.root if self._base is not None else None)
        self._spend(memoryview(body).nbytes)
        incoming.tree(body)

    def finish(self) -> None:
        """All of what the last entry carries has come. DamagedError if that is not its snapshot."""
        incoming, carried = self._incoming, self._carried
        self._incoming = self._carried = None
        if incoming is None or carried is None:
            return
        found = incoming.finish_tree() if self._has_tree else None
        if found != (carried.root, carried.root_digest):
            raise DamagedError(
                f"what arrived is not snapshot {carried.short}: its digest differs",
                code="transfer-damaged",
                hint="run it again; if it happens again, verify the volume at its origin",
            )
        one = Arrived(self._pending[-1].entry.seq, carried.root, carried.root_digest)
        if len(self._pending) > 1:  # it may take long until they are entered together
            durable = self._synced()
            with self._volume.journal.writing() as db:
                self._record(db, durable)
                standing.arrive(db, one)
            self._volume.admit(durable)
        self._arrived[one.seq] = one

    def enter(self) -> None:
        """Enter what is pending, in one transaction: the replica is at the position of the last entry.

        DamagedError, and nothing has happened, if snapshots would be named of which something is missing.
        """
        self.finish()
        if not self._pending:
            return
        volume, pending = self._volume, self._pending
        for one in pending:
            lease = self._lease_for(segment_of(one.address))
            lease.put_journal(offset_of(one.address), volume.keys.sealed(one.data))
        durable = self._synced()
        reclaims = any(isinstance(one.entry.body, Reclaim) for one in pending)
        with volume.journal.writing() as db:
            if refs.last_entry(db, volume.keys)[0] != self.position or standing.current(db) is None:
                raise BusyError("the replica was changed by another process", hint="run it again")
            self._record(db, durable)
            for one in pending:
                self._replay(db, one)
            if any(one.bare and _is_kept(db, one.entry) for one in pending):
                raise DamagedError("the origin keeps a snapshot that it does not send", code="transfer-damaged")
            standing.clear_arrived(db, pending[-1].position)
            if reclaims:
                # Readers that began before may read what is gone; nothing is punched until they have ended.
                removals.condemn(db, [], pending[-1].entry.seq)
        volume.admit(durable)
        self.position, self._time_ns = pending[-1].position, pending[-1].entry.time_ns
        self._epoch = pending[-1].entry.epoch
        self._arrived = {seq: one for seq, one in self._arrived.items() if seq > self.position.seq}
        self._pending = []
        if reclaims:
            volume.renew()
        if len(self._leases) > _LEASES_MAX:
            self._close_leases()
        if self._entered is not None:
            for one in pending:
                self._entered(one.entry)

    def heard(self, seen: Standing) -> None:
        """Remember how far the origin was when it was last heard of."""
        with self._volume.journal.writing() as db:
            if standing.current(db) is not None:
                standing.enter(db, seen)

    def punch(self) -> None:
        """Give back the blocks of what was reclaimed, unless somebody began to read before."""
        volume = self._volume
        volume.renew()
        if volume.round is not None and not pins.is_pinned(volume.gate, volume.round):
            gc.punch(volume)

    def _check_replica(self) -> None:
        found = self._volume.standing
        if found is None or found.role != "replica":
            raise RefusedError(f"{self._volume.path!r} is no replica", code="not-a-replica")

    def _begin(self, commit: Commit, base: int) -> None:
        volume = self._volume
        self._base = self._snapshot(base) if base else None
        self._carried = decode_snapshot(commit.snapshot, commit.snapshot_id)
        if volume.keys.snapshot_id(commit.snapshot) != commit.snapshot_id:
            raise DamagedError("a snapshot from the origin does not have its id", code="transfer-damaged")
        found = os.statvfs(volume.path)
        free_bytes = found.f_bavail * found.f_frsize // 2
        # As for a pull: what a snapshot says of itself may be too little, half of the free disk is never too much.
        numbers = self._carried.statistics
        entries = numbers.files + numbers.directories + numbers.symlinks
        self._left_bytes = max(numbers.logical_bytes + entries * _SCRIPT_ENTRY_BYTES, free_bytes) + _SLACK_BYTES
        self._incoming, self._has_tree = kernel.Incoming(volume.space, self._lease_for), False

    def _snapshot(self, seq: int) -> Snapshot:
        """What entry `seq` committed: one that is kept here, or has just come."""
        for one in self._pending:
            if one.entry.seq == seq and isinstance(one.entry.body, Commit) and not one.bare:
                return decode_snapshot(one.entry.body.snapshot, one.entry.body.snapshot_id)
        with self._volume.journal.reading() as db:
            found = refs.kept_at(db, self._volume.keys, seq)
        if found is None:
            raise DamagedError(f"the origin codes against entry {seq}, which is not kept here", code="transfer-damaged")
        return found

    def _replay(self, db: apsw.Connection, one: _Pending) -> None:
        body = one.entry.body
        if isinstance(body, Commit):
            named = refs.current(db, body.ref)
            if (named.snapshot if named is not None else b"") != body.expected:
                raise DamagedError(f"entry {one.entry.seq} moves ref {body.ref!r} from where it was not")
        replay(db, self._volume.keys, one.entry, data=one.data, position=one.position, address=one.address)

    def _has_arrived(self, entry: Entry) -> bool:
        one = self._arrived.get(entry.seq)
        if one is None or not isinstance(entry.body, Commit):
            return False
        snapshot = decode_snapshot(entry.body.snapshot, entry.body.snapshot_id)
        return (one.root, one.root_digest) == (snapshot.root, snapshot.root_digest)

    def _check_place(self, entry: Entry, address: int, length: int) -> None:
        if epoch_of(segment_of(address)) > entry.epoch or offset_of(address) + length > SEGMENT_BYTES:
            raise DamagedError(f"journal entry {entry.seq} lies where it cannot", code="transfer-damaged")

    def _receiving(self) -> kernel.Incoming:
        if self._incoming is None:
            raise DamagedError("the origin sends bytes that belong to no entry", code="transfer-damaged")
        return self._incoming

    def _spend(self, count: int) -> None:
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise DamagedError(
                "the origin sends more than the snapshot can be",
                code="transfer-damaged",
                hint="verify the volume at its origin",
            )

    def _lease_for(self, segment: int) -> kernel.Lease:
        lease = self._leases.get(segment)
        if lease is None:
            with self._volume.journal.reading() as db:
                known = space.row(db, self._volume.keys, segment)
            _, head, table_bytes = known or (segment, 0, 0)
            lease = self._volume.space.lease(segment, head, table_bytes, known is None, True)
            if lease is None:
                raise BusyError(f"another process fills segment {segment} of this replica", hint="end it first")
            self._leases[segment] = lease
        return lease

    def _synced(self) -> "list[Durable]":
        try:
            return [lease.sync() for lease in self._leases.values()]
        except BaseException as error:
            self._volume.journal.poison(error)
            raise

    def _record(self, db: apsw.Connection, durable: "list[Durable]") -> None:
        for row in durable:
            if space.row(db, self._volume.keys, row[0]) != row:
                space.noted(db, self._volume.keys, row[0])
                space.record(db, self._volume.keys, row, full=True)

    def _close_leases(self) -> None:
        for lease in self._leases.values():
            lease.close()
        self._leases.clear()
        self._unflushed_bytes = 0


def _check_commit(commit: Commit) -> None:
    """Name and parent of what a peer says was committed; DamagedError for what no origin commits."""
    try:
        check_ref(commit.ref)
    except UsageError as error:
        raise DamagedError(f"the origin has a ref of which that is true: {error.message}") from None
    if decode_snapshot(commit.snapshot, commit.snapshot_id).parent != commit.expected:
        raise DamagedError("a snapshot from the origin does not follow the one before it", code="transfer-damaged")


def _is_kept(db: apsw.Connection, entry: Entry) -> bool:
    return isinstance(entry.body, Commit) and refs.is_kept(db, entry.body.ref, entry.seq)
