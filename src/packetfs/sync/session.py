"""An open conversation with an origin, and the replica of its volume that stays here between conversations.

A session reads like a volume (refs, log, trees, files): what is not here yet is fetched. `transfer.py` tells how a push
and a pull go. Several operations may follow each other on one session, which saves them the greeting.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import DamagedError, InvalidError, PacketFSError, RefusedError
from packetfs.events import Change, Problem, Progress
from packetfs.format.address import Extent
from packetfs.format.descriptor import ChunkProfile
from packetfs.format.entry import Position
from packetfs.format.location import check_ref, parse_location
from packetfs.format.snapshot import NO_LABELS, Labels, Snapshot, decode_snapshot
from packetfs.format.when import LATEST, When
from packetfs.release import VERSION
from packetfs.sync.checkout import NO_CARE, Care
from packetfs.sync.identity import data_directory
from packetfs.sync.link import ID_BYTES, Link
from packetfs.sync.receiving import Asked, Budget, Filling, ask_for, budget_of, planned_snapshot
from packetfs.volume import Ref, Source, Status
from packetfs.volume.replica import Identity, Kept, Replica
from packetfs.volume.selection import ALL, Selection
from packetfs.volume.trees import Trees
from packetfs.wire import protocol
from packetfs.wire.connection import Connection

if TYPE_CHECKING:
    from packetfs.sync.checkout import Ownership
    from packetfs.sync.transfer import Pulled, Pushed, Stream

__all__ = ["Session", "Traffic", "replica_path"]

_KEYS_BYTES: Final = 64  # digest key, cut key
_DIGEST_KEY_BYTES: Final = 32  # all that an origin gives to who may only read


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one operation moved, and what it took. Bytes on the wire are those of the frames, both ways."""

    sent_bytes: int
    received_bytes: int
    round_trips: int
    literal_bytes: int
    """Content that had to travel."""
    delta_bytes: int
    """Of it, what was coded against bytes that both sides held."""
    coded_bytes: int
    """What the literals took on the wire."""
    pointer_count: int
    """Extents that were pointed at instead."""
    seconds: float
    cpu_s: float
    """Here; `peer_cpu_s` is the origin's, over the session so far."""
    peer_cpu_s: float
    anonymous_bytes: int
    """The most anonymous memory that was seen here; `peer_anonymous_bytes` at the origin."""
    peer_anonymous_bytes: int
    disk_bytes: int
    """What the replica takes on disk here."""


