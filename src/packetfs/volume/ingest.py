"""A push: what the file system has becomes a snapshot, and a ref moves to it.

The order is the whole point (docs/formats/journal.md): bytes, chunk table, and only then, in one transaction, the
journal entry, the ref and the heads of the segments. Killed before that transaction is durable, nothing has happened,
except that what was checkpointed on the way is found again by the next push. Killed after it, the push is done.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, cast

from packetfs import kernel
from packetfs.env import Env
from packetfs.errors import ConflictError, NotFoundError, RefusedError, UnavailableError, UsageError, disk_error
from packetfs.events import Change, Problem, ProblemKind, Progress
from packetfs.format.address import Page
from packetfs.format.snapshot import Labels, Snapshot, Statistics
from packetfs.volume import files, owners, refs, reserve, space
from packetfs.volume.commit import Proposal, commit
from packetfs.volume.keys import Keys
from packetfs.volume.selection import ALL, Selection, leaves_out

if TYPE_CHECKING:
    from packetfs.volume.volume import Volume

__all__ = [
    "Asking",
    "Ingest",
    "PushReport",
    "Source",
    "StreamIngest",
    "differs",
    "page_of",
    "problems_of",
    "push",
    "refuse_lease",
    "sources_of",
    "statistics_of",
    "tell_changes",
    "teller",
]

# A file system's clock ticks with the kernel's timer (at most 10 ms) and lags behind ours by up to one tick.
_TICK_NS: Final = 20_000_000
_FOREIGN_CLOCK_NS: Final = 2_000_000_000  # FAT counts in steps of 2 s, and a server's clock may differ
_STREAM_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Source:
    """A path to push. With a name it becomes an entry of the root; without, its contents are the root."""

    path: bytes
    name: bytes | None = None
    at: bytes | None = None
    """Where it is opened, if not at `path`, which then only names it: for one that is held open already."""

    @property
    def place(self) -> bytes:
        """Where it is opened."""
        return self.at or self.path


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push found and did."""

    ref: str
    snapshot: Snapshot | None
    """What the ref names now; None after a dry run on a new ref."""
    changed: bool
    """Whether a snapshot was made (in a dry run: would be)."""
    dry_run: bool
    statistics: Statistics
    problems: tuple[Problem, ...]
    """Files that could not be stored; everything else was. The first 65,536: `statistics.problems` counts them all."""
    seconds: float
    excluded: int = 0
    """Names that were met and not selected; in a directory that is as it was nobody meets any."""


OnProgress = Callable[[Progress], None]
Tell = Callable[[Sequence[Change]], None]


def sources_of(paths: Sequence[str | bytes | os.PathLike[str]]) -> list[Source]:
    """Sources of what is named on a command line: one directory gives its contents, anything else entries by base name.

    A slash at the end changes nothing. UsageError for a duplicate name, NotFoundError for a path that does not exist.
    """
    if not paths:
        raise UsageError("there is nothing to push", hint="name a directory or files")
    absolute = [os.path.abspath(os.fsencode(path)) for path in paths]
    modes = [_mode(path) for path in absolute]
    if len(absolute) == 1 and stat.S_ISDIR(modes[0]):
        return [Source(absolute[0])]
    named: dict[bytes, bytes] = {}
    for path in absolute:
        name = os.path.basename(path)
        if not name:
            raise UsageError("'/' has no name of its own", hint="push it alone, or name the directories in it")
        if name in named:
            raise UsageError(
                f"{os.fsdecode(named[name])!r} and {os.fsdecode(path)!r} would have the same name in the snapshot",
                code="duplicate-name",
                hint="push them to different refs, or push the directory above them",
                name=os.fsdecode(name),
            )
        named[name] = path
    return [Source(path, name) for name, path in named.items()]


class Holder(Protocol):
    """What files are ingested into: a volume, or a replica of one."""

    path: str
    env: Env
    keys: Keys
    space: kernel.Space


