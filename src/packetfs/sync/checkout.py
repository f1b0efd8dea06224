"""Pull: write a snapshot, or a part of it, into a directory. The kernel does the writing; here it is decided what, and
refused what could never be meant.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, cast

from packetfs import kernel
from packetfs.errors import NotFoundError, RefusedError, UnavailableError, UsageError, disk_error
from packetfs.events import Change, Problem, ProblemKind, Progress
from packetfs.format.address import Page
from packetfs.format.snapshot import Snapshot
from packetfs.sync.left import SEVERAL, Left
from packetfs.volume import owners
from packetfs.volume.creation import is_volume
from packetfs.volume.ingest import teller
from packetfs.volume.selection import Pattern, leaves_out, patterns_of
from packetfs.volume.trees import Trees
from packetfs.volume.volume import DESCRIPTOR_NAME

__all__ = ["AS_STORED", "COUNTS", "NO_CARE", "Care", "Ownership", "PullReport", "Written", "pull", "refuse_growth"]

_NAME_BYTES: Final = 8192  # of an entry: the rest of its last block, and its share of its directory


@dataclass(frozen=True, slots=True)
class Care:
    """What a pull spares; by default nothing in particular."""

    exclude: Sequence[str | bytes | Pattern] = ()
    """Lines as in .gitignore, for paths beneath the target: what they match is not written, deleted or touched."""
    delete_max: int | None = None
    """If more names would be deleted, none is."""
    backup: str | bytes | os.PathLike[str] | None = None
    """A directory to which what is replaced or deleted is moved, with its path."""
    checksum: bool = False
    """Compare files by content, not by size and time."""


NO_CARE = Care()


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whom what is pulled shall belong to."""

    restore: bool = True
    """Whether owners are restored at all; without, everything belongs to who pulls."""
    numeric: bool = False
    """By the numbers of the snapshot; else by its names, where this machine knows them."""
    user: int | None = None
    """The user that everything is given to."""
    group: int | None = None
    """The group that everything is given to."""


AS_STORED: Final = Ownership()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was done to a directory (or, dry, would be), in names beneath it."""

    created: int
    replaced: int
    metadata: int
    """Names whose content stayed and whose mode, owner or time changed."""
    deleted: int
    unchanged: int | None
    """None where that is not counted."""
    not_deleted: int = 0
    """Names that would have been deleted, and were more than `Care.delete_max`."""
    unsupported: int = 0
    """Devices, which only root can make; they are not there."""
    owner_not_set: int = 0
    """Names that belong to us instead of their owner, because we are not root."""
    attributes_not_set: int = 0
    """Names without some of their extended attributes: only root may set them, or the file system has none."""
    missed: tuple[Problem, ...] = ()
    """The first names of each of these three."""
    written_bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was missed."""
        return not self.missed

    def counts(self) -> dict[str, Any]:
        """All but `missed`, by name: what a peer and a program are told."""
        return {name: getattr(self, name) for name in COUNTS}

    def fields(self) -> dict[str, Any]:
        """All of it, by name: for a value that has more."""
        return {**self.counts(), "missed": self.missed}


COUNTS: Final = tuple(field.name for field in fields(Written) if field.name != "missed")


@dataclass(frozen=True, slots=True, kw_only=True)
class PullReport(Written):
    """What a pull did (or, dry, would do)."""

    snapshot: Snapshot
    dry_run: bool
    unchanged: int