def replica_path(origin: str, environment: Mapping[str, str]) -> str:
    """Where the replica of the volume at `origin` is kept, unless a place was named for it."""
    name = hashlib.blake2b(origin.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return os.path.join(data_directory(environment), "replicas", name)


class Session:
    """An open session; a context manager. One operation at a time."""

    def __init__(self, link: Link, replica: Replica, welcome: protocol.Welcome, *, origin: str, env: Env) -> None:
        """Use `Session.open`."""
        self.link = link
        self.replica = replica
        self.path = replica.path
        self.origin = origin
        self.env = env
        self.created = welcome.created
        self.writes = welcome.leased is not None
        self.counted = (0, 0, 0)
        """What has been put down to an operation of all that went over the wire; the greeting goes with the first."""
        self.origin_bytes: Callable[[], int] = lambda: welcome.unique_bytes
        """How much the origin holds; it may wait until that is known."""
        self.leased: protocol.Leased | None = welcome.leased
        self.done = protocol.Done()
        self.ingesting = 0
        """The INGEST that was said with the greeting, to be heard by who opened the session; 0: none was."""
        self._asked: Asked | None = None
        self._known: dict[str, Snapshot | None] = {}
        self._fresh: set[str] = set()

    @classmethod
    def open(
        cls,
        connection: Connection,
        volume: str,
        *,
        origin: str,
        place: str,
        writes: bool = False,
        create: bool = False,
        ref: str = "",
        ingest: protocol.Ingest | None = None,
        wants: tuple[str, str, bytes] | None = None,
        wants_data: bool = True,
        cache_bytes: int | None = None,
        lock_wait_s: float = 10.0,
        env: Env = SYSTEM,
        discarded: Callable[[str], None] | None = None,
    ) -> "Session":
        """Greet the origin at the other end of `connection` and open the replica at `place`, which is made if need be.

        `origin` is the location without a ref: what the replica is a replica of. `ref` is what the session is about:
        its state comes with the greeting. What will be pulled first (`wants`: ref, when, path) is asked for at once;
        that answer tells what the ref names; without `wants_data` a first copy comes without its content. Where
        `volume` names a directory, `ingest` is asked for before that.
        `discarded` is told why an older replica was of no use.
        """
        replica = Replica.open(place, lock_wait_s=lock_wait_s, env=env)
        try:
            ref = "" if wants is not None else ref
            known = replica.ref(ref) if replica is not None and ref else None
            position = replica.position if replica is not None else None
            link = Link(connection)
            greeting = link.say(
                protocol.Hello(
                    protocol=protocol.PROTOCOL,
                    software=VERSION,
                    volume=os.fsencode(volume),
                    intent="write" if writes else "read",
                    create=create,
                    ref=ref,
                    known=known.snapshot.id[:ID_BYTES] if known is not None else b"",
                    known_seq=position.seq if position is not None else 0,
                    known_hash=position.hash[:8] if position is not None else b"",
                ),
                more=wants is not None or ingest is not None,
            )
            ingesting = link.say(ingest, more=wants is not None) if ingest is not None else 0
            asked = None
            if wants is not None:
                with suppress(DamagedError):  # the pull itself will find out, and knows what to do about it
                    data = wants_data or (replica is not None and replica.newest() is not None)
                    asked = ask_for(link, replica, *wants, data=data)
                link.flush()
            welcome = link.hear(greeting, protocol.Welcome)
            why = _useless(replica, welcome)
            if why and asked is not None:
                asked.drain(link, os.path.dirname(place))
                asked = None
            if replica is None or why:
                if replica is not None:
                    replica.close()
                    if discarded is not None:
                        discarded(why)
                identity = _identity(welcome, origin, cache_bytes)
                replica = Replica.create(place, identity, lock_wait_s=lock_wait_s, env=env)
                known = None
            else:
                replica.drop([(one.segment, one.ranges) for one in welcome.reclaimed or ()])
                if cache_bytes is not None and replica.identity.cache_bytes is not None:
                    replica.limit(cache_bytes)
            session = cls(link, replica, welcome, origin=origin, env=env)
            session.ingesting = ingesting
            session._asked = asked
            here = Position(welcome.seq, welcome.hash)
            if replica.position != here:
                replica.record([], position=here)
            # What was named and then dropped here is told by its id alone: it is asked for again when it is needed.
            if welcome.state is not None and not (why and welcome.state.id and not welcome.state.snapshot):
                session.learn(ref, welcome.state, known)
        except BaseException:
            if replica is not None:
                replica.close()
            raise
        return session

    def close(self) -> None:
        """Take leave; idempotent."""
        with suppress(PacketFSError):
            if not self.link.is_over:
                self.link.say(protocol.Bye())
        # At once: an origin that has heard the end has no need to say its own, which would be one turn more.
        self.link.connection.close()
        try:
            with suppress(PacketFSError):
                self.replica.tidy()
        finally:
            self.replica.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def check_writer(self) -> None:
        """RefusedError unless the session was opened to write."""
        if not self.writes:
            raise RefusedError("this session was opened for reading only", code="read-only-session")

    @property
    def trees(self) -> Trees:
        """What it reads trees from."""
        return self.replica

    def settle(self) -> None:
        """End what an operation that failed has left half said, and what was asked for and is not wanted any more."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.drain(self.link, self.path)
        self.link.give_up()

    # The two stories, told in `transfer.py`

    def push(
        self,
        what: "Sequence[Source] | Stream",
        ref: str,
        *,
        selection: Selection = ALL,
        checksum: bool = False,
        always: bool = False,
        dry_run: bool = False,
        message: str = "",
        labels: Labels = NO_LABELS,
        progress: Callable[[Progress], None] | None = None,
        report: Callable[[Sequence[Change]], None] | None = None,
        then: Callable[[Sequence[Problem]], protocol.Message] | None = None,
    ) -> "Pushed":
        """Store sources, as far as selected, or a stream as the next snapshot of `ref`. See `transfer.push`."""
        from packetfs.sync import transfer

        return transfer.push(
            self,
            what,
            ref,
            selection=selection,
            checksum=checksum,
            always=always,
            dry_run=dry_run,
            message=message,
            labels=labels,
            progress=progress,
            changes=report,
            then=then,
        )

    def pull(
        self,
        place: str,
        target: str | bytes,
        *,
        delete: bool = False,
        care: Care = NO_CARE,
        dry_run: bool = False,
        check_space: bool = True,
        ownership: "Ownership | None" = None,
        progress: Callable[[Progress], None] | None = None,
        report: Callable[[Sequence[Change]], None] | None = None,
    ) -> "Pulled":
        """Make the directory `target` hold what is at `place` (`main`, `main@~1:/etc`). See `transfer.pull`."""
        from packetfs.sync import checkout, transfer

        inside = parse_location(f"::{place}")
        return transfer.pull(
            self,
            inside.line,
            inside.when,
            inside.path,
            target,
            delete=delete,
            care=care,
            dry_run=dry_run,
            check_space=check_space,
            ownership=ownership or checkout.AS_STORED,
            progress=progress,
            report=report,
        )

    # What the refs name

    def current(self, ref: str) -> tuple[Snapshot | None, bool]:
        """What `ref` names as far as this session knows, and whether it learnt that just now."""
        fresh = ref in self._fresh
        self._fresh.discard(ref)
        if ref not in self._known:
            return self.ask_state(ref), True
        return self._known[ref], fresh

    def ask_state(self, ref: str) -> Snapshot | None:
        """What `ref` names at the origin now."""
        kept = self.replica.ref(ref)
        id_ = kept.snapshot.id[:ID_BYTES] if kept is not None else b""
        return self.learn(ref, self.link.ask(protocol.Check(ref=check_ref(ref), id=id_), protocol.State), kept)

    def learn(self, ref: str, state: protocol.State, sent: Kept | None) -> Snapshot | None:
        """Take note of what the origin says of `ref`, which was asked with the id of `sent`."""
        self._fresh.add(ref)
        self._known[ref] = self.snapshot_from(state, sent)
        return self._known[ref]

    def moved(self, ref: str, snapshot: Snapshot) -> None:
        """`ref` was moved by ourselves."""
        self._known[ref] = snapshot

    def forget(self, ref: str) -> None:
        """What this session knows of `ref` has turned out to be old."""
        self._known.pop(ref, None)

    def snapshot_from(self, said: protocol.State, sent: Kept | None) -> Snapshot | None:
        """The snapshot that the origin means; its id proves its bytes."""
        if not said.id:
            return None
        if not said.snapshot:
            if sent is None or sent.snapshot.id != said.id:
                raise InvalidError("the peer means a snapshot that was not named", code="protocol-violation")
            return sent.snapshot
        if self.replica.keys.snapshot_id(said.snapshot) != said.id:
            raise DamagedError("a snapshot from the peer does not have its id", code="transfer-damaged")
        return decode_snapshot(said.snapshot, said.id)

    # Reading like a volume

    def resolve(self, ref: str, when: When = LATEST) -> Snapshot:
        """The snapshot of `ref` that `when` means, its tree fetched; NotFoundError if there is none."""
        return self.receive(ref, str(when), b"", data=False)

    def refs(self) -> list[Ref]:
        """All refs of the volume, by name."""
        self.settle()
        found: list[protocol.RefState] = []
        more = True
        while more:
            after = found[-1].name if found else ""
            page = self.link.ask(protocol.Refs(after), protocol.RefList)
            found += page.refs
            _check_order([after, *(ref.name for ref in page.refs)])
            more = page.more and bool(page.refs)
        return [
            Ref(
                ref.name,
                self._proved(protocol.State(seq=ref.seq, id=ref.id, snapshot=ref.snapshot)),
                ref.seq,
                ref.visited_ns,
            )
            for ref in found
        ]

    def log(self, ref: str) -> Iterator[Snapshot]:
        """Snapshots of `ref`, newest first; NotFoundError if there is no such ref."""
        return (snapshot for _, snapshot in self.log_with_seq(ref))

    def log_with_seq(self, ref: str) -> Iterator[tuple[int, Snapshot]]:
        """The same, each with the seq of the entry that committed it."""
        self.settle()
        before_seq, more = (1 << 63) - 1, True
        while more:
            page = self.link.ask(protocol.Log(check_ref(ref), before_seq), protocol.LogPage)
            _check_order([-before_seq, *(-state.seq for state in page.states)])
            yield from ((state.seq, self._proved(state)) for state in page.states)
            more = page.more and bool(page.states)
            before_seq = page.states[-1].seq if page.states else 0

    def status(self) -> Status:
        """How large the volume is, at its origin."""
        self.settle()
        return Status.from_fields(self.link.ask(protocol.Status(), protocol.StatusReply).fields, path=self.origin)

    @property
    def index_discarded(self) -> str | None:
        """Why the replica's index could not be used, if so."""
        return self.replica.space.index_discarded

    def read(self, entry: kernel.Entry) -> Iterator[bytes]:
        """The content of a file in order, fetched as far as it is not here."""
        space = self.replica.space
        self.fetch([extent for extent in space.extents(entry) if extent[0] and not space.holds(*extent)])
        yield from self.replica.read(entry)

    def root(self, snapshot: Snapshot) -> kernel.Entry:
        """The root entry of a snapshot."""
        return self.replica.root(snapshot)

    def entry(self, snapshot: Snapshot, path: bytes) -> kernel.Entry:
        """The entry at `path`; NotFoundError if there is none."""
        return self.replica.entry(snapshot, path)

    def entries(self, directory: kernel.Entry) -> Iterator[kernel.Entry]:
        """Entries of a directory, names ascending."""
        return self.replica.entries(directory)

    def _proved(self, state: protocol.State) -> Snapshot:
        snapshot = self.snapshot_from(state, None)
        if snapshot is None:
            raise InvalidError("the peer names a snapshot without an id", code="protocol-violation")
        return snapshot

    # Receiving

    def receive(self, ref: str, when: str, path: bytes, *, data: bool) -> Snapshot:
        """Bring a snapshot's tree here, and with `data` what it holds under `path`.

        What the base of the transfer was to hold and does not may still be absent: see `kernel.Space.absent`.
        """
        asked, self._asked = self._asked, None
        if asked is None or asked.what != (ref, when, path) or not data:
            if asked is not None:
                asked.drain(self.link, self.path)
            self.link.give_up()
            asked = ask_for(self.link, self.replica, ref, when, path, data=data)
        base, request = asked.base, asked.request
        planned = self.link.hear(request, protocol.Planned)
        if not planned.id:
            # Nothing follows: what is meant is the base.
            self.done = self.link.hear(request, protocol.Done)
            if base is None:
                raise InvalidError("the peer means a snapshot that was not named", code="protocol-violation")
            snapshot = base.snapshot
            if when == "latest":
                self.moved(ref, snapshot)
            return snapshot
        used = base if planned.base else None
        with Filling(self) as filling:
            root = used.snapshot.root if used is not None else None
            tree = filling.take(request, root, budget_of(planned, self.path), sparse=not asked.data or bool(path))
            snapshot = planned_snapshot(planned, tree, used, self.replica.keys)
            filling.record(snapshot, planned.seq, ref=ref if when in ("latest", "~0") else None)
        if when == "latest":
            self.moved(ref, snapshot)
        return snapshot

    def fetch(self, extents: Sequence[Extent]) -> None:
        """Bring ranges here, by address."""
        self.settle()
        for start in range(0, len(extents), protocol.FETCH_EXTENTS_MAX):
            part = extents[start : start + protocol.FETCH_EXTENTS_MAX]
            packed = b"".join(number.to_bytes(8, "little") for extent in part for number in extent)
            request = self.link.say(protocol.Fetch(extents=packed))
            with Filling(self) as filling:
                filling.take(request, None, Budget(sum(length for _, length in part), 0), sparse=False)
                filling.record(None, 0, ref=None)

    def discard(self, why: str) -> None:
        """Empty the replica: it contradicts itself or its origin, and all of it can be had again."""
        del why
        place, identity, position = self.replica.path, self.replica.identity, self.replica.position
        self.replica.close()
        self.replica = Replica.create(place, identity, lock_wait_s=10.0, env=self.env)
        self.replica.record([], position=position)


def _check_order(values: Sequence[str] | Sequence[int]) -> None:
    """InvalidError unless they ascend: pages that do not go on would never end."""
    if any(one >= other for one, other in pairwise(values)):  # type: ignore[operator]
        raise InvalidError("the peer's list is not in order", code="protocol-violation")


def _identity(welcome: protocol.Welcome, origin: str, cache_bytes: int | None) -> Identity:
    if len(welcome.keys) not in (_DIGEST_KEY_BYTES, _KEYS_BYTES):
        raise InvalidError("the greeting of the peer has not the keys of a volume", code="protocol-violation")
    smallest, average, largest, normalisation = welcome.chunks
    return Identity(
        volume_id=welcome.volume_id,
        keys=welcome.keys.ljust(_KEYS_BYTES, b"\0"),  # who may not write has no use for the other one
        chunks=ChunkProfile(min=smallest, avg=average, max=largest, normalisation=normalisation),
        created_ns=welcome.created_ns,
        origin=origin,
        cache_bytes=cache_bytes,
    )


def _useless(replica: Replica | None, welcome: protocol.Welcome) -> str:
    """Why what is here cannot be used with this origin; empty if it can."""
    if replica is None:
        return ""
    keys = replica.identity.keys
    if replica.identity.volume_id != welcome.volume_id or not welcome.keys.startswith(keys[:_DIGEST_KEY_BYTES]):
        return "there is another volume at that place now"
    if len(welcome.keys) == _KEYS_BYTES and keys != welcome.keys:
        return "this machine could only read the volume, and may write now: it cuts chunks with a key it did not have"
    if not welcome.continues:
        return "the origin has gone back to an earlier state: it was restored from a backup"
    if welcome.reclaimed is None:
        return "the origin has reclaimed more since than it can tell"
    return ""