Grant = Callable[[kernel.Lease | None], kernel.Lease]


class Asking(Protocol):
    """How an ingest into a replica asks its origin what the origin has. Tags and records are packed, see the kernel."""

    def begin(self, tags: bytes) -> int:
        """Ask, and do not wait; a ticket for `end`."""

    def end(self, ticket: int) -> bytes:
        """The answer, a record for each tag."""

    def lease_for(self, segment: int) -> kernel.Lease:
        """Where bytes that the origin has at an address of `segment` are put in the replica."""


class Ingest:
    """One ingest of some sources: checked when it is made, then to be `run` once."""

    def __init__(
        self, holder: Holder, sources: Sequence[Source], selection: Selection = ALL, *, checksum: bool = False
    ) -> None:
        """With `checksum` every file is read, whatever the stat cache says of it."""
        self._holder = holder
        self.sources = [replace(source, path=os.path.abspath(source.path)) for source in sources]
        _check_sources(self.sources, holder.path, selection)
        if selection.names is not None and self.sources[0].name is not None:
            raise UsageError("names to select are relative to one directory", hint="push a single directory")
        self._selection = selection.kernel()
        self._checksum = checksum
        parts = [*_parts(self.sources), *selection.parts()]
        self.cache = StatCache(holder.path, holder.keys.cache_name(parts), holder.env)

    @property
    def root_is_source(self) -> bool:
        """Whether the root of the tree is the one directory that was named."""
        return self.sources[0].name is None

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The sources, absolute, as a snapshot records them."""
        return tuple(source.path for source in self.sources)

    def run(
        self,
        grant: Grant,
        previous: Page | None,
        next_: bytes | None,
        *,
        dry_run: bool,
        progress: OnProgress | None,
        ask: Asking | None = None,
        keep_pages: bool = False,
    ) -> kernel.Ingested:
        """Walk, read and store. `next_` is where the next stat cache is written; `ask` is for a replica.

        With `keep_pages` a dry run can tell what would change.
        """
        holder = self._holder
        return kernel.ingest(
            holder.space,
            [(source.place, source.name) for source in self.sources],
            prior=None if self._checksum else self.cache.prior(),
            next=next_,
            previous=previous,
            clean_before_ns=clean_before_ns(holder.path, self.sources, holder.env),
            clean_device=_device(os.path.join(holder.path, "cache")),
            dry_run=dry_run,
            grant=grant,
            progress=teller_of_progress(progress),
            owner_name=owners.name_of,
            ask=ask,
            selection=self._selection,
            keep_pages=keep_pages,
        )


class StreamIngest:
    """The same of what can be read from a descriptor until its end: it becomes the only file of the root."""

    cache = None
    paths = (b"-",)
    root_is_source = False

    def __init__(self, holder: Holder, fd: int, name: bytes) -> None:
        if not name or b"/" in name or b"\0" in name or name in (b".", b"..") or len(name) > 255:
            raise UsageError(f"{os.fsdecode(name)!r} cannot be the name of a file", hint="choose another --name")
        self._holder = holder
        self._fd = fd
        self._name = name

    def run(
        self,
        grant: Grant,
        previous: Page | None,
        next_: bytes | None,
        *,
        dry_run: bool,
        progress: OnProgress | None,
        ask: Asking | None = None,
        keep_pages: bool = False,
    ) -> kernel.Ingested:
        """Read and store."""
        del previous, next_, keep_pages  # nothing is known of a stream before it is read
        return kernel.ingest_stream(
            self._holder.space,
            self._fd,
            name=self._name,
            mode=_STREAM_MODE,
            mtime_ns=self._holder.env.now_ns(),
            dry_run=dry_run,
            grant=grant,
            progress=teller_of_progress(progress),
            owner_name=owners.name_of,
            ask=ask,
        )


def push(
    volume: "Volume",
    found: Ingest | StreamIngest,
    ref: str,
    *,
    dry_run: bool,
    always: bool,
    message: str,
    labels: Labels,
    progress: OnProgress | None,
    report: Tell | None = None,
) -> PushReport:
    """Store what `found` reads as the next snapshot of `ref`. See `Volume.push`."""
    pushing = _Push(volume, found, ref, always=always, message=message, labels=labels)
    return pushing.run(dry_run=dry_run, progress=progress, report=report)


class _Push:
    """One push, from the state the ref was in when it began."""

    def __init__(
        self,
        volume: "Volume",
        found: Ingest | StreamIngest,
        ref: str,
        *,
        always: bool,
        message: str,
        labels: Labels,
    ) -> None:
        self.volume = volume
        self.found = found
        self.ref = ref
        self.always = always
        self.message = message
        self.labels = labels
        self.begun_s = volume.env.monotonic_s()

    def run(self, *, dry_run: bool, progress: OnProgress | None, report: Tell | None) -> PushReport:
        """The story: ingest, make durable, commit; then what may be lost: caches and the index."""
        volume, found, cache = self.volume, self.found, self.found.cache
        before = self._where_the_ref_is()
        if not dry_run:
            reserve.keep(volume.path)
        next_cache = None if dry_run or cache is None else cache.begin()
        try:
            with volume.filling() as filling:
                grant = refuse_lease if dry_run else filling.grant
                try:
                    ingested = found.run(
                        grant,
                        page_of(before),
                        next_cache,
                        dry_run=dry_run,
                        progress=progress,
                        keep_pages=report is not None,
                    )
                except KeyboardInterrupt:
                    filling.keep_granted()
                    raise
                changed = self.always or differs(before, ingested, root_is_source=found.root_is_source)
                after = before
                if not dry_run and changed:
                    _tell(progress, Progress(phase="committing", files=ingested.files, bytes=ingested.logical_bytes))
                    after = self._commit(filling, ingested, before.id if before else b"")
                elif not dry_run:
                    filling.keep(ingested.lease)
                    self._remember_visit()
            if cache is not None:
                cache.publish()
        except ConflictError:
            if cache is not None:
                cache.publish()  # what it points to was kept
            raise
        finally:
            if cache is not None:
                cache.discard()
        discarded = volume.index_discarded is not None
        if not dry_run and (discarded or volume.space.open_entries >= space.PUBLISH_ENTRIES):
            # The ref has moved: that a full disk has no room for a derived file must not look as if it had not.
            with suppress(UnavailableError):
                volume.space.publish_index()
        tell_changes(volume, before, ingested, report)
        return PushReport(
            ref=self.ref,
            snapshot=after,
            changed=changed,
            dry_run=dry_run,
            statistics=statistics_of(ingested),
            problems=problems_of(ingested),
            seconds=volume.env.monotonic_s() - self.begun_s,
            excluded=ingested.excluded,
        )

    def _where_the_ref_is(self) -> Snapshot | None:
        with self.volume.journal.reading() as db:
            move = refs.current(db, self.ref)
            before = refs.snapshot_at(db, self.volume.keys, move.seq, move.snapshot) if move else None
        self.volume.admit_new()
        return before

    def _commit(self, filling: space.Filling, ingested: kernel.Ingested, expected: bytes) -> Snapshot:
        env = self.volume.env
        proposal = Proposal(
            root=ingested.root,
            root_digest=ingested.root_digest,
            parent=expected,
            host=self.labels.host or env.host(),
            user=env.user(),
            paths=self.found.paths,
            statistics=statistics_of(ingested),
            message=self.message,
            root_is_source=self.found.root_is_source,
            tags=self.labels.tags,
            source_time_ns=self.labels.source_time_ns,
        )
        lease = filling.lease_for_entry(ingested.lease)
        settled = ingested.new_bytes + ingested.page_bytes <= space.SYNC_BYTES
        return commit(self.volume, filling, lease, self.ref, proposal, settled=settled).snapshot

    def _remember_visit(self) -> None:
        with self.volume.journal.writing() as db:
            refs.visited(db, self.ref, self.volume.env.now_ns())


class StatCache:
    """The stat cache of one set of sources: a derived file, replaced after a commit, never needed."""

    def __init__(self, directory: str, name: str, env: Env) -> None:
        self._path = os.path.join(directory, "cache", f"{name}.stat")
        self._next = f"{self._path}.{env.random_bytes(4).hex()}.new"
        self._lock = -1

    def prior(self) -> bytes | None:
        """The file to trust, if there is one."""
        return os.fsencode(self._path) if os.path.exists(self._path) else None

    def begin(self) -> bytes:
        """Where the kernel writes the next one. What pushes that were killed have left is removed."""
        directory = os.path.dirname(self._path)
        try:
            files.make_directory(directory)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            _sweep(directory, self._lock)
        except OSError as error:
            raise disk_error("create", directory, error.errno or 0) from None
        return os.fsencode(self._next)

    def publish(self) -> None:
        """Trust the next one from now on. What it points to is committed, or this would not be reached."""
        # It is not written when nothing has changed; and without it the next push only reads more.
        with suppress(OSError):
            files.rename(self._next, self._path)

    def discard(self) -> None:
        """Remove what was not published."""
        with suppress(OSError):
            os.unlink(self._next)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _sweep(directory: str, lock: int) -> None:
    """Remove files under temporary names, unless another push is running: each holds the lock that is shared here."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in os.listdir(directory):
            if name.startswith("clock.") or name.endswith(".new"):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))
    fcntl.flock(lock, fcntl.LOCK_SH)


