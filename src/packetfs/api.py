"""PacketFS from Python: the same things that the commands do, as calls on an open volume.

Everything blocks until it is done, and raises a class of `packetfs.errors`. Places inside a volume are spelled as on
the command line, without the volume: `main`, `main@~1`, `main@2026-11-20:/etc/hosts`.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from packetfs.env import SYSTEM
from packetfs.errors import NotFoundError, UsageError
from packetfs.events import Change, Progress
from packetfs.format.location import Location, check_ref, parse_location
from packetfs.format.snapshot import Labels, Snapshot, check_labels
from packetfs.format.when import LATEST
from packetfs.volume import PushReport, Selection, Volume, sources_of
from packetfs.volume.selection import ALL

if TYPE_CHECKING:
    from packetfs.sync.checkout import Ownership, PullReport
    from packetfs.sync.difference import Difference
    from packetfs.sync.find import Found
    from packetfs.sync.scrub import ScrubReport
    from packetfs.sync.session import Session
    from packetfs.volume.replica import Replica

__all__ = ["Selection", "compare", "connect", "create", "find", "open", "open_replica", "pull", "push", "verify"]

_Path = str | bytes | os.PathLike[str]


def open(  # noqa: A001 - packetfs.open("vol") reads well
    path: str | os.PathLike[str], *, create: bool = False, lock_wait_s: float = 10.0
) -> Volume:
    """The volume at `path`, to be used in a `with`; `create` makes it if there is none (`volume.created` tells).

    A commit waits up to `lock_wait_s` seconds for another process before it raises BusyError.
    """
    return Volume.open(path, create=create, lock_wait_s=lock_wait_s)


def create(path: str | os.PathLike[str], *, lock_wait_s: float = 10.0) -> Volume:
    """Make an empty volume at `path`, a directory that is missing or empty, and open it."""
    return Volume.create(path, lock_wait_s=lock_wait_s)


def connect(
    location: str | Location,
    *,
    ref: str = "",
    wants: tuple[str, str, bytes] | None = None,
    writes: bool = True,
    create: bool = False,
    ssh: str = "ssh",
    remote_packetfs: str = "packetfs",
    cache_bytes: int | None = None,
    rate_bytes_s: int | None = None,
    replica: str | None = None,
    whole: bool = False,
    lock_wait_s: float = 10.0,
    discarded: Callable[[str], None] | None = None,
) -> "Session":
    """A session with the machine that a volume is on, to be used in a `with`; `push` and `pull` take it like a volume.

    `location` names a volume over ssh (`host:/srv/volume`, `ssh://host/srv/volume`), one on a server that this machine
    has paired with (`pfs://host/volume`) or a replica on this machine, which knows its origin. `ref` is what it is
    about, `wants` (ref, when, path) what will be pulled first: each saves a round trip and neither is needed. What was
    transferred stays in a replica here (at `replica`, by default in the user's data directory), at most `cache_bytes`
    of it between operations (by default a tenth of the free disk), so that the next transfer can point to it; with
    `whole` all of it. `ssh` is the command, with options, that reaches the machine; no more than `rate_bytes_s` go
    either way in a second.
    """
    from packetfs.sync.remote import connect

    place = parse_location(location) if isinstance(location, str) else location
    return connect(
        place,
        ref=ref,
        wants=wants,
        writes=writes,
        create=create,
        ssh=ssh,
        remote_packetfs=remote_packetfs,
        cache_bytes=cache_bytes,
        rate_bytes_s=rate_bytes_s,
        replica=replica,
        whole=whole,
        lock_wait_s=lock_wait_s,
        discarded=discarded,
    )


def open_replica(path: str | os.PathLike[str], *, lock_wait_s: float = 10.0) -> "Replica":
    """The replica at `path`, by itself: a whole one can be read like a volume. NotFoundError if there is none."""
    from packetfs.volume.replica import Replica

    found = Replica.open(os.path.abspath(os.fspath(path)), lock_wait_s=lock_wait_s, env=SYSTEM)
    if found is None:
        raise NotFoundError(
            f"there is no replica at {os.fspath(path)!r} that can be used",
            code="volume-not-found",
            hint="`packetfs clone` makes one",
        )
    return found


def push(
    volume: "Volume | Session",
    paths: Sequence[_Path],
    ref: str = "main",
    *,
    selection: Selection = ALL,
    checksum: bool = False,
    message: str = "",
    tags: Sequence[str] = (),
    always: bool = False,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    report: Callable[[Sequence[Change]], None] | None = None,
) -> PushReport:
    """Store `paths`, as far as selected, as the next snapshot of `ref`; without a difference only if `always`.

    One directory: its contents are the snapshot's root. Several paths, or a file: they appear under their base names.
    Files that could not be stored are in the report's `problems`; everything else was. If this raises, the ref has not
    moved, and running it again finds what was stored already. With `checksum` every file is read, also where nothing of
    it seems to have changed. `report` is told what differs from the snapshot before, once it is stored.
    """
    done = volume.push(
        sources_of(paths),
        check_ref(ref),
        selection=selection,
        checksum=checksum,
        message=message,
        labels=check_labels(Labels(tags=tuple(tags))),
        always=always,
        dry_run=dry_run,
        progress=progress,
        report=report,
    )
    return done if isinstance(done, PushReport) else done.report


def pull(
    volume: "Volume | Session",
    place: str,
    target: _Path,
    *,
    delete: bool = False,
    delete_max: int | None = None,
    exclude: Sequence[str | bytes] = (),
    backup: _Path | None = None,
    checksum: bool = False,
    dry_run: bool = False,
    check_space: bool = True,
    ownership: "Ownership | None" = None,
    progress: Callable[[Progress], None] | None = None,
    report: Callable[[Sequence[Change]], None] | None = None,
) -> "PullReport":
    """Make the directory `target` hold what is at `place`. See `packetfs.sync.checkout.pull`.

    `ownership` (`packetfs.sync.checkout.Ownership`) is whom it shall belong to: by default the users and groups that
    the snapshot names. What could not be set is in the report's `missed`; it is not raised. What the lines `exclude`
    match, as in .gitignore, is neither written nor deleted nor touched. If more than `delete_max` names would be
    deleted, none is. What is replaced or deleted is moved to the directory `backup`, if one is given. With `checksum`
    files are compared by content, not by size and time.
    """
    from packetfs.sync.checkout import AS_STORED, Care, pull

    care = Care(exclude=exclude, delete_max=delete_max, backup=backup, checksum=checksum)
    directory = os.fsencode(target)
    if not isinstance(volume, Volume):
        return volume.pull(
            place,
            directory,
            delete=delete,
            care=care,
            dry_run=dry_run,
            check_space=check_space,
            ownership=ownership,
            progress=progress,
            report=report,
        ).report
    snapshot, path = _inside(volume, place)
    return pull(
        volume,
        snapshot,
        path,
        directory,
        delete=delete,
        care=care,
        dry_run=dry_run,
        check_space=check_space,
        ownership=ownership or AS_STORED,
        progress=progress,
        report=report,
    )


def compare(volume: "Volume | Session", old: str, new: str) -> "list[Difference]":
    """What turns the place `old` into the place `new`."""
    from packetfs.sync.difference import compare

    places = _inside(volume, old), _inside(volume, new)
    return list(compare(volume.trees, *places))


def find(volume: "Volume | Session", pattern: str | bytes, place: str = "main") -> "list[Found]":
    """In which snapshots of a ref (`main`, `main:/etc`) a path that matches `pattern` was. See `packetfs.sync.find`."""
    from packetfs.sync.find import find

    location = parse_location(f"::{place}")
    if location.volume or location.endpoint is not None or location.when != LATEST:
        raise UsageError(f"{place!r} is no ref, or path in one", code="bad-location", hint="write REF or REF:/PATH")
    return list(find(volume, pattern, [location.line], location.path))


def verify(
    volume: Volume, *, restart: bool = False, progress: Callable[[Progress], None] | None = None
) -> "ScrubReport":
    """Check every committed byte of `volume` against its digest; damage is in the report, it is not raised."""
    from packetfs.sync.scrub import verify

    return verify(volume, restart=restart, progress=progress)


def _inside(volume: "Volume | Session", place: str) -> tuple[Snapshot, bytes]:
    location = parse_location(f"::{place}")
    if location.volume or location.endpoint is not None:
        raise UsageError(f"{place!r} is no place inside a volume", code="bad-location", hint="write REF@WHEN:/PATH")
    return volume.resolve(location.line, location.when), location.path
