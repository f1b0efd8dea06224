"""Push to an origin and pull from one: the two stories.

What travels and against what is decided in `plan.py` and in the kernel (`Outgoing`); how bytes are taken in is told in
`receiving.py`.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

from packetfs import kernel
from packetfs.errors import ConflictError, DamagedError, PacketFSError, RefusedError, UnavailableError
from packetfs.events import Change, Problem, Progress
from packetfs.format.address import OFFSET_BITS, Extent, segment_of
from packetfs.format.entry import Position
from packetfs.format.location import check_ref
from packetfs.format.snapshot import NO_LABELS, Labels, Snapshot, check_labels, check_message, cleaned, fitting
from packetfs.format.when import When
from packetfs.sync import checkout
from packetfs.sync.checkout import NO_CARE, Care, PullReport
from packetfs.sync.link import ID_BYTES
from packetfs.sync.plan import asks, numbers_of, retries
from packetfs.sync.session import Session, Traffic
from packetfs.sync.usage import Usage
from packetfs.volume import PushReport, Source
from packetfs.volume.commit import Proposal, snapshot_of
from packetfs.volume.ingest import (
    Ingest,
    StreamIngest,
    differs,
    page_of,
    problems_of,
    refuse_lease,
    statistics_of,
    tell_changes,
)
from packetfs.volume.selection import ALL, Selection
from packetfs.wire import protocol

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

    from packetfs.volume.space import Durable


__all__ = ["Pulled", "Pushed", "Stream", "fetch_absent", "pull", "push"]

OnProgress = Callable[[Progress], None]
_NOT_ASKED = 1 << 62  # from here on a ticket is no request, and says how many tags nobody was asked about
_MUCH = 1 << 62
_LAST_BODY_S = 2.0  # for what is being sent when a push is interrupted


class Stream(NamedTuple):
    """What can be read from a descriptor until its end, and the name of the file that it becomes."""

    fd: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push found and did, and what it moved."""

    report: PushReport
    traffic: Traffic
    then: int = 0
    """The request that was said right after the commit, to be heard; 0: there was no commit."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did, and what it moved."""

    report: PullReport
    traffic: Traffic


def push(
    session: Session,
    what: Sequence[Source] | Stream,
    ref: str,
    *,
    selection: Selection = ALL,
    checksum: bool = False,
    always: bool = False,
    dry_run: bool = False,
    message: str = "",
    labels: Labels = NO_LABELS,
    progress: OnProgress | None = None,
    changes: Callable[[Sequence[Change]], None] | None = None,
    then: Callable[[Sequence[Problem]], protocol.Message] | None = None,
) -> Pushed:
    """Store sources, as far as selected, or a stream as the next snapshot of `ref` at the origin.

    What `then` makes of the sources' problems is asked right after the commit, without waiting for its answer.

    See `Volume.push`: it promises the same. If this raises, the ref is where it was; when the connection ends while one
    waits for the commit, it may have moved. What the origin has received until then stays there, so that running it
    again sends the rest.
    """
    session.check_writer()
    check_ref(ref)
    message, labels = check_message(message), check_labels(labels)
    meter = _Meter(session, pushes=True)
    while True:
        session.settle()
        known, fresh = session.current(ref)
        try:
            if isinstance(what, Stream):
                found: Ingest | StreamIngest = StreamIngest(session.replica, *what)
            else:
                found = Ingest(session.replica, what, selection, checksum=checksum)
            report, counts, asked = _push_once(
                session,
                found,
                ref,
                known,
                fresh,
                always=always,
                dry_run=dry_run,
                message=message,
                labels=labels,
                progress=progress,
                changes=changes,
                then=then,
            )
        except ConflictError as error:
            session.forget(ref)
            session.replica.forget_uncommitted()
            session.leased = None  # the origin has ended it with the commit
            session.origin_bytes = lambda: _MUCH  # it has kept what was sent: the second try asks for it
            if isinstance(what, Stream) or not retries(error, fresh=fresh):
                raise
        except (DamagedError, RefusedError) as error:
            if isinstance(what, Stream) or not meter.may_discard(error):
                session.replica.forget_uncommitted()
                raise
            session.discard(error.message)
        except BaseException:
            session.replica.forget_uncommitted()
            session.leased = None
            raise
        else:
            session.replica.evict()
            return Pushed(report, meter.traffic(counts), asked)