def clean_before_ns(directory: str, sources: Sequence[Source], env: Env) -> int:
    """Files touched before this time cannot change any more without their mtime or ctime showing it.

    The file system's own time is asked by touching a file in the volume, where that is the same file system.
    """
    cache = os.path.join(directory, "cache")
    probe = os.path.join(cache, f"clock.{env.random_bytes(4).hex()}")
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        device = os.stat(cache).st_dev
        if any(os.stat(source.place).st_dev != device for source in sources):
            return env.now_ns() - _FOREIGN_CLOCK_NS
        with open(probe, "xb"):
            touched_ns = os.stat(probe).st_mtime_ns
        os.unlink(probe)
    except OSError:
        return env.now_ns() - _FOREIGN_CLOCK_NS
    return touched_ns - _TICK_NS


def _device(path: str) -> int:
    """The device that `path` is on; 0, which none has, where that cannot be told."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return 0


def _check_sources(sources: Sequence[Source], volume: str, selection: Selection) -> None:
    """Refuse what could only end badly: nothing, something that is not there, or the volume inside of itself."""
    if not sources:
        raise UsageError("there is nothing to push", hint="name a directory or files")
    bare = [source for source in sources if source.name is None]
    if bare and (len(sources) > 1 or not stat.S_ISDIR(_mode(bare[0].place))):
        raise UsageError("only a single directory can be pushed without a name", hint="give each source a name")
    names = [source.name for source in sources if source.name is not None]
    if len(set(names)) != len(names):
        raise UsageError("two sources have the same name", code="duplicate-name", hint="give each its own")
    inside = os.path.join(os.path.realpath(os.fsencode(volume)), b"")
    for source in sources:
        _mode(source.place)
        if os.path.join(os.path.realpath(source.place), b"").startswith(inside):
            raise RefusedError(
                f"{os.fsdecode(source.path)!r} is the volume {volume!r} or lies in it: it cannot be stored in itself",
                code="source-in-volume",
                hint="push what you want to keep, not the volume that keeps it",
                path=os.fsdecode(source.path),
            )
        around = os.path.join(os.path.realpath(source.place), b"")
        if inside.startswith(around) and not leaves_out(selection.exclude, inside[len(around) : -1]):
            raise RefusedError(
                f"the volume {volume!r} lies inside {os.fsdecode(source.path)!r}: a push would store it in itself",
                code="source-holds-volume",
                hint="leave it out (--exclude /ITS/PATH/), push the directories beside it, or move it elsewhere",
                path=os.fsdecode(source.path),
            )


def _mode(path: bytes) -> int:
    """The mode of what is at `path`; a link on the command line itself is followed when it leads to a directory."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        try:
            return os.lstat(path).st_mode
        except FileNotFoundError:
            raise NotFoundError(
                f"there is no {os.fsdecode(path)!r} to push",
                code="source-not-found",
                hint="check how it is written, and whether its disk is mounted",
                path=os.fsdecode(path),
            ) from None
        except OSError:
            raise disk_error("push", path, error.errno or 0) from None


