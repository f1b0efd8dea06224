"""Make a directory on one machine hold what one on another machine holds: the two directions.

Whatever either side holds already is ingested first, so that it need not travel, whoever put it there; the rest is a
push and a checkout there, or a pull (docs/design/sync.md). Nothing is decided here of how bytes travel.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from packetfs.errors import InvalidError, RefusedError
from packetfs.events import Change, Problem, Progress
from packetfs.format.when import LATEST
from packetfs.sync import checkout, transfer
from packetfs.sync.checkout import NO_CARE, Care, Ownership, Written
from packetfs.sync.directory import FOUND, SENT, refused_with_place
from packetfs.sync.link import ID_BYTES
from packetfs.sync.plan import raced
from packetfs.sync.session import Session, Traffic
from packetfs.volume import Source
from packetfs.volume.selection import Pattern, Selection
from packetfs.wire import protocol

__all__ = ["Synced", "fetch", "question", "send"]

OnProgress = Callable[[Progress], None]
Report = Callable[[Sequence[Change]], None]
_NOTHING_DONE = protocol.CheckedOut(0, 0, 0, 0, 0)
_LOST = frozenset({"unreadable", "missing"})  # what the source has and nobody could read: never to be deleted for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced(Written):
    """What a sync did (or, dry, would do) to the directory that it wrote to, and what it moved."""

    dry_run: bool
    logical_bytes: int
    """Of the source."""
    unread: int
    """Names of the source that could not be read. If there are any, nothing is deleted."""
    problems: tuple[Problem, ...]
    """The first of them, and of what else was not read as it is."""
    far_bytes: int
    """What the volume there takes on disk; 0 where that was not said."""
    traffic: Traffic

    @property
    def changed(self) -> bool:
        """Whether anything was done, or was to be done and was not."""
        return bool(
            self.created
            or self.replaced
            or self.metadata
            or self.deleted
            or self.not_deleted
            or self.missed
            or self.problems
        )


def question(care: Care, *, may_be_missing: bool) -> protocol.Ingest:
    """What to ask with the greeting: look at the directory there."""
    return protocol.Ingest(exclude=_lines(care), checksum=care.checksum, may_be_missing=may_be_missing)


def send(
    session: Session,
    source: str | bytes,
    *,
    delete: bool = False,
    care: Care = NO_CARE,
    dry_run: bool = False,
    check_space: bool = True,
    ownership: Ownership = checkout.AS_STORED,
    progress: OnProgress | None = None,
    report: Report | None = None,
) -> Synced:
    """Make the directory of the session, which is there, hold what `source` holds here.

    It promises there what `checkout.pull` does here. What `care` excludes is not sent either. If names of `source`
    could not be read, nothing is deleted. A dry run sends no content and touches no directory. A `source` that is no
    directory is sent under its name.

    Sent again on the same session, it is one round trip: what somebody else has written there meanwhile is not looked
    for, and where nothing has changed here nothing is checked out there.
    """
    if not session.writes:
        raise RefusedError(
            "this machine may read that directory, and not write into it",
            code="role-too-low",
            hint="ask who runs the server for a token with the role `write`, or to export it without `:ro`",
        )
    is_first = bool(session.ingesting)
    # Both sides look at their directories at the same time: what the other has found is heard when it is needed. To ask
    # what is there before something is sent pays off when it is a lot: at first, when nothing of it is known.
    ingested = cache(lambda: _ingested(session, progress))
    session.origin_bytes = (lambda: ingested().unique_bytes) if is_first else (lambda: 0)
    selection = Selection(exclude=tuple(care.exclude))
    sources = [_source(os.fsencode(source))]
    if dry_run:
        assert is_first, "a dry run compares with what is found there"
        counts = _Counts(report, delete=delete, delete_max=care.delete_max)
        against = "nothing" if ingested().missing else FOUND
        pushed = session.push(
            sources,
            against,
            selection=selection,
            checksum=care.checksum,
            dry_run=True,
            progress=progress,
            report=counts,
        )
        counted = pushed.report.statistics
        return counts.synced(pushed.traffic, counted.logical_bytes, pushed.report.problems, counted.new_bytes)

    def wanted(problems: Sequence[Problem], id_: bytes = b"") -> protocol.Checkout:
        return protocol.Checkout(
            id=id_,
            exclude=_lines(care),
            delete=delete and not _unread(problems),
            delete_max=care.delete_max,
            backup=None if care.backup is None else os.fsencode(care.backup),
            checksum=care.checksum,
            owners=ownership.restore,
            numeric=ownership.numeric,
            check_space=check_space,
            tell=report is not None,
        )

    try:
        pushed = raced(
            lambda: session.push(
                sources, SENT, selection=selection, checksum=care.checksum, progress=progress, then=wanted
            )
        )
    except RefusedError as error:
        raise refused_with_place(error) from None
    snapshot, problems = pushed.report.snapshot, pushed.report.problems
    assert snapshot is not None, "a push that is not dry has a snapshot"
    request = pushed.then
    if is_first:
        ingested()
    if is_first and not request:
        request = session.link.say(wanted(problems, snapshot.id[:ID_BYTES]))
    done = _heard(session, request, "writing", progress, report) if request else _NOTHING_DONE
    if not isinstance(done, protocol.CheckedOut):
        raise InvalidError("the peer does not say what it has checked out", code="protocol-violation")
    traffic = replace(
        _with_the_rest(session, pushed.traffic),
        peer_cpu_s=max(pushed.traffic.peer_cpu_s, done.cpu_ms / 1000),
        peer_anonymous_bytes=max(pushed.traffic.peer_anonymous_bytes, done.anonymous_kib << 10),
    )
    return Synced(
        **_written(done).fields(),
        dry_run=False,
        logical_bytes=pushed.report.statistics.logical_bytes,
        unread=_unread(problems),
        problems=problems,
        far_bytes=done.disk_bytes,
        traffic=traffic,
    )


def fetch(
    session: Session,
    target: str | bytes,
    *,
    delete: bool = False,
    care: Care = NO_CARE,
    dry_run: bool = False,
    check_space: bool = True,
    ownership: Ownership = checkout.AS_STORED,
    progress: OnProgress | None = None,
    report: Report | None = None,
) -> Synced:
    """Make the directory `target` here hold what the directory of the session holds there; see `send`."""
    ingested = _ingested(session, progress)
    session.origin_bytes = lambda: ingested.unique_bytes
    pulled = transfer.pull(
        session,
        FOUND,
        LATEST,
        b"",
        target,
        delete=delete and not ingested.unread,
        care=care,
        dry_run=dry_run,
        check_space=check_space,
        ownership=ownership,
        held=(Source(os.fsencode(target)), Selection(exclude=tuple(care.exclude))) if os.path.isdir(target) else None,
        sparse=dry_run,
        progress=progress,
        report=report,
    )
    return Synced(
        **pulled.report.fields(),
        dry_run=dry_run,
        logical_bytes=pulled.report.snapshot.statistics.logical_bytes,
        unread=ingested.unread,
        problems=_problems(ingested.problems),
        far_bytes=ingested.disk_bytes,
        traffic=_with_the_rest(session, pulled.traffic),
    )


class _Counts:
    """What would be done, counted while it is told: in what `found` differs from what is to be sent."""

    def __init__(self, report: Report | None, *, delete: bool, delete_max: int | None) -> None:
        self._report = report
        self._delete = delete
        self._delete_max = delete_max
        self._counts: Counter[str] = Counter()
        self._going = 0
        self._gone = b"/"  # the directory that was told last to be deleted: what is in it goes without saying

    def __call__(self, changes: Sequence[Change]) -> None:
        meant = [change for change in changes if change.action != "deleted" or self._is_told(change)]
        self._counts.update(change.action for change in meant)
        if self._report is not None and meant:
            self._report(meant)

    def _is_told(self, change: Change) -> bool:
        if not self._delete:
            return False
        self._going += 1
        if change.path.startswith(self._gone):
            return False
        if change.kind == "directory":
            self._gone = change.path + b"/"
        return True

    def synced(self, traffic: Traffic, logical_bytes: int, problems: tuple[Problem, ...], new_bytes: int) -> Synced:
        """What would be done."""
        too_many = self._delete_max is not None and self._going > self._delete_max
        return Synced(
            dry_run=True,
            created=self._counts["created"],
            replaced=self._counts["replaced"],
            metadata=self._counts["metadata"],
            deleted=0 if too_many else self._counts["deleted"],
            unchanged=None,
            not_deleted=self._going if too_many else 0,
            written_bytes=new_bytes,
            logical_bytes=logical_bytes,
            unread=_unread(problems),
            problems=problems,
            far_bytes=0,
            traffic=traffic,
        )


def _source(path: bytes) -> Source:
    return Source(path, None if os.path.isdir(path) else os.path.basename(path))


def _ingested(session: Session, progress: OnProgress | None) -> protocol.Ingested:
    """The answer to what was asked with the greeting."""
    request, session.ingesting = session.ingesting, 0
    assert request, "a session with a directory begins with a look at it, and is used once"
    answer = _heard(session, request, "storing", progress, None)
    if not isinstance(answer, protocol.Ingested):
        raise InvalidError("the peer does not say what it has ingested", code="protocol-violation")
    return answer


def _heard(
    session: Session, request: int, phase: str, progress: OnProgress | None, report: Report | None
) -> protocol.Message:
    """The answer to `request`; what is told before it is passed on."""
    while True:
        match message := session.link.next(request):
            case protocol.Progress():
                if progress is not None:
                    progress(
                        Progress(
                            phase=phase,  # type: ignore[arg-type]
                            files=message.files,
                            files_total=message.files_total,
                            bytes=message.bytes,
                            bytes_total=message.bytes_total,
                        )
                    )
            case protocol.Changes():
                if report is not None:
                    report(
                        [
                            Change(path=one.path, action=one.action, kind=one.kind, size=one.size, letters=one.letters)
                            for one in message.changes
                        ]
                    )
            case _:
                return message


def _with_the_rest(session: Session, traffic: Traffic) -> Traffic:
    """`traffic` of an operation of this session, with what it has moved since that was counted."""
    before, session.counted = session.counted, session.link.counters()
    sent_bytes, received_bytes, round_trips = (now - then for now, then in zip(session.counted, before, strict=True))
    return replace(
        traffic,
        sent_bytes=traffic.sent_bytes + sent_bytes,
        received_bytes=traffic.received_bytes + received_bytes,
        round_trips=traffic.round_trips + round_trips,
    )


def _unread(problems: Sequence[Problem]) -> int:
    return sum(problem.kind in _LOST for problem in problems)


def _written(done: protocol.CheckedOut) -> Written:
    """The counts as they were told."""
    return Written(**{name: getattr(done, name) for name in checkout.COUNTS}, missed=_problems(done.missed))


def _problems(missed: Sequence[protocol.Missed]) -> tuple[Problem, ...]:
    return tuple(Problem(path=one.path, kind=one.kind, errno=one.errno) for one in missed)


def _lines(care: Care) -> list[bytes]:
    """The patterns as they are said."""
    return [given.line if isinstance(given, Pattern) else os.fsencode(given) for given in care.exclude]