def pull(
    volume: Trees,
    snapshot: Snapshot,
    path: bytes,
    target: str | bytes,
    *,
    delete: bool = False,
    care: Care = NO_CARE,
    dry_run: bool = False,
    check_space: bool = True,
    ownership: Ownership = AS_STORED,
    found: tuple[Page, int] | None = None,
    alone: bool = False,
    progress: Callable[[Progress], None] | None = None,
    report: Callable[[Sequence[Change]], None] | None = None,
) -> PullReport:
    """Make the directory `target` hold what `snapshot` has at `path`: a directory's contents, or one file by its name.

    Files that are equal in kind, size and time are not touched; others are replaced as a whole. Names that the snapshot
    does not have stay unless `delete`; `care` spares more. What may not be set (owners, devices, attributes) is in the
    report; everything else is done. If this raises, or the machine stops, each name is old or new, and running it again
    continues. Bytes are verified before anybody can see them: DamagedError instead of a wrong file. With `check_space`
    nothing is written when it cannot fit: UnavailableError `not-enough-space`.

    `found` is the page that the target was just read and stored as, and a time before which nothing had changed since.
    With `alone` nobody but pulls has written there since the last one, as far as the directories' own times tell: one
    that stays as it was is not looked into.
    """
    entry = volume.entry(snapshot, path) if path else volume.root(snapshot)
    directory = os.fsencode(target)
    _refuse_volume(volume, directory, delete=delete, exclude=care.exclude)
    _refuse_another(volume, snapshot, path, directory)
    patterns = patterns_of(care.exclude)
    if care.delete_max is not None and care.delete_max < 0:
        raise UsageError(f"{care.delete_max} is no number of names", hint="0 or more names may be deleted at most")
    backup = _backup_of(volume, care)
    root, total_files, total_bytes = _what(snapshot, entry, path)
    if delete and entry.page is None:
        raise UsageError(
            f"{os.fsdecode(path)!r} is a single file: --delete would empty the directory around it",
            hint="leave --delete out, or pull a directory",
        )

    def advance(entries: int, written_bytes: int) -> None:
        if progress is not None:
            progress(
                Progress(
                    phase="writing",
                    files=entries,
                    files_total=total_files,
                    bytes=written_bytes,
                    bytes_total=total_bytes,
                )
            )

    if check_space and not dry_run:
        _refuse_if_full(volume, snapshot, root, directory, patterns, delete=delete, care=care)
    with _directory(directory, dry_run=dry_run) as existing:
        left = Left(volume.path, volume.keys, volume.env, existing)
        page = entry.page
        before = left.read()
        is_part = page is None or bool(care.exclude)
        is_mixed = left.is_mixed(page) if page is not None else before is not None
        if not dry_run and (page is not None or before is not None):
            left.begin(page or SEVERAL)
        done = kernel.checkout(
            volume.space,
            root,
            existing,
            base=_base(before, found, alone=alone) if page is not None else None,
            delete=delete,
            dry_run=dry_run,
            owner=ownership.restore,
            numeric=ownership.numeric,
            user=ownership.user,
            group=ownership.group,
            progress=advance,
            report=teller(report),
            owner_number=owners.number_of,
            exclude=patterns,
            backup=backup if existing == directory else None,  # to a stand-in nothing can be said of it
            delete_max=care.delete_max,
            # Size and time do not tell; but a part that is pulled again and again is not read again and again.
            checksum=care.checksum or (is_mixed and not care.exclude),
        )
        if page is not None and not is_part and not dry_run:
            _remember(left, before, page, done)
    missed: list[tuple[ProblemKind, tuple[int, list[bytes]]]] = [
        ("owner-not-set", done.owners),
        ("device-not-made", done.devices),
        ("attributes-not-set", done.attributes),
    ]
    return PullReport(
        snapshot=snapshot,
        dry_run=dry_run,
        created=done.created,
        replaced=done.replaced,
        metadata=done.metadata,
        deleted=done.deleted,
        unchanged=done.unchanged,
        not_deleted=done.not_deleted,
        unsupported=done.devices[0],
        owner_not_set=done.owners[0],
        attributes_not_set=done.attributes[0],
        missed=tuple(Problem(path=name, kind=kind) for kind, (_, names) in missed for name in names),
        written_bytes=done.written_bytes,
    )


def _base(
    before: tuple[Page, int] | None, found: tuple[Page, int] | None, *, alone: bool
) -> tuple[Page, int, Literal["written", "alone", "read"]] | None:
    """What the kernel is told of the target as it is: what it was read as just now, or last written from."""
    if found is not None:
        return (*found, "read")
    return (*before, "alone" if alone else "written") if before is not None else None


def _remember(left: Left, before: tuple[Page, int] | None, page: Page, done: kernel.Checkout) -> None:
    """What is known of the target from now on. Attributes that are missing have to be told of again next time."""
    if done.attributes[0]:
        left.forget()
    elif done.left_ns is not None:
        left.write(page, done.left_ns)
    elif before is None:
        left.forget()
    elif before[0] != page:  # and yet nothing was to be written
        left.write(page, before[1])
    else:
        left.end()


def _what(
    snapshot: Snapshot, entry: kernel.Entry, path: bytes
) -> tuple[Page | kernel.Entry | list[kernel.Entry], int | None, int | None]:
    """What the kernel is to write, and how many names and bytes that is where it is known beforehand.

    The target gets mode, owner and time of the directory that is pulled, unless that was only made to hold sources.
    """
    if entry.page is None:
        return [entry], 1, entry.size
    if path:
        return entry, None, None
    counted = snapshot.statistics
    root = entry if snapshot.root_is_source else entry.page
    return root, counted.files + counted.directories + counted.symlinks, counted.logical_bytes