def pull(
    session: Session,
    ref: str,
    when: When,
    path: bytes,
    target: str | bytes,
    *,
    delete: bool = False,
    care: Care = NO_CARE,
    dry_run: bool = False,
    check_space: bool = True,
    ownership: checkout.Ownership = checkout.AS_STORED,
    held: tuple[Source, Selection] | None = None,
    sparse: bool = False,
    progress: OnProgress | None = None,
    report: Callable[[Sequence[Change]], None] | None = None,
) -> Pulled:
    """Make the directory `target` hold what a snapshot has at `path`. See `checkout.pull`: it promises the same.

    What of the content is in the directory `held` already need not travel. A dry run that is `sparse` needs none.
    """
    meter = _Meter(session, pushes=False)
    while True:
        try:
            snapshot = session.receive(ref, str(when), path, data=not sparse)
            if not sparse:
                if held is not None and _is_worth_holding(session, snapshot):
                    _hold(session, *held, progress)
                fetch_absent(session, snapshot, path, check_space=check_space)
            done = checkout.pull(
                session.replica,
                snapshot,
                path,
                target,
                delete=delete,
                care=care,
                dry_run=dry_run,
                check_space=check_space,
                ownership=ownership,
                progress=progress,
                report=report,
            )
        except DamagedError as error:
            if not meter.may_discard(error):
                raise
            session.discard(error.message)
            continue
        counted = session.done
        counts = (counted.literal_bytes, counted.delta_bytes, counted.coded_bytes, counted.pointer_count)
        session.replica.evict()
        return Pulled(done, meter.traffic(counts))


def _is_worth_holding(session: Session, snapshot: Snapshot) -> bool:
    """Whether so much of a snapshot is not here that it pays to read what is."""
    kept = session.replica.kept(snapshot.id)
    if kept is None or kept.complete or not session.writes:
        return False
    absent = session.replica.space.absent(snapshot.root, b"")
    return asks(sum(length for _, length in absent), 0)


def _hold(session: Session, source: Source, selection: Selection, progress: OnProgress | None) -> None:
    """Read a directory here and put what of it the origin has where the origin has it. The rest goes nowhere."""
    try:
        found = Ingest(session.replica, [source], selection)
    except RefusedError:
        return  # the replica lies in it, or it in the replica: then it is not looked at, and all of it travels
    try:
        with _Sending(session, has_base=True) as sending:
            found.run(sending.grant, None, None, dry_run=False, progress=progress, ask=sending)
            sending.record_known()
    finally:
        session.leased = None
        session.replica.forget_uncommitted()


def fetch_absent(session: Session, snapshot: Snapshot, path: bytes, *, check_space: bool = False) -> None:
    """Bring what the tree needs under `path` and is still not here; with `check_space`, only if it can fit."""
    kept = session.replica.kept(snapshot.id)
    if kept is not None and kept.complete:
        return
    last: list[Extent] | None = None
    # Of a file with a long list of extents first the list is absent, then what it names.
    while absent := session.replica.space.absent(snapshot.root, path):
        if absent == last:
            raise DamagedError(f"the origin does not send {len(absent)} ranges that snapshot {snapshot.short} needs")
        if check_space:
            place = os.fsencode(session.replica.path)
            # What an earlier transfer left in the same segments is overwritten.
            left_bytes = session.replica.bytes_in({segment_of(address) for address, _ in absent})
            growth_bytes = sum(length for _, length in absent) - left_bytes
            checkout.refuse_growth(growth_bytes, kernel.free_bytes(place), place)
        session.fetch(absent)
        last = absent
    if kept is not None and not path:
        session.replica.record([], snapshot=(snapshot, kept.seq), complete=True)


