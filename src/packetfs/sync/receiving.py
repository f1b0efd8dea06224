"""What an origin sends is taken into the replica: asked for, bounded, placed, proved, and written down.

What is asked for, and when, is the session's question; nothing here is believed before its digest is.
"""

import os
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from packetfs import kernel
from packetfs.errors import DamagedError, PacketFSError, RefusedError
from packetfs.format.location import check_ref
from packetfs.format.snapshot import Snapshot, decode_snapshot
from packetfs.sync.link import ID_BYTES, Link
from packetfs.sync.plan import base_of, proposal_from, said_or, statistics_from
from packetfs.volume.commit import snapshot_of
from packetfs.volume.keys import Keys
from packetfs.volume.replica import Kept, Replica
from packetfs.wire import protocol

if TYPE_CHECKING:
    from packetfs.sync.session import Session

__all__ = ["Asked", "Budget", "Filling", "ask_for", "budget_of", "planned_snapshot"]

_FLUSHED_BYTES: Final = 64 << 20
_BUDGET_SLACK_BYTES: Final = 32 << 20  # heads, lists of extents, entries that no statistics count
_ENTRY_BYTES_MAX: Final = 1 << 20  # of attributes, in a script


@dataclass(frozen=True, slots=True)
class Asked:
    """A WANT that was said and not answered yet."""

    request: int
    what: tuple[str, str, bytes]
    base: Kept | None
    data: bool
    """Whether content was asked for: not where that of the base is not all here."""

    def drain(self, link: Link, place: str) -> None:
        """Let the answer pass: it is of no use any more. DamagedError if it never ends."""
        budget = Budget(0, 0)
        try:
            while not isinstance(message := link.next(self.request), protocol.Done):
                if isinstance(message, protocol.Planned):
                    budget = budget_of(message, place)
                elif isinstance(message, protocol.Literals | protocol.Tree):
                    budget.spend(literal_bytes=memoryview(message.body).nbytes)
        except PacketFSError as error:
            if not protocol.said_by_peer(error):
                raise


def ask_for(link: Link, replica: Replica | None, ref: str, when: str, path: bytes, *, data: bool) -> Asked:
    """Say WANT, offering the base that serves best."""
    base = base_of(replica.ref(ref), replica.newest()) if replica is not None else None
    if base is not None and replica is not None and data and not replica.is_complete(base):
        data = False  # what is missing is fetched by name afterwards
    sent = base.snapshot.id[:ID_BYTES] if base is not None else b""
    want = protocol.Want(ref=check_ref(ref), when=when, path=path, base=sent, data=data)
    return Asked(link.say(want), (ref, when, path), base, data)


def planned_snapshot(
    planned: protocol.Planned, tree: tuple[bytes, bytes] | None, base: Kept | None, keys: Keys
) -> Snapshot:
    """The snapshot that was promised, made from the tree that came; its id proves both. DamagedError if it does not."""
    made: Snapshot | None = None
    before = base.snapshot if base is not None else None
    if tree is not None and planned.snapshot:
        made = decode_snapshot(planned.snapshot, keys.snapshot_id(planned.snapshot))
        if (made.root, made.root_digest) != tree:
            made = None
    elif tree is not None:
        parent = said_or(planned.parent, before.id if before is not None else b"")
        made = snapshot_of(proposal_from(planned, tree, parent, before), planned.time_ns, keys)
    if made is None or not made.id.startswith(planned.id):
        raise DamagedError(
            f"what arrived is not snapshot {planned.id[:6].hex()}: its digest differs",
            code="transfer-damaged",
            hint="run it again; if it happens again, verify the volume at its origin",
        )
    return made


class Budget:
    """How much an answer may be. Without it one that never ends would fill the disk."""

    def __init__(self, literal_bytes: int, tree_bytes: int) -> None:
        self._literal_bytes = literal_bytes + literal_bytes // 64 + _BUDGET_SLACK_BYTES
        self._tree_bytes = tree_bytes + _BUDGET_SLACK_BYTES

    def spend(self, *, literal_bytes: int = 0, tree_bytes: int = 0) -> None:
        """Take note of what has come; DamagedError once it is more than can have been meant."""
        self._literal_bytes -= literal_bytes
        self._tree_bytes -= tree_bytes
        if self._literal_bytes < 0 or self._tree_bytes < 0:
            raise DamagedError(
                "the origin sends more than what was asked for can be",
                code="transfer-damaged",
                hint="verify the volume at its origin",
            )