def _parts(sources: Sequence[Source]) -> list[bytes]:
    """What tells one set of sources from another."""
    parts: list[bytes] = []
    for source in sources:
        parts += [source.path, b"contents" if source.name is None else b"entry", source.name or b""]
    return parts


def differs(before: Snapshot | None, ingested: kernel.Ingested, *, root_is_source: bool) -> bool:
    """Whether what was ingested is to become a snapshot after `before`."""
    return (
        before is None
        or before.root_digest != ingested.root_digest
        or before.root_is_source != root_is_source
        # The same tree, but where the ref's snapshot points to damaged bytes this one does not.
        or ingested.repaired
    )


def page_of(snapshot: Snapshot | None) -> Page | None:
    """The page of a snapshot's root, so that pages equal in meaning keep their bytes."""
    return kernel.decode_root(snapshot.root).page if snapshot is not None else None


def refuse_lease(full: kernel.Lease | None) -> kernel.Lease:
    """What a dry run grants."""
    del full
    raise AssertionError("a dry run asked for a lease")


def teller_of_progress(progress: OnProgress | None) -> Callable[[int, int, int, int, int], None]:
    """What the kernel tells of an ingest, as events."""

    def watch(files: int, directories: int, done: int, new: int, unchanged: int) -> None:
        del directories, unchanged  # `done` has what was not read as well
        if progress is not None:
            progress(Progress(phase="storing", files=files, bytes=done, new_bytes=new))

    return watch


