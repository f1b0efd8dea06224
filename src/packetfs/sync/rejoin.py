"""An origin that was fenced, back again: it becomes a replica of the new origin, and nothing that it had is lost.

What it committed alone, after the last entry that both have, is pushed to the new origin first, snapshot by snapshot,
at the addresses that it has: they are of an epoch that has ended there, so nothing else ever lies there. It becomes the
history of a conflict ref, `REF.conflict-EPOCH-POSITION`. Only then entries are taken out here. Killed at any instant it
is fenced, or a replica; running it again goes on.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from packetfs import kernel
from packetfs.errors import ConflictError, NotFoundError, PacketFSError, RefusedError
from packetfs.format.entry import Entry, Position, decode_entry
from packetfs.format.snapshot import Snapshot, decode_snapshot
from packetfs.release import VERSION
from packetfs.sync.link import ID_BYTES, Link
from packetfs.sync.plan import numbers_of
from packetfs.sync.replicate import Origin
from packetfs.volume import Volume, fencing, refs
from packetfs.volume.standing import Arrived
from packetfs.wire import protocol

if TYPE_CHECKING:
    from packetfs.wire.connection import Connection

__all__ = ["Rejoined", "conflict_ref", "rejoin"]

_NAME_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Rejoined:
    """What became of what only the old origin had."""

    fork: Position
    """The last entry that both have."""
    epoch: int
    """The new origin's."""
    conflicts: tuple[tuple[str, str, int], ...]
    """(ref, conflict ref, snapshots)."""


def conflict_ref(ref: str, epoch: int, position: Position) -> str:
    """The name under which what was committed alone is kept: it says in which epoch, and up to which position."""
    end = f".conflict-{epoch}-{position.hash[:4].hex()}"
    return ref[: _NAME_MAX - len(end)] + end


def rejoin(
    origin: Origin, volume: Volume, connect: "Callable[[], Connection]", name: str, *, told: Callable[[str], None]
) -> Rejoined:
    """Make `volume`, which is no replica, one of the new origin; it has to be opened again then.

    `connect` reaches that machine once more, `name` is what it calls the volume. RefusedError, and nothing has
    happened, unless a later epoch began there.
    """
    origin.check_same(volume)
    last = _entry(origin, origin.welcome.seq)
    here, own_epoch = volume.position, volume.epoch
    if last is None or last.epoch <= own_epoch:
        raise RefusedError(
            f"{volume.path!r} is no replica but an origin of epoch {own_epoch}, and {origin.location} is in none later",
            code="not-a-replica",
            hint="name a new directory; to let the other one be the origin, `packetfs promote` it there first",
            epoch=own_epoch,
        )
    fencing.fence(volume, last.epoch, origin.location)
    told(f"fenced: epoch {last.epoch} is the latest at {origin.location}")
    fork = _fork(origin, volume)
    kept = fencing.alone(volume, fork)
    arrived: list[Arrived] = []
    conflicts: list[tuple[str, str, int]] = []
    if kept:
        by_ref: dict[str, list[tuple[int, Snapshot]]] = defaultdict(list)
        for ref, seq, snapshot in kept:
            by_ref[ref].append((seq, snapshot))
        with _Adoption(connect(), name, volume) as adoption:
            for ref, snapshots in by_ref.items():
                conflict = conflict_ref(ref, own_epoch, here)
                arrived += adoption.adopt(ref, conflict, snapshots, fork)
                conflicts.append((ref, conflict, len(snapshots)))
    fencing.go_back(volume, fork, origin.location, arrived)
    return Rejoined(fork, last.epoch, tuple(conflicts))