def budget_of(planned: protocol.Planned, place: str) -> Budget:
    """What the tree of a snapshot and its content can be, if it says the truth of itself.

    Statistics are the word of whoever pushed: one that says too little must not keep others from pulling, so half of
    the free disk is never too much.
    """
    data = planned.snapshot
    numbers = decode_snapshot(data, b"").statistics if data else statistics_from(planned.statistics)
    entries = numbers.files + numbers.directories + numbers.symlinks
    found = os.statvfs(place)
    free_bytes = found.f_bavail * found.f_frsize // 2
    return Budget(max(numbers.logical_bytes, free_bytes), max(entries * _ENTRY_BYTES_MAX, free_bytes // 16))


class Filling:
    """Segments of the replica that are being filled with what the origin sends. A context manager."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._leases: dict[int, kernel.Lease] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for lease in self._leases.values():
            lease.close()
        if error is not None:
            self._session.replica.forget_uncommitted()

    def take(self, request: int, base: bytes | None, budget: Budget, *, sparse: bool) -> tuple[bytes, bytes] | None:
        """Take literals and tree until the origin is done; the root that the tree has, if any came.

        `sparse`: the tree comes without all of its content. The caller compares its digest with one that is trusted.
        """
        try:
            return self._take(request, base, budget, sparse=sparse)
        except BaseException:
            self._session.link.drop(request)  # the rest of the answer is nobody's
            raise

    def _take(self, request: int, base: bytes | None, budget: Budget, *, sparse: bool) -> tuple[bytes, bytes] | None:
        session = self._session
        incoming = kernel.Incoming(session.replica.space, self._lease_for)
        grows, unflushed_bytes = False, 0
        while True:
            message = session.link.next(request)
            try:
                if isinstance(message, protocol.Literals):
                    placed = incoming.literals(message.body)
                    budget.spend(literal_bytes=max(placed, memoryview(message.body).nbytes))
                    unflushed_bytes += placed
                    if unflushed_bytes >= _FLUSHED_BYTES:
                        # What the files have need not be remembered twice: 49 bytes a chunk.
                        session.replica.admit([lease.flush() for lease in self._leases.values()])
                        unflushed_bytes = 0
                elif isinstance(message, protocol.Tree):
                    if not grows:
                        incoming.begin_tree(base, sparse=sparse)
                        grows = True
                    budget.spend(tree_bytes=memoryview(message.body).nbytes)
                    incoming.tree(message.body)
                elif isinstance(message, protocol.Done):
                    session.done = _added(session.done, message)
                    return incoming.finish_tree() if grows else None
                else:
                    raise AssertionError("the protocol lets nothing else come here")
            except RefusedError as error:
                # Something else is where this belongs: one of the two is not from this volume's history.
                raise DamagedError(f"the replica and its origin contradict each other: {error.message}") from None

    def record(self, snapshot: Snapshot | None, seq: int, *, ref: str | None) -> None:
        """Make what arrived durable, and write down that it is here."""
        durable = [lease.sync() for lease in self._leases.values()]
        self._session.replica.admit(durable)
        self._session.replica.record(
            durable, snapshot=None if snapshot is None else (snapshot, seq), ref=ref if snapshot is not None else None
        )

    def _lease_for(self, segment: int) -> kernel.Lease:
        if segment not in self._leases:
            self._leases[segment] = self._session.replica.lease(segment, 0, fill=True)
        return self._leases[segment]


def _added(so_far: protocol.Done, more: protocol.Done) -> protocol.Done:
    """What several answers took together."""
    return protocol.Done(
        literal_bytes=so_far.literal_bytes + more.literal_bytes,
        delta_bytes=so_far.delta_bytes + more.delta_bytes,
        coded_bytes=so_far.coded_bytes + more.coded_bytes,
        pointer_count=so_far.pointer_count + more.pointer_count,
        cpu_ms=more.cpu_ms,
        anonymous_kib=max(so_far.anonymous_kib, more.anonymous_kib),
    )