def _backup_of(volume: Trees, care: Care) -> bytes | None:
    """The absolute path of the directory for backups, if there is to be one."""
    if care.backup is None:
        return None
    backup = os.fsencode(care.backup)
    if not backup:
        raise UsageError("the directory for backups has an empty name", hint="name one, or leave it out")
    backup = os.path.abspath(backup)
    _refuse_volume(volume, backup, delete=False)
    return backup


def _refuse_volume(
    volume: Trees, directory: bytes, *, delete: bool, exclude: Sequence[str | bytes | Pattern] = ()
) -> None:
    """A pull into the volume's own files, or one that would delete them, is never meant."""
    home = os.path.realpath(os.fsencode(volume.path))
    target = os.path.realpath(directory)
    if os.path.commonpath([home, target]) == home:
        raise RefusedError(
            f"{os.fsdecode(directory)!r} is inside the volume itself", hint="pull into a directory of your own"
        )
    holds = os.path.commonpath([home, target]) == target
    if delete and holds and not leaves_out(exclude, os.path.relpath(home, target)):
        raise RefusedError(
            f"the volume lies inside {os.fsdecode(directory)!r}, and --delete would delete it",
            hint="leave --delete out, spare it (--exclude /ITS/PATH/), or pull into another directory",
        )


def _refuse_another(volume: Trees, snapshot: Snapshot, path: bytes, directory: bytes) -> None:
    """Nor is one into the files of another volume, unless a copy of a volume is what is written."""
    if not is_volume(os.fsdecode(directory)):
        return
    try:
        volume.entry(snapshot, os.path.join(path, os.fsencode(DESCRIPTOR_NAME)))
    except NotFoundError:
        raise RefusedError(
            f"{os.fsdecode(directory)!r} is a volume: its files would be mixed with others",
            hint="`packetfs push` stores in a volume, with the location VOLUME::REF; or name another directory",
        ) from None


def _refuse_if_full(
    volume: Trees,
    snapshot: Snapshot,
    root: Page | kernel.Entry | list[kernel.Entry],
    directory: bytes,
    patterns: kernel.Patterns | None,
    *,
    delete: bool,
    care: Care,
) -> None:
    """Nothing is begun that is sure to end on a full disk (docs/design/faults.md). What is only likely to is tried."""
    if care.backup is not None:
        return  # what is moved there frees nothing, and is not told apart
    free_bytes = kernel.free_bytes(_existing(directory))
    counted = snapshot.statistics
    names = counted.files + counted.directories + counted.symlinks
    if free_bytes is None or counted.logical_bytes + names * _NAME_BYTES <= free_bytes:
        return  # as a rule: all of the snapshot would fit
    with _directory(directory, dry_run=True) as existing:
        would = kernel.checkout(
            volume.space,
            root,
            existing,
            base=None,
            delete=delete,
            dry_run=True,
            owner=False,
            numeric=True,
            user=None,
            group=None,
            progress=_unheard,
            report=_unheard,
            owner_number=_unheard,
            exclude=patterns,
            delete_max=care.delete_max,
        )
    refuse_growth(would.growth_bytes, free_bytes, directory)


def _unheard(*_: object) -> None:
    """What a dry run that nobody asked for tells."""


def refuse_growth(
    growth_bytes: int | None,
    free_bytes: int | None,
    directory: bytes,
    hint: str = "free some space, or have it tried with --no-space-check",
) -> None:
    """UnavailableError if what is to come surely has no room in `directory`."""
    if growth_bytes is None or free_bytes is None or growth_bytes <= free_bytes:
        return
    raise UnavailableError(
        f"{os.fsdecode(directory)!r} needs {growth_bytes:,} more bytes, and its disk has {free_bytes:,}",
        code="not-enough-space",
        hint=hint,
        path=os.fsdecode(directory),
        needed=growth_bytes,
        free=free_bytes,
    )


def _existing(path: bytes) -> bytes:
    """`path`, or the nearest directory above it that is there."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


@contextmanager
def _directory(path: bytes, *, dry_run: bool) -> Iterator[bytes]:
    """`path`, made if it is missing; for a dry run an empty directory stands in for it."""
    try:
        if not os.path.isdir(path):
            if dry_run and not os.path.lexists(path):
                from tempfile import TemporaryDirectory

                with TemporaryDirectory(prefix="packetfs-") as stand_in:
                    yield os.fsencode(stand_in)
                return
            kernel.fault_point("mkdir")
            os.makedirs(path)
    except OSError as error:
        raise disk_error("create the directory", path, cast("int", error.errno)) from None
    yield path