def _push_once(
    session: Session,
    found: Ingest | StreamIngest,
    ref: str,
    known: Snapshot | None,
    fresh: bool,  # noqa: FBT001 - handed on
    *,
    always: bool,
    dry_run: bool,
    message: str,
    labels: Labels,
    progress: OnProgress | None,
    changes: Callable[[Sequence[Change]], None] | None,
    then: Callable[[Sequence[Problem]], protocol.Message] | None,
) -> tuple[PushReport, tuple[int, int, int, int], int]:
    """One try: against what `ref` is known to name."""
    env, replica = session.env, session.replica
    begun_s = env.monotonic_s()
    if known is not None and replica.kept(known.id) is None:
        session.receive(ref, known.name, b"", data=False)
    cache = found.cache
    next_cache = None if dry_run or cache is None else cache.begin()
    try:
        with _Sending(session, has_base=known is not None) as sending:
            ingested = found.run(
                refuse_lease if dry_run else sending.grant,
                page_of(known),
                next_cache,
                dry_run=dry_run,
                progress=progress,
                # While the origin looks at its directory, so do we; whether to ask is decided when something is new.
                ask=sending if session.ingesting or sending.asks else None,
                keep_pages=changes is not None,
            )
            changed = always or differs(known, ingested, root_is_source=found.root_is_source)
            snapshot = known
            if changed and not dry_run:
                _tell(progress, ingested)
                proposal = Proposal(
                    root=ingested.root,
                    root_digest=ingested.root_digest,
                    parent=known.id if known is not None else b"",
                    host=labels.host or cleaned(env.host()),
                    user=cleaned(env.user()),
                    paths=tuple(fitting(found.paths)),
                    statistics=statistics_of(ingested),
                    message=message,
                    root_is_source=found.root_is_source,
                    tags=labels.tags,
                    source_time_ns=labels.source_time_ns,
                )
                asked = then(problems_of(ingested)) if then is not None else None
                snapshot = sending.commit(ref, proposal, known, ingested.lease, asked)
            elif not dry_run and not fresh:
                _confirm(session, ref, known)
            counts = sending.counts()
            # Without a commit nobody has what was put into a lease: no stat cache may point there.
            is_there = sending.is_recorded if changed else not sending.has_granted
        if cache is not None and is_there:
            cache.publish()
        if not is_there:
            replica.forget_uncommitted()
    finally:
        if cache is not None:
            cache.discard()
    tell_changes(replica, known, ingested, changes)
    report = PushReport(
        ref=ref,
        snapshot=snapshot,
        changed=changed,
        dry_run=dry_run,
        statistics=statistics_of(ingested),
        problems=problems_of(ingested),
        excluded=ingested.excluded,
        seconds=env.monotonic_s() - begun_s,
    )
    return report, counts, sending.then


def _confirm(session: Session, ref: str, known: Snapshot | None) -> None:
    """Nothing has changed here: is the ref where it was? The one round trip of a push that has nothing to push."""
    now = session.ask_state(ref)
    session.current(ref)  # learnt just now, but for the next push that will be long ago
    if known is not None and (now is None or now.id != known.id):
        raise ConflictError(f"ref {ref!r} moved", code="ref-moved", hint="run the push again", ref=ref)


