"""A directory that a peer names instead of a volume: which one is meant, what it holds, how that is changed.

What a peer may name is decided by its rights: over ssh it is what the user may reach whom it logged in as
(`directory_of`), over TLS what lies in an export (`directory_in`). What the directory holds is kept in a volume of its
own (docs/design/sync.md).
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from packetfs.env import Env
from packetfs.errors import BusyError, InvalidError, NotFoundError, RefusedError, UsageError, disk_error
from packetfs.events import Change, Problem, Progress
from packetfs.format.address import Page
from packetfs.format.snapshot import Snapshot
from packetfs.sync import checkout
from packetfs.sync.exports import Within
from packetfs.sync.identity import data_directory
from packetfs.sync.plan import raced
from packetfs.volume import Source, Volume, files
from packetfs.volume.ingest import clean_before_ns, page_of
from packetfs.volume.selection import Pattern, Selection
from packetfs.wire import protocol

__all__ = [
    "FOUND",
    "SENT",
    "Directory",
    "Found",
    "check_out",
    "directory_in",
    "directory_of",
    "export_of",
    "in_turn",
    "ingest",
    "named",
    "pages",
    "refused_with_place",
]

FOUND: Final = "found"
"""The ref that names what the directory held when it was last looked at."""
SENT: Final = "sent"
"""The ref that names what the peer last sent for it."""
_PROBLEMS_MAX: Final = 32  # that are told by name
_PAGE_BYTES_MAX: Final = 256 << 10  # of names in one CHANGES
_MARK: Final = "\0"  # in front of a directory, where a volume would stand: no path has one


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of this machine, and the path of its volume. Neither has to be there."""

    path: str
    volume: str
    within: Within | None = None
    """Where it lies in an export; None: it is anywhere, and reached by its path."""
    may_write: bool = True
    """Whether the peer may change what it holds."""

    def __str__(self) -> str:
        """What the peer calls it."""
        return self.path if self.within is None else str(self.within)

    @contextmanager
    def opened(self, *, make: bool = False) -> Iterator[str | None]:
        """By which path it is reached within the block; None if it is missing, and not to be made."""
        if self.within is None:
            yield self.path if make or os.path.lexists(self.path) else None
            return
        with self.within.opened(make=make) as place:
            yield place

    @contextmanager
    def backup(self, said: bytes | None) -> Iterator[str | None]:
        """What the peer means by a path for backups: it begins in the directory unless it is absolute."""
        if said is None:
            yield None
        elif self.within is None:
            yield os.path.join(self.path, os.path.expanduser(os.fsdecode(said)))
        else:
            with self.within.other(said).opened(make=True) as place:
                yield place


def named(path: str) -> str:
    """The directory `path`, as HELLO names it where a volume would stand."""
    return _MARK + path


def directory_of(said: bytes, environment: Mapping[str, str]) -> Directory | None:
    """The directory that HELLO means; None if it means a volume. InvalidError if it names nothing."""
    text = os.fsdecode(said)
    if not text.startswith(_MARK):
        return None
    path = text.removeprefix(_MARK)
    if not path or _MARK in path:
        raise InvalidError(f"the peer names no directory: {path!r}", code="bad-location")
    real = os.path.realpath(os.path.expanduser(path))
    return Directory(real, _volume_of(real, environment))


def export_of(said: bytes) -> tuple[str, bytes] | None:
    """The export that HELLO means and the path in it, `site:/sub`; None if it means a volume."""
    text = said.removeprefix(_MARK.encode())
    if text == said:
        return None
    name, _, path = text.partition(b":")
    return name.decode("utf-8", "backslashreplace"), path


def directory_in(within: Within, environment: Mapping[str, str], *, may_write: bool) -> Directory:
    """The directory in an export. NotFoundError if it is missing and the peer may not make it.

    RefusedError `outside-root` if a link or a file is in the way.
    """
    with within.opened() as place:
        if place is None and not may_write:
            raise _missing(str(within), within)
    return Directory(within.path, _volume_of(within.path, environment), within, may_write)


def _volume_of(real: str, environment: Mapping[str, str]) -> str:
    name = hashlib.blake2b(os.fsencode(real), digest_size=12).hexdigest()
    return os.path.join(data_directory(environment), "sync", name)


def _missing(shown: str, within: Within | None) -> NotFoundError:
    hint = (
        "a path without a slash before it begins in the home directory"
        if within is None
        else f"paths begin in the directory that the server exports as {within.export.name}"
    )
    return NotFoundError(f"there is no directory {shown!r}", code="file-not-found", hint=hint, path=shown)


@dataclass(frozen=True, slots=True)
class Found:
    """What a directory was found to hold, all of it, and by which question."""

    snapshot: Snapshot
    said: protocol.Ingest
    written_ns: int
    """When a checkout had last begun to write into it."""
    before_ns: int
    """What had not been changed since then, by the directory's own clock, is as it was found."""

    def base(self, wanted: protocol.Checkout, written_ns: int) -> tuple[Page, int] | None:
        """As what a checkout may take that about which nothing has changed since; None if it has to look itself."""
        page = page_of(self.snapshot)
        if page is None or self.written_ns != written_ns or self.said.exclude != wanted.exclude:
            return None
        return page, self.before_ns

    def is_as(self, snapshot: Snapshot, wanted: protocol.Checkout, written_ns: int) -> bool:
        """Whether the directory holds what is wanted already, unless somebody else than us has written into it."""
        return (
            self.written_ns == written_ns
            and (self.said.exclude, self.said.checksum) == (wanted.exclude, wanted.checksum)
            and self.snapshot.root_digest == snapshot.root_digest
            and self.snapshot.root_is_source == snapshot.root_is_source
        )


