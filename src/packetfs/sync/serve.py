"""The origin's side of a session: answers one peer from a volume on this machine.

Where the peer names a directory, that is the volume in which what the directory holds is kept (`directory.py`).

A replica that is here answers too, but only with ranges that another copy asks for to repair itself: it orders nothing.

What the peer says is hostile until it is checked: `wire.protocol` has checked form and order, the kernel checks every
length, address and digest, and here it is checked whether this session may do what is asked. A session that fails,
whatever the reason, keeps what it has received, so that the next one finds it; it never moves a ref.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import (
    BusyError,
    ConflictError,
    DamagedError,
    InvalidError,
    NotFoundError,
    PacketFSError,
    RefusedError,
    UnavailableError,
    disk_error,
)
from packetfs.events import Change, Progress
from packetfs.format.address import Extent, epoch_of, segment_of
from packetfs.format.entry import Position
from packetfs.format.location import check_ref, parse_path
from packetfs.format.snapshot import Snapshot
from packetfs.format.when import parse_when
from packetfs.release import VERSION
from packetfs.sync import directory, feed
from packetfs.sync.access import AS_USER, Access
from packetfs.sync.counts import Counts
from packetfs.sync.directory import Directory, Found
from packetfs.sync.plan import numbers_of, proposal_from
from packetfs.sync.quota import Quota, quota_of
from packetfs.sync.usage import Usage
from packetfs.volume import Volume, fencing, files, reserve, space
from packetfs.volume.commit import commit, encode, proposal_of
from packetfs.volume.removals import Ranges
from packetfs.volume.replica import Replica, is_replica
from packetfs.volume.space import PUBLISH_ENTRIES, SYNC_BYTES, Durable, Filling
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.frames import Buffers, Frame

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["serve"]

# What a power cut at the origin can cost a push that is running: more often, and the syncs would slow the transfer.
_CHECKPOINT_BYTES: Final = 32 << 20
_ROOM_BYTES_MIN: Final = 1 << 20  # with less a segment is not worth leasing to a peer again
_PREFIX_BYTES: Final = 16  # of a digest or an id
_HASH_BYTES: Final = 8
_HELD_BYTES_MAX: Final = 64 << 10
_TELL_S: Final = 1.0  # between words to a peer that waits
_FOLLOWED_S: Final = 600.0  # that a copy is let wait for an answer; then it asks again
_PAGE: Final = 8  # snapshots, of at most 60 KiB each, in one answer


def serve(
    connection: Connection,
    *,
    lock_wait_s: float,
    access: Access = AS_USER,
    counts: Counts | None = None,
    usage: Usage | None = None,
    env: Env = SYSTEM,
) -> None:
    """Answer one peer until it leaves, as far as `access` lets it; `counts` is told what that was.

    The peer is told what `usage` says that it has cost: all of this process, unless there are others in it.

    Raises nothing for what the peer did: that is said to the peer.
    """
    with ExitStack() as stack:
        serving = _Serving(connection, lock_wait_s, env, stack, access, counts, usage)
        try:
            serving.run()
        finally:
            serving.end()


class _PeerGoneError(Exception):
    """There is nobody to talk to any more."""


class _Serving:
    """One session."""

    def __init__(
        self,
        connection: Connection,
        lock_wait_s: float,
        env: Env,
        stack: ExitStack,
        access: Access = AS_USER,
        counts: Counts | None = None,
        usage: Usage | None = None,
    ) -> None:
        self._connection = connection
        self._lock_wait_s = lock_wait_s
        self._access = access
        self._counts = counts or Counts()
        self._quota: Quota | None = None
        self._env = env
        self._stack = stack
        self._usage = usage or Usage()
        self._origin = protocol.Origin(software=VERSION)
        self._volume: Volume | None = None
        self._greeted_round: int | None = None
        self._replica: Replica | None = None
        self._directory: Directory | None = None
        self._found: Found | None = None
        self._written: tuple[int, protocol.Checkout] | None = None
        self._committed: Snapshot | None = None
        self._told_s = 0.0
        self._told = 0
        self._filling: Filling | None = None
        self._leases: dict[int, kernel.Lease] = {}
        self._current: kernel.Lease | None = None
        self._incoming: kernel.Incoming | None = None
        self._base: Snapshot | None = None
        self._adopts = False
        self._recorded: dict[int, tuple[Durable, bool]] = {}
        self._unsaved_bytes = 0
        self._durable_bytes = 0
        self._answers: dict[type, Callable[..., Iterator[protocol.Message]]] = {
            protocol.Hello: self._hello,
            protocol.Pair: self._pair,
            protocol.Check: self._check,
            protocol.Resolve: self._resolve,
            protocol.Ask: self._ask,
            protocol.Lease: self._lease,
            protocol.Literals: self._literals,
            protocol.Begin: self._begin,
            protocol.Tree: self._tree,
            protocol.Commit: self._commit,
            protocol.Want: self._want,
            protocol.Fetch: self._fetch,
            protocol.Refs: self._refs,
            protocol.Log: self._log,
            protocol.Status: self._status,
            protocol.Ingest: self._ingest,
            protocol.Checkout: self._checkout,
            protocol.Join: self._join,
            protocol.Follow: self._follow,
            protocol.At: self._at,
            protocol.Fence: self._fence,
            protocol.Adopt: self._adopt,
        }

    def run(self) -> None:
        """Answer each message in turn; leave when the peer does, or when it cannot be talked to any more."""
        with suppress(_PeerGoneError):
            while self._origin.phase is not protocol.Phase.CLOSED:
                try:
                    message = self._origin.receive(self._next()).message
                except PacketFSError as error:
                    self._counts.add("errors", label=error.code)
                    self._access.answered(None, error)
                    self._send(self._origin.fail(self._access.told(error)))
                    return
                if isinstance(message, protocol.Bye):
                    return
                self._answer(message)

    def _answer(self, message: protocol.Message) -> None:
        self._counts.add("requests", label=type(message).__name__.lower())
        try:
            self._access.check(message)
            if self._replica is not None and not isinstance(message, protocol.Fetch):
                raise RefusedError(
                    "this is a replica: it answers only another copy of its volume that repairs itself",
                    code="not-origin",
                    hint="name the volume's origin",
                )
            held: list[Buffers] = []
            held_bytes = 0
            is_noted = False
            # Small answers to one request are one packet.
            for answer in self._answers[type(message)](message):
                if not is_noted:
                    self._access.answered(message, None)  # before the peer hears of it
                    is_noted = True
                held.append(self._origin.say(answer))
                held_bytes += sum(memoryview(piece).nbytes for piece in held[-1])
                if held_bytes >= _HELD_BYTES_MAX:
                    self._send(*held)
                    held, held_bytes = [], 0
            self._send(*held)
        except PacketFSError as error:
            self._counts.add("errors", label=error.code)
            self._access.answered(message, error)
            self._incoming = None
            # The commit has kept and closed them.
            if isinstance(error, ConflictError) and isinstance(message, protocol.Commit):
                self._leases.clear()
                self._current = None
            self._send(self._origin.failure(self._access.told(error)))

    def _next(self) -> Frame:
        """The next frame. An idle peer keeps nothing from being reclaimed, unless a push is under way."""
        volume = self._volume
        if volume is None or self._incoming is not None:
            return self._heard()
        volume.rest()
        frame = self._heard()
        volume.renew()
        return frame

    def _heard(self) -> Frame:
        try:
            return self._connection.receive()
        except UnavailableError:
            raise _PeerGoneError from None

    def _send(self, *frames: Buffers) -> None:
        try:
            self._connection.send(*frames)
        except PacketFSError:
            raise _PeerGoneError from None

    def end(self) -> None:
        """Keep what was received, and refer to nothing that refers to this: it is gone now, and its open files."""
        self._keep()
        self._incoming = None  # what this knows of the session, Python's collector does not see
        self._answers.clear()

    def _keep(self) -> None:
        """Make durable what was received and not committed."""
        if self._filling is None:
            return
        with suppress(PacketFSError):  # the volume's own reason is worth more than this one's
            self._record()
        for lease in self._leases.values():
            lease.close()
        self._leases.clear()
        if self._volume is not None and self._volume.space.open_entries >= PUBLISH_ENTRIES:
            with suppress(PacketFSError):
                self._volume.space.publish_index()

    # Greeting

    def _hello(self, hello: protocol.Hello) -> Iterator[protocol.Message]:
        writes = hello.intent == "write"
        self._directory = self._access.directory(hello)
        create = hello.create and writes
        if self._directory is None:
            path = self._access.place(hello)
        else:
            path = self._directory.volume
            if create:
                _make_room(os.path.dirname(path))
            writes = writes and self._directory.may_write
        if is_replica(path) and not writes:
            yield self._welcome_of_replica(path)
            return
        volume = Volume.open(path, create=create, lock_wait_s=self._lock_wait_s, env=self._env)
        self._stack.enter_context(volume)
        self._volume = volume
        self._greeted_round = volume.round
        leased = None
        if writes:
            volume.check_writable()
            reserve.keep(volume.path)
            self._filling = self._stack.enter_context(volume.filling())
            self._check_quota()
            leased = self._grant()
        chunks, position = volume.descriptor.chunks, volume.position
        known = volume.at(hello.known_seq)
        yield protocol.Welcome(
            protocol=protocol.PROTOCOL,
            software=VERSION,
            volume_id=volume.id,
            chunks=[chunks.min, chunks.avg, chunks.max, chunks.normalisation],
            keys=self._access.keys(volume.space.peer_keys),
            seq=position.seq,
            hash=position.hash[:_HASH_BYTES],
            unique_bytes=volume.status().unique_bytes,
            created=volume.created,
            created_ns=volume.descriptor.created_ns,
            state=self._state(hello.ref, hello.known) if hello.ref else None,
            leased=leased,
            continues=known is not None and known.hash.startswith(hello.known_hash),
            reclaimed=_told(volume.reclaimed_since(hello.known_seq)) if hello.known_hash else [],
        )

    def _welcome_of_replica(self, path: str) -> protocol.Welcome:
        replica = Replica.open(path, lock_wait_s=self._lock_wait_s, env=self._env)
        if replica is None:
            raise DamagedError(f"the replica {path!r} cannot be used", hint="make it again with `packetfs clone`")
        self._stack.enter_context(replica)
        self._replica = replica
        identity, position = replica.identity, replica.position or replica.keys.genesis
        chunks = identity.chunks
        return protocol.Welcome(
            protocol=protocol.PROTOCOL,
            software=VERSION,
            volume_id=identity.volume_id,
            chunks=[chunks.min, chunks.avg, chunks.max, chunks.normalisation],
            keys=self._access.keys(identity.keys),
            seq=position.seq,
            hash=position.hash[:_HASH_BYTES],
            created_ns=identity.created_ns,
        )

    def _pair(self, pair: protocol.Pair) -> Iterator[protocol.Message]:
        yield self._access.pair(pair)

    # Questions

    def _check(self, check: protocol.Check) -> Iterator[protocol.Message]:
        yield self._state(check.ref, check.id)

    def _resolve(self, resolve: protocol.Resolve) -> Iterator[protocol.Message]:
        snapshot, seq = self._find(resolve.ref, resolve.when)
        yield _state(snapshot, seq)

    def _ask(self, ask: protocol.Ask) -> Iterator[protocol.Message]:
        yield protocol.Known(records=self.volume.space.find_tags(ask.tags))

    def _refs(self, refs: protocol.Refs) -> Iterator[protocol.Message]:
        states = [
            protocol.RefState(
                name=ref.name, seq=ref.seq, visited_ns=ref.visited_ns, id=ref.snapshot.id, snapshot=ref.snapshot.data
            )
            for ref in self.volume.refs()
            if ref.name > refs.after
        ]
        page = states[:_PAGE]
        yield protocol.RefList(page, more=len(page) < len(states))

    def _log(self, log: protocol.Log) -> Iterator[protocol.Message]:
        found = self.volume.log_page(check_ref(log.ref), log.before_seq, _PAGE)
        yield protocol.LogPage([_state(snapshot, seq) for seq, snapshot in found], more=len(found) == _PAGE)

    def _status(self, _: protocol.Status) -> Iterator[protocol.Message]:
        yield protocol.StatusReply(fields={**self.volume.status().as_fields()})

    # A pull

    def _want(self, want: protocol.Want) -> Iterator[protocol.Message]:
        """Everything that turns what the peer holds (`base`, whole where `data` is asked for) into a snapshot."""
        snapshot, seq = self._find(want.ref, want.when)
        base = self.volume.snapshot(want.base) if want.base else None
        same = base is not None and base[0].id == snapshot.id
        yield protocol.Planned(seq=seq) if same else _planned(snapshot, seq, base[0] if base is not None else None)
        outgoing = kernel.Outgoing(self.volume.space)
        if not same:
            root = base[0].root if base is not None else None
            outgoing.plan(snapshot.root, root, fresh=None, within=parse_path(want.path), data=want.data)
            yield from self._stream(outgoing)
        yield self._done(outgoing)

    def _fetch(self, fetch: protocol.Fetch) -> Iterator[protocol.Message]:
        outgoing = kernel.Outgoing((self._replica or self.volume).space)
        outgoing.add(list(_extents(fetch.extents)), pages=True)
        yield from self._stream(outgoing)
        yield self._done(outgoing)

    def _stream(self, outgoing: kernel.Outgoing) -> Iterator[protocol.Message]:
        while (body := outgoing.literals()) is not None:
            yield protocol.Literals(*body)
        while (part := outgoing.tree()) is not None:
            yield protocol.Tree(part)

    def _done(self, outgoing: kernel.Outgoing) -> protocol.Done:
        self._counts.add("sent_literal_bytes", outgoing.literal_bytes)
        self._counts.add("sent_delta_bytes", outgoing.delta_bytes)
        self._counts.add("sent_coded_bytes", outgoing.coded_bytes)
        self._counts.add("sent_pointers", outgoing.pointer_count)
        return protocol.Done(
            literal_bytes=outgoing.literal_bytes,
            delta_bytes=outgoing.delta_bytes,
            coded_bytes=outgoing.coded_bytes,
            pointer_count=outgoing.pointer_count,
            cpu_ms=self._usage.cpu_ms(),
            anonymous_kib=self._usage.anonymous_kib(),
        )

    # A push

    def _lease(self, _: protocol.Lease) -> Iterator[protocol.Message]:
        yield self._grant()

    def _literals(self, literals: protocol.Literals) -> Iterator[protocol.Message]:
        placed = self._place(literals.body)
        self._counts.add("received_literal_bytes", placed)
        self._counts.add("received_coded_bytes", memoryview(literals.body).nbytes)
        self._unsaved_bytes += placed
        if self._unsaved_bytes >= _CHECKPOINT_BYTES:
            self._checkpoint()
            yield protocol.Ack(durable_bytes=self._durable_bytes)

    def _begin(self, begin: protocol.Begin) -> Iterator[protocol.Message]:
        base = self.volume.snapshot(begin.base) if begin.base else None
        if begin.base and base is None:
            raise NotFoundError(
                f"there is no snapshot {begin.base[:6].hex()} here to build on",
                code="snapshot-not-found",
                hint="the peer has to begin again: what it holds is not from this volume's history",
            )
        self._base = base[0] if base is not None else None
        self._receiving().begin_tree(self._base.root if self._base is not None else None)
        yield from ()

    def _tree(self, tree: protocol.Tree) -> Iterator[protocol.Message]:
        self._counts.add("received_coded_bytes", memoryview(tree.body).nbytes)
        try:
            self._receiving().tree(tree.body)
        except DamagedError:
            if self.volume.round == self._greeted_round:
                raise
            # Not damage: the peer does not know what has been given up since it was greeted. The next greeting tells.
            raise ConflictError(
                "the push points to what was reclaimed at the origin while it was running",
                code="reclaimed-meanwhile",
                hint="run the push again",
            ) from None
        yield from ()

    def _commit(self, wanted: protocol.Commit) -> Iterator[protocol.Message]:
        volume, filling = self.volume, self._filling
        self._committed = None
        incoming = self._receiving()
        assert filling is not None, "the protocol lets nobody commit who did not greet as a writer"
        root, root_digest = incoming.finish_tree()
        self._incoming = None
        if root_digest[:_PREFIX_BYTES] != wanted.root_digest:
            raise DamagedError(
                "what was received is not the tree that was sent: its digest differs",
                code="transfer-damaged",
                hint="nothing was committed; run it again",
            )
        base = self._base
        parent = base.id if base is not None else b""
        if self._adopts:  # the base is only what it was coded against
            named = volume.state(check_ref(wanted.ref))
            parent = named[0].id if named is not None else b""
        proposal = proposal_from(wanted, (root, root_digest), parent, base)
        lease = self._current
        if lease is None or lease.room < _ROOM_BYTES_MIN:
            self._grant()
            lease = self._current
        assert lease is not None, "a lease was granted"
        others = [other for other in self._leases.values() if other is not lease]
        filling.checkpoint_all([(other, True) for other in others], self._recorded)
        for other in others:
            other.close()
        self._leases = {lease.segment: lease}
        self._recorded.clear()
        settled, began_s = self._unsaved_bytes <= SYNC_BYTES, self._env.monotonic_s()
        try:
            done = commit(volume, filling, lease, check_ref(wanted.ref), proposal, settled=settled)
        except ConflictError:
            raise
        except BaseException:
            # An entry that was not committed may lie in it: nothing that follows may be written down.
            self._leases.clear()
            self._current = None
            lease.close()
            raise
        self._counts.committed(self._env.monotonic_s() - began_s)
        self._unsaved_bytes = 0
        self._committed = done.snapshot
        leased = protocol.Leased(segment=lease.segment, head=lease.head)
        if lease.room < _ROOM_BYTES_MIN:
            leased = self._grant()
        yield protocol.Committed(
            seq=done.position.seq,
            time_ns=done.snapshot.time_ns,
            hash=done.position.hash[:_HASH_BYTES],
            id=done.snapshot.id[:_PREFIX_BYTES],
            leased_segment=leased.segment,
            leased_head=leased.head,
            cpu_ms=self._usage.cpu_ms(),
            anonymous_kib=self._usage.anonymous_kib(),
        )

    # A directory

    def _ingest(self, said: protocol.Ingest) -> Iterator[protocol.Message]:
        """What the directory holds becomes the next snapshot of its ref: from then on the volume has it."""
        self._told_s, self._told = self._env.monotonic_s(), 0
        self._found = None
        meant = self._meant()
        self._check_quota()  # who only reads has no lease, at which it is looked at, too
        with directory.in_turn(meant, writes=False, wait_s=self._lock_wait_s, env=self._env) as (written_ns, _):
            ingested, self._found = directory.ingest(self.volume, meant, said, written_ns, self._tell)
        yield ingested

    def _checkout(self, said: protocol.Checkout) -> Iterator[protocol.Message]:
        """The directory is made to hold a snapshot; one that it was just found to hold is not looked for again."""
        meant = self._meant()
        self._told_s, self._told = self._env.monotonic_s(), 0
        found, self._found = self._found, None
        before, self._written = self._written, None
        asked = replace(said, id=b"")
        if said.id:
            named = self.volume.snapshot(said.id)
            snapshot, what = (None if named is None else named[0]), f"there is no snapshot {said.id[:6].hex()} here"
        else:
            snapshot, what = self._committed, "this session has committed nothing that could be checked out"
        if snapshot is None:
            raise NotFoundError(what, code="snapshot-not-found")
        with directory.in_turn(meant, writes=True, wait_s=self._lock_wait_s, env=self._env) as (written_ns, begin):
            if found is not None and found.is_as(snapshot, said, written_ns):
                done = protocol.CheckedOut(0, 0, 0, 0, unchanged=_names(snapshot))
            else:
                alone, began_ns = before == (written_ns, asked), begin()
                done = directory.check_out(
                    self.volume,
                    meant,
                    snapshot,
                    said,
                    found=None if found is None else found.base(said, written_ns),
                    alone=alone,
                    progress=self._tell,
                    report=self._tell_changes,
                )
                if alone:  # most of them have not been looked at
                    done = replace(done, unchanged=_names(snapshot) - done.created - done.replaced - done.metadata)
                if not done.missed and not done.not_deleted:
                    self._written = (began_ns, asked)
        yield replace(
            done,
            disk_bytes=self.volume.status().disk_bytes,
            cpu_ms=self._usage.cpu_ms(),
            anonymous_kib=self._usage.anonymous_kib(),
        )

    def _meant(self) -> Directory:
        if self._directory is None:
            raise InvalidError("this session is about a volume, not about a directory", code="protocol-violation")
        return self._directory

    def _tell(self, progress: Progress) -> None:
        """Let a peer that waits know now and then that we are at work; if it has gone, stop."""
        now_s = self._env.monotonic_s()
        if now_s - self._told_s >= _TELL_S and self._told < protocol.PROGRESS_MAX:
            self._told_s = now_s
            self._told += 1
            totals = progress.files_total, progress.bytes_total
            self._send(self._origin.say(protocol.Progress(progress.files, progress.bytes, *totals)))

    def _tell_changes(self, changes: Sequence[Change]) -> None:
        """Tell them as they happen: nothing is kept of a million names."""
        for page in directory.pages(changes):
            self._send(self._origin.say(page))

    # A copy that follows

    def _join(self, _: protocol.Join) -> Iterator[protocol.Message]:
        feed.check_followed(self.volume)
        yield protocol.Joined(secret=self.volume.secret(), number=self.volume.new_number())

    def _follow(self, said: protocol.Follow) -> Iterator[protocol.Message]:
        """What came after a position; if that is nothing, wait for it."""
        volume = self.volume
        began_s = self._told_s = self._env.monotonic_s()
        if said.proof and fencing.fence(volume, fencing.check_proof(volume, said.proof).epoch, ""):
            volume.check_writable()  # raises what the copy has to know: this is no origin any more
        feed.check_position(volume, Position(said.seq, said.hash))
        until_s = began_s + _FOLLOWED_S
        while said.waits and self._env.monotonic_s() < until_s:
            version = volume.journal.version()
            feed.check_followed(volume)
            if volume.position.seq != said.seq:
                break
            volume.rest()
            try:
                while volume.journal.version() == version and (now_s := self._env.monotonic_s()) < until_s:
                    self._tell(Progress(phase="waiting"))
                    self._env.sleep(feed.period_s(now_s - began_s))
            finally:
                volume.renew()
        feed.check_followed(volume)
        yield from feed.feed(volume, said)

    def _at(self, said: protocol.At) -> Iterator[protocol.Message]:
        found = self.volume.journal_entry(said.seq)
        if found is None:
            raise NotFoundError(f"the journal has no entry {said.seq}")
        yield protocol.Entry(address=found[1], data=found[0])

    def _fence(self, said: protocol.Fence) -> Iterator[protocol.Message]:
        volume = self.volume
        epoch = fencing.check_proof(volume, said.proof).epoch
        if not fencing.fence(volume, epoch, said.origin):
            raise RefusedError(
                f"epoch {epoch} is none later than this copy's own, {volume.epoch}, or this is no origin",
                code="not-fenced",
            )
        yield protocol.Fenced(epoch)

    def _adopt(self, _: protocol.Adopt) -> Iterator[protocol.Message]:
        self.volume.check_writable()
        self._adopts = True
        yield protocol.Adopted()

    def _lease_earlier(self, segment: int) -> kernel.Lease:
        """The lease of a segment of an earlier epoch, of which nothing is ever granted any more."""
        volume = self.volume
        with volume.journal.reading() as db:
            known, epoch = space.row(db, volume.keys, segment), space.epoch(db, volume.keys)
        if epoch_of(segment) >= epoch:
            raise self._not_leased(segment)
        _, head, table_bytes = known or (segment, 0, 0)
        lease = volume.space.lease(segment, head, table_bytes, known is None, True)
        if lease is None:
            raise BusyError("another session fills that segment", hint="run it again", segment=segment)
        self._leases[segment] = lease
        return lease

    # What the above needs

    @property
    def volume(self) -> Volume:
        """The volume; the protocol lets nothing be said before the greeting."""
        assert self._volume is not None, "no message comes before the greeting"
        return self._volume

    def _grant(self) -> protocol.Leased:
        if self._filling is None:
            raise RefusedError("this session was opened for reading only", code="read-only-session")
        if self._unsaved_bytes >= _CHECKPOINT_BYTES:
            self._checkpoint()
        if self._leases:
            self._check_quota()
        lease = self._filling.grant(None)
        self._current = lease
        self._leases[lease.segment] = lease
        return protocol.Leased(segment=lease.segment, head=lease.head)

    def _check_quota(self) -> None:
        """UnavailableError when the volume takes more than its quota; what other processes store is seen here only."""
        limit = self._access.quota_bytes
        if limit is not None:
            self._quota = self._quota or quota_of(self.volume.id)
            self._quota.measured(self.volume.status().disk_bytes, limit)

    def _place(self, body: "Buffer") -> int:
        """Put literals where they belong; how many bytes were new. Past the quota goes one body at the most."""
        receiving, limit = self._receiving(), self._access.quota_bytes
        if limit is None or self._quota is None:
            return receiving.literals(body)
        return self._quota.place(lambda: receiving.literals(body), limit)

    def _checkpoint(self) -> None:
        self._record()
        self._durable_bytes += self._unsaved_bytes
        self._unsaved_bytes = 0

    def _record(self) -> None:
        """Make all leases durable and write down what has changed."""
        assert self._filling is not None, "only what was leased is filled"
        leases = [(lease, lease is not self._current) for lease in self._leases.values()]
        self._filling.checkpoint_all(leases, self._recorded)

    def _receiving(self) -> kernel.Incoming:
        if self._filling is None:
            raise RefusedError("this session was opened for reading only", code="read-only-session")
        if self._incoming is None:
            self._incoming = kernel.Incoming(self.volume.space, self._lease_of)
        return self._incoming

    def _lease_of(self, segment: int) -> kernel.Lease:
        lease = self._leases.get(segment)
        if lease is None:
            if not self._adopts:
                raise self._not_leased(segment)
            lease = self._lease_earlier(segment)
        return lease

    def _not_leased(self, segment: int) -> RefusedError:
        return RefusedError(f"segment {segment} is not leased to this session", code="not-leased", segment=segment)

    def _find(self, ref: str, when: str) -> tuple[Snapshot, int]:
        snapshot = self.volume.resolve(check_ref(ref), parse_when(when))
        found = self.volume.snapshot(snapshot.id)
        return snapshot, found[1] if found is not None else 0

    def _state(self, ref: str, known: bytes) -> protocol.State:
        found = self.volume.state(check_ref(ref))
        if found is None:
            return protocol.State()
        snapshot, seq = found
        if known and snapshot.id.startswith(known):
            return protocol.State(seq=seq, id=snapshot.id)
        return _state(snapshot, seq)


def _make_room(path: str) -> None:
    """The directory in which volumes of directories are."""
    try:
        files.make_directory(path)
    except OSError as error:
        raise disk_error("create", path, error.errno or 0) from None


def _names(snapshot: Snapshot) -> int:
    counted = snapshot.statistics
    return counted.files + counted.directories + counted.symlinks


def _told(rows: Sequence[Ranges]) -> list[protocol.Reclaimed] | None:
    """What was reclaimed, if it is not too much to tell."""
    if sum(len(ranges) + protocol.RANGE_BYTES for _, ranges in rows) > protocol.RECLAIMED_BYTES_MAX:
        return None
    return [protocol.Reclaimed(segment, ranges) for segment, ranges in rows]


def _state(snapshot: Snapshot, seq: int) -> protocol.State:
    return protocol.State(seq=seq, id=snapshot.id, snapshot=snapshot.data)


def _planned(snapshot: Snapshot, seq: int, base: Snapshot | None) -> protocol.Planned:
    """What a client needs to make the bytes of `snapshot` itself."""
    used = base.id[:_PREFIX_BYTES] if base is not None else b""
    said = proposal_of(snapshot)
    if said.tags or said.source_time_ns is not None or encode(said, snapshot.time_ns) != snapshot.data:
        return protocol.Planned(seq=seq, id=snapshot.id[:_PREFIX_BYTES], base=used, snapshot=snapshot.data)
    return protocol.Planned(
        seq=seq,
        id=snapshot.id[:_PREFIX_BYTES],
        base=used,
        time_ns=snapshot.time_ns,
        parent=None if base is not None and base.id == snapshot.parent else snapshot.parent,
        host=None if base is not None and base.host == snapshot.host else snapshot.host,
        user=None if base is not None and base.user == snapshot.user else snapshot.user,
        paths=None if base is not None and base.paths == snapshot.paths else list(snapshot.paths),
        statistics=numbers_of(snapshot.statistics),
        message=snapshot.message,
        root_is_source=snapshot.root_is_source,
    )


def _extents(packed: bytes) -> Iterator[Extent]:
    numbers = memoryview(packed).cast("Q")
    for i in range(0, len(numbers), 2):
        if not segment_of(numbers[i]):
            raise InvalidError("a hole cannot be fetched", code="protocol-violation")
        yield numbers[i], numbers[i + 1]