class _Sending:
    """What one push grants, asks and sends. A context manager."""

    def __init__(self, session: Session, *, has_base: bool) -> None:
        self._session = session
        self._link = session.link
        self._has_base = has_base
        self._outgoing = kernel.Outgoing(session.replica.space, verified=True)
        self._filled: list[Extent] = []
        self._begins: dict[int, int] = {}
        self._leases: dict[int, kernel.Lease] = {}
        self._asked: dict[int, list[int]] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._sent: list[Future[None]] = []
        self._given_up = False
        self.is_recorded = False
        """Whether what was committed is written down here."""
        self.then = 0
        """What was asked for right after the commit."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self._given_up = error is not None
        if self._sent and error is not None and not isinstance(error, PacketFSError) and self._is_stuck():
            self._link.connection.close()  # the peer does not read: nobody who interrupts this waits for it
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=error is not None)
        for lease in self._leases.values():
            lease.close()

    @cached_property
    def asks(self) -> bool:
        """Whether the origin may have what is new here; if it is looking at its own directory, that is awaited."""
        return asks(self._session.origin_bytes(), self._session.replica.disk_bytes())

    @property
    def has_granted(self) -> bool:
        """Whether anything may have been put where only a commit makes it exist."""
        return bool(self._begins)

    # What an ingest asks of its host: see `volume.ingest.Asking`.

    def grant(self, full: kernel.Lease | None) -> kernel.Lease:
        """The replica's side of a segment that the origin leased to us, after `full`."""
        if full is not None:
            self._fill(full)
        leased, self._session.leased = self._session.leased, None
        if leased is None:
            leased = self._link.ask(protocol.Lease(), protocol.Leased)
        lease = self.lease_for(leased.segment, leased.head)
        self._begins[leased.segment] = leased.head
        return lease

    def begin(self, tags: bytes) -> int:
        """Ask the origin which of these chunks it has, if that may be worth it."""
        if not self.asks:
            return _NOT_ASKED + len(tags) // protocol.TAG_BYTES
        step = protocol.ASK_TAGS_MAX * protocol.TAG_BYTES
        asked = [self._link.say(protocol.Ask(tags[at : at + step])) for at in range(0, len(tags), step)]
        self._asked[asked[0]] = asked
        return asked[0]

    def end(self, ticket: int) -> bytes:
        """The origin's answer."""
        if ticket >= _NOT_ASKED:
            return bytes((ticket - _NOT_ASKED) * protocol.RECORD_BYTES)
        return b"".join(self._link.hear(asked, protocol.Known).records for asked in self._asked.pop(ticket))

    def lease_for(self, segment: int, head: int | None = None) -> kernel.Lease:
        """Where bytes that the origin has, or (from `head` on) will have, in `segment` are put in the replica."""
        if segment not in self._leases:
            replica = self._session.replica
            self._leases[segment] = replica.lease(segment, head or 0, fill=head is None)
        if head is not None:
            self._leases[segment].advance(head)
        return self._leases[segment]

    # The end of a push

    def commit(
        self,
        ref: str,
        proposal: Proposal,
        known: Snapshot | None,
        lease: kernel.Lease | None,
        then: protocol.Message | None,
    ) -> Snapshot:
        """Send the rest, have the origin commit it, and write down here what it has committed.

        `then` is asked for in the same packet. If the commit fails, so does that, and its answer is heard here.
        """
        session, replica = self._session, self._session.replica
        session.origin_bytes()
        if lease is not None:
            self._fill(lease)
        replica.admit([other.flush() for other in self._leases.values()])
        for sent in self._sent:
            sent.result()
        base = known.root if known is not None else None
        self._outgoing.plan(proposal.root, base, fresh=self._filled, within=b"", data=True)
        self._send_literals()
        self._link.say(protocol.Begin(base=known.id[:ID_BYTES] if known is not None else b""), more=True)
        while (body := self._outgoing.tree()) is not None:
            self._link.say(protocol.Tree(body), more=True)
        request = self._link.say(_wanted(ref, proposal, known), more=then is not None)
        if then is not None:
            self.then = self._link.say(then)
        # While the origin makes it durable, so do we; what is written down below must be on disk.
        durable: list[Durable] | None = None
        with suppress(UnavailableError):
            durable = [other.sync() for other in self._leases.values()]
        try:
            committed = self._link.hear(request, protocol.Committed)
        except PacketFSError:
            self._hear_out()
            raise
        snapshot = snapshot_of(proposal, committed.time_ns, replica.keys)
        if not snapshot.id.startswith(committed.id):
            self._hear_out()
            raise DamagedError(
                f"the origin committed another snapshot than {snapshot.short}, which was sent",
                code="transfer-damaged",
                hint="look at it with `packetfs log` before you rely on it",
            )
        if committed.leased_segment:
            session.leased = protocol.Leased(committed.leased_segment, committed.leased_head)
        session.moved(ref, snapshot)
        session.done = protocol.Done(cpu_ms=committed.cpu_ms, anonymous_kib=committed.anonymous_kib)
        self.is_recorded = self._record(durable, committed, snapshot, ref)
        return snapshot

    def _hear_out(self) -> None:
        """Hear the answer to what followed a commit that is none, so that the session can go on."""
        request, self.then = self.then, 0
        with suppress(PacketFSError):
            while request and isinstance(self._link.next(request), protocol.Progress | protocol.Changes):
                pass

    def _record(
        self, durable: "list[Durable] | None", committed: protocol.Committed, snapshot: Snapshot, ref: str
    ) -> bool:
        """Write down what is here, if our disk has it. The origin has committed: a full disk here changes nothing."""
        replica = self._session.replica
        if durable is None:
            return False
        try:
            replica.admit(durable)
            before = replica.position
            # What others entered meanwhile is not known here: the next greeting asks for what was reclaimed since.
            follows = before is not None and committed.seq == before.seq + 1
            position = Position(committed.seq, committed.hash) if follows else None
            replica.record(durable, position=position, snapshot=(snapshot, committed.seq), ref=ref)
        except UnavailableError:
            return False
        return True

    def record_known(self) -> None:
        """Write down what the origin said that it has, and nothing of what was put into its leases."""
        durable = [lease.sync() for segment, lease in self._leases.items() if segment not in self._begins]
        self._session.replica.record(durable)

    def counts(self) -> tuple[int, int, int, int]:
        """Literal, delta and coded bytes, and pointers."""
        sent = self._outgoing
        return sent.literal_bytes, sent.delta_bytes, sent.coded_bytes, sent.pointer_count

    def _fill(self, lease: kernel.Lease) -> None:
        """Let what was put into `lease` be read, and where nothing better can be done, begin to send it."""
        durable = lease.flush()
        segment, head, _ = durable
        self._session.replica.admit([durable])
        begin = self._begins[segment]
        if head <= begin:
            return
        extent = (segment << OFFSET_BITS | begin, head - begin)
        self._filled.append(extent)
        if head < 1 << OFFSET_BITS and lease.room >= 1 << 20:
            return  # the last one: it is sent with the plan
        self._session.origin_bytes()  # nothing may be sent while a question is open
        self._sent.append(self._sender().submit(self._send_filled, extent, lease))

    def _send_filled(self, extent: Extent, lease: kernel.Lease) -> None:
        """In a thread: a first copy travels while the rest is still read. With a base, deltas are worth waiting for."""
        if not self._has_base:
            self._outgoing.add([extent], pages=False)
            self._send_literals()
        lease.sync()

    def _send_literals(self) -> None:
        while not self._given_up and (body := self._outgoing.literals()) is not None:
            self._link.say(protocol.Literals(*body), more=True)

    def _is_stuck(self) -> bool:
        from concurrent.futures import wait

        return bool(wait(self._sent, _LAST_BODY_S).not_done)

    def _sender(self) -> "ThreadPoolExecutor":
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor

            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="packetfs-send")
        return self._thread