def teller(report: Tell | None) -> Callable[[list[tuple[bytes, str, str, int, str]]], None]:
    """What the kernel tells of changes, as events."""

    def tell(changes: list[tuple[bytes, str, str, int, str]]) -> None:
        if report is not None:
            report(
                [
                    Change(path=path, action=action, kind=kind, size=size, letters=letters)  # type: ignore[arg-type]
                    for path, action, kind, size, letters in changes  # the kernel's words
                ]
            )

    return tell


def tell_changes(holder: Holder, before: Snapshot | None, ingested: kernel.Ingested, report: Tell | None) -> None:
    """Tell in what a tree differs from a snapshot: one that is committed, or of a dry run that kept its pages."""
    if report is None:
        return
    ingested.changes(holder.space, page_of(before), teller(report))


def _tell(progress: OnProgress | None, event: Progress) -> None:
    if progress is not None:
        progress(event)


def statistics_of(ingested: kernel.Ingested) -> Statistics:
    """What an ingest found, as its snapshot records it."""
    return Statistics(
        files=ingested.files,
        directories=ingested.directories,
        symlinks=ingested.symlinks,
        logical_bytes=ingested.logical_bytes,
        new_bytes=ingested.new_bytes,
        known_bytes=ingested.known_bytes,
        unchanged_bytes=ingested.unchanged_bytes,
        unchanged_files=ingested.unchanged_files,
        page_bytes=ingested.page_bytes,
        problems=ingested.problem_count,
    )


def problems_of(ingested: kernel.Ingested) -> tuple[Problem, ...]:
    """What an ingest could not store."""
    return tuple(
        Problem(path=path, kind=cast(ProblemKind, kind), errno=errno) for path, kind, errno in ingested.problems
    )