class _Adoption:
    """A session with the new origin, which adopts what was committed alone. A context manager."""

    def __init__(self, connection: "Connection", name: str, volume: Volume) -> None:
        self._volume = volume
        self._link = Link(connection)
        try:
            hello = protocol.Hello(
                protocol=protocol.PROTOCOL, software=VERSION, volume=os.fsencode(name), intent="write"
            )
            self._link.ask(hello, protocol.Welcome)
            self._link.ask(protocol.Adopt(), protocol.Adopted)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(PacketFSError):
            if not self._link.is_over:
                self._link.say(protocol.Bye())
        self._link.connection.close()

    def adopt(
        self, ref: str, conflict: str, snapshots: Sequence[tuple[int, Snapshot]], fork: Position
    ) -> list[Arrived]:
        """Let `conflict` have these snapshots as its history there, as far as it has not; which entries did it."""
        done = self._history(conflict)
        if len(done) > len(snapshots):
            raise _taken(conflict)
        found: list[Arrived] = []
        base: tuple[bytes, bytes] | None = None  # id there, root
        for number, (_, snapshot) in enumerate(snapshots):
            if number < len(done):
                seq, id_, digest = done[number]
                if digest != snapshot.root_digest:
                    raise _taken(conflict)
            else:
                if base is None:
                    base = self._common(ref, fork)
                seq, id_ = self._push(conflict, snapshot, base)
            base = (id_[:ID_BYTES], snapshot.root)
            found.append(Arrived(seq, snapshot.root, snapshot.root_digest))
        return found

    def _history(self, ref: str) -> list[tuple[int, bytes, bytes]]:
        """(seq, id, root digest) of the snapshots of `ref` there, oldest first; nothing if there is no such ref."""
        found: list[tuple[int, bytes, bytes]] = []
        before_seq, more = (1 << 63) - 1, True
        try:
            while more:
                page = self._link.ask(protocol.Log(ref, before_seq), protocol.LogPage)
                for state in page.states:
                    if state.seq >= before_seq:
                        raise _taken(ref)
                    before_seq = state.seq
                    found.append((state.seq, state.id, decode_snapshot(state.snapshot, state.id).root_digest))
                more = page.more and bool(page.states)
        except NotFoundError:
            return []
        return found[::-1]

    def _common(self, ref: str, fork: Position) -> tuple[bytes, bytes] | None:
        """The newest snapshot of `ref` from before the fork, if it is kept on both sides."""
        with self._volume.journal.reading() as db:
            seq = refs.base_of(db, ref, fork.seq + 1)
            snapshot = refs.kept_at(db, self._volume.keys, seq) if seq else None
        if snapshot is None:
            return None
        try:
            self._link.ask(protocol.Resolve(ref, snapshot.name), protocol.State)
        except NotFoundError:
            return None
        return snapshot.id[:ID_BYTES], snapshot.root

    def _push(self, ref: str, snapshot: Snapshot, base: tuple[bytes, bytes] | None) -> tuple[int, bytes]:
        """Commit the tree of `snapshot` there, as it lies here; the entry that did it, and the id it has there."""
        link = self._link
        outgoing = kernel.Outgoing(self._volume.space)
        outgoing.plan(snapshot.root, base[1] if base else None, fresh=None, within=b"", data=True)
        while (body := outgoing.literals()) is not None:
            link.say(protocol.Literals(*body), more=True)
        link.say(protocol.Begin(base[0] if base else b""), more=True)
        while (part := outgoing.tree()) is not None:
            link.say(protocol.Tree(part), more=True)
        committed = link.ask(
            protocol.Commit(
                ref=ref,
                root_digest=snapshot.root_digest[:ID_BYTES],
                host=snapshot.host,
                user=snapshot.user,
                paths=list(snapshot.paths),
                statistics=numbers_of(snapshot.statistics),
                message=snapshot.message,
                root_is_source=snapshot.root_is_source,
                tags=list(snapshot.tags),
                source_time_ns=snapshot.time_ns if snapshot.source_time_ns is None else snapshot.source_time_ns,
            ),
            protocol.Committed,
        )
        return committed.seq, committed.id


def _fork(origin: Origin, volume: Volume) -> Position:
    """The last entry that both journals have."""
    low, high = 0, min(volume.position.seq, origin.welcome.seq)
    while low < high:
        middle = (low + high + 1) // 2
        own = volume.journal_entry(middle)
        theirs = origin.link.ask(protocol.At(middle), protocol.Entry)
        if own is not None and own[0] == theirs.data:
            low = middle
        else:
            high = middle - 1
    found = volume.at(low)
    assert found is not None, "an entry that was just compared is there"
    return found


def _entry(origin: Origin, seq: int) -> Entry | None:
    return decode_entry(origin.link.ask(protocol.At(seq), protocol.Entry).data) if seq else None


def _taken(ref: str) -> ConflictError:
    return ConflictError(
        f"the new origin has a ref {ref!r} that is not what was committed here alone",
        code="ref-moved",
        hint="rename or remove it there, then run this again: nothing is lost",
        ref=ref,
    )