class _Meter:
    """What an operation costs, from when this was made."""

    def __init__(self, session: Session, *, pushes: bool) -> None:
        self._session = session
        self._pushes = pushes
        self._begun_s = session.env.monotonic_s()
        self._usage = Usage()
        self._discarded = False
        session.done = protocol.Done()

    def may_discard(self, error: DamagedError | RefusedError) -> bool:
        """Whether `error` is the replica's, which can be had again, and it is the first time.

        The kernel refuses to put a chunk where another one is: then the replica contradicts its origin.
        """
        first, self._discarded = not self._discarded, True
        if protocol.said_by_peer(error):
            # What was sent points to bytes that the origin does not have: so does what is remembered here.
            return first and self._pushes and isinstance(error, DamagedError)
        return first and error.code == type(error).default_code

    def traffic(self, counts: tuple[int, int, int, int]) -> Traffic:
        """All of it."""
        before, self._session.counted = self._session.counted, self._session.link.counters()
        sent, received, trips = (now - then for now, then in zip(self._session.counted, before, strict=True))
        literal_bytes, delta_bytes, coded_bytes, pointer_count = counts
        done = self._session.done
        return Traffic(
            sent_bytes=sent,
            received_bytes=received,
            round_trips=trips,
            literal_bytes=literal_bytes,
            delta_bytes=delta_bytes,
            coded_bytes=coded_bytes,
            pointer_count=pointer_count,
            seconds=self._session.env.monotonic_s() - self._begun_s,
            cpu_s=self._usage.cpu_ms() / 1000,
            peer_cpu_s=done.cpu_ms / 1000,
            anonymous_bytes=self._usage.anonymous_kib() << 10,
            peer_anonymous_bytes=done.anonymous_kib << 10,
            disk_bytes=self._session.replica.disk_bytes(),
        )


def _wanted(ref: str, proposal: Proposal, base: Snapshot | None) -> protocol.Commit:
    paths = list(proposal.paths)
    return protocol.Commit(
        ref=ref,
        root_digest=proposal.root_digest[:ID_BYTES],
        host=None if base is not None and base.host == proposal.host else proposal.host,
        user=None if base is not None and base.user == proposal.user else proposal.user,
        paths=None if base is not None and list(base.paths) == paths else paths,
        statistics=numbers_of(proposal.statistics),
        message=proposal.message,
        root_is_source=proposal.root_is_source,
        tags=list(proposal.tags),
        source_time_ns=proposal.source_time_ns,
    )


def _tell(progress: OnProgress | None, ingested: kernel.Ingested) -> None:
    if progress is not None:
        progress(Progress(phase="committing", files=ingested.files, bytes=ingested.logical_bytes))