@contextmanager
def in_turn(directory: Directory, *, writes: bool, wait_s: float, env: Env) -> Iterator[tuple[int, Callable[[], int]]]:
    """Within the block nobody else checks out into the directory: not a session either whose client was killed.

    Gives when a checkout had last begun, and what to call when one begins, which says when that was. Several may read
    at once. BusyError if somebody is longer at it than one waits.
    """
    path = f"{directory.volume}.lock"
    try:
        lock = files.take_lock(path, wait_s=wait_s, env=env, shared=not writes)
    except OSError as error:
        raise disk_error("open", path, error.errno or 0) from None
    if lock is None:
        raise BusyError(
            f"another sync {'uses' if writes else 'writes into'} {str(directory)!r}",
            hint="run it again when that one has ended",
            path=str(directory),
        )

    def begin() -> int:
        os.utime(lock.fileno())
        return os.fstat(lock.fileno()).st_mtime_ns

    with lock:
        yield os.fstat(lock.fileno()).st_mtime_ns, begin


def ingest(
    volume: Volume, directory: Directory, said: protocol.Ingest, written_ns: int, tell: Callable[[Progress], None]
) -> tuple[protocol.Ingested, Found | None]:
    """Let `found` name what the directory holds now; None as well if some of it could not be read as it is."""
    with directory.opened() as place:
        if place is None:
            if not said.may_be_missing:
                raise _missing(str(directory), directory.within)
            status = volume.status()
            return protocol.Ingested(status.unique_bytes, missing=True, disk_bytes=status.disk_bytes), None
        if not os.path.isdir(place):
            raise UsageError(
                f"{str(directory)!r} is not a directory", hint="name a directory, or one that is to be made"
            )
        source = Source(os.fsencode(directory.path), at=os.fsencode(place))
        selection = Selection(exclude=_patterns(said.exclude))
        before_ns = clean_before_ns(volume.path, [source], volume.env)
        try:
            report = raced(
                lambda: volume.push([source], FOUND, selection=selection, checksum=said.checksum, progress=tell)
            )
        except RefusedError as error:
            raise refused_with_place(error) from None
    status = volume.status()
    ingested = protocol.Ingested(
        unique_bytes=status.unique_bytes,
        unread=sum(problem.kind in ("unreadable", "missing") for problem in report.problems),
        problems=_missed(report.problems),
        disk_bytes=status.disk_bytes,
    )
    if report.snapshot is None or report.statistics.problems:
        return ingested, None
    return ingested, Found(report.snapshot, said, written_ns, before_ns)


def check_out(
    volume: Volume,
    directory: Directory,
    snapshot: Snapshot,
    said: protocol.Checkout,
    *,
    found: tuple[Page, int] | None,
    alone: bool,
    progress: Callable[[Progress], None],
    report: Callable[[Sequence[Change]], None],
) -> protocol.CheckedOut:
    """Make the directory hold the snapshot. `checkout.pull` says what is promised; `found` is `Found.base`."""
    with directory.opened(make=True) as place, directory.backup(said.backup) as backup:
        assert place is not None, "it is made if it is missing"
        done = checkout.pull(
            volume,
            snapshot,
            b"",
            place,
            delete=said.delete,
            care=checkout.Care(
                exclude=_patterns(said.exclude), delete_max=said.delete_max, backup=backup, checksum=said.checksum
            ),
            check_space=said.check_space,
            ownership=checkout.Ownership(restore=said.owners, numeric=said.numeric),
            found=found,
            alone=alone,
            progress=progress,
            report=report if said.tell else None,
        )
    return protocol.CheckedOut(**done.counts(), missed=_missed(done.missed))


def pages(changes: Sequence[Change]) -> list[protocol.Changes]:
    """Changes as they are told."""
    told: list[protocol.Changes] = []
    page: list[protocol.Changed] = []
    page_bytes = 0
    for change in changes:
        if page and (page_bytes + len(change.path) > _PAGE_BYTES_MAX or len(page) == protocol.CHANGES_MAX):
            told.append(protocol.Changes(page))
            page, page_bytes = [], 0
        kind: protocol.Kind = change.kind  # type: ignore[assignment]  # the kernel's words
        page.append(protocol.Changed(change.path, change.action, kind, change.size, change.letters))
        page_bytes += len(change.path)
    return [*told, protocol.Changes(page)] if page else told


def refused_with_place(error: RefusedError) -> RefusedError:
    """The same, with what to do where nobody has chosen the place of the volume."""
    if error.code not in ("source-holds-volume", "source-in-volume"):
        return error
    hint = "leave out what PacketFS keeps (--exclude /.local/share/packetfs/), or let XDG_DATA_HOME move it"
    return RefusedError(error.message, code=error.code, hint=hint, **error.values)


def _patterns(lines: Sequence[bytes]) -> tuple[Pattern, ...]:
    return tuple(Pattern("a pattern of the peer", line) for line in lines)


def _missed(problems: Sequence[Problem]) -> list[protocol.Missed]:
    """The first of them, as they are told."""
    return [protocol.Missed(problem.path, problem.kind, problem.errno) for problem in problems[:_PROBLEMS_MAX]]
