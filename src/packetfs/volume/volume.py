"""One volume on this machine: an address space of bytes, a journal that says what is committed, and refs into it.

A `Volume` is what the rooms above hold. It reads consistent states and makes commits; how a push goes is told in
`ingest.py`, what is durable when in `journal.py` and `space.py`. It never repairs by itself: damage is reported.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import (
    ConflictError,
    DamagedError,
    NotFoundError,
    PacketFSError,
    RefusedError,
    UnavailableError,
    UsageError,
    disk_error,
)
from packetfs.events import Change, Progress
from packetfs.format.address import Extent, segment_of
from packetfs.format.descriptor import DESCRIPTOR_BYTES_MAX, Descriptor, decode_descriptor
from packetfs.format.entry import Position
from packetfs.format.location import check_ref
from packetfs.format.snapshot import NO_LABELS, Labels, Snapshot
from packetfs.format.when import LATEST, When
from packetfs.volume import creation, damage, ingest, refs, removals, reserve, space, standing
from packetfs.volume.ingest import Ingest, PushReport, Source, StreamIngest
from packetfs.volume.journal import Journal
from packetfs.volume.keys import Keys
from packetfs.volume.pins import Pin
from packetfs.volume.refs import Ref
from packetfs.volume.selection import ALL, Selection
from packetfs.volume.space import Durable, Filling
from packetfs.volume.standing import Standing
from packetfs.volume.status import Status, status_of
from packetfs.volume.trees import Trees

__all__ = ["DESCRIPTOR_NAME", "LOCK_WAIT_S", "Volume"]

LOCK_WAIT_S: Final = 10.0  # commits of others take milliseconds; a disk that stalls takes seconds
DESCRIPTOR_NAME: Final = "volume.toml"
_SECRET_BYTES: Final = 32
_PAGE: Final = 256  # snapshots read at a time


class Volume(Trees):
    """An open volume; a context manager. Threads may share it, pushes take turns; processes open their own.

    While it is open nothing that it may read is reclaimed (`pins.py`): what is forgotten meanwhile stays until then.
    """

    path: str
    """Absolute."""
    descriptor: Descriptor
    created: bool
    """Whether opening it made it."""
    space: kernel.Space
    """The bytes. Everything committed up to the last call of this object can be read through it."""
    damaged: tuple[Extent, ...]
    """What `verify` found damaged and is still there: no push points to it. Empty as a rule."""

    def __init__(self, path: str, *, created: bool, lock_wait_s: float, env: Env) -> None:
        """Use `Volume.open` or `Volume.create`."""
        self.path = path
        self.env = env
        self.created = created
        self.descriptor, secret = open_descriptor(path)
        self.keys = Keys(secret, self.descriptor.volume_id)
        self._pin = Pin(self.gate)
        self.journal = Journal(os.path.join(path, "journal.db"), lock_wait_s=lock_wait_s, env=env, gate=self.gate)
        self._pushing = threading.Lock()
        self._pusher: int | None = None
        self._admitting = threading.Lock()
        self._admitted_stamp = 0
        self._reclaimed_seq = 0
        try:
            self.space = open_space(path, self.descriptor, secret)
            self.damaged = ()
            self._look_for_damage()
            self.renew()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, lock_wait_s: float = LOCK_WAIT_S, env: Env = SYSTEM) -> "Volume":
        """Make an empty volume at `path` and open it. ConflictError `volume-exists` if there is one."""
        absolute = os.path.abspath(os.fspath(path))
        creation.create(absolute, env)
        return cls(absolute, created=True, lock_wait_s=lock_wait_s, env=env)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        lock_wait_s: float = LOCK_WAIT_S,
        env: Env = SYSTEM,
    ) -> "Volume":
        """Open the volume at `path`; with `create`, make it if there is none (`created` tells)."""
        absolute = os.path.abspath(os.fspath(path))
        made = False
        if not creation.is_volume(absolute):
            if not create:
                raise NotFoundError(
                    f"there is no volume at {absolute!r}",
                    code="volume-not-found",
                    hint="`packetfs init` makes one, and so does the first push to it",
                    path=absolute,
                )
            try:
                creation.create(absolute, env)
                made = True
            except ConflictError:
                pass  # somebody made it just now: that one is as good
        try:
            return cls(absolute, created=made, lock_wait_s=lock_wait_s, env=env)
        except UnavailableError as error:
            # Also to be read it takes some pages of its disk: journal.db-shm.
            if error.code != "disk-full" or not reserve.give_up(absolute):
                raise
        return cls(absolute, created=made, lock_wait_s=lock_wait_s, env=env)

    def close(self) -> None:
        """Give back what is held; idempotent. Views that were handed out stay valid until what they show is gone."""
        self._pin.close()
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def id(self) -> bytes:
        """16 bytes that name this volume on every machine."""
        return self.descriptor.volume_id

    def push(
        self,
        sources: Sequence[Source],
        ref: str,
        *,
        selection: Selection = ALL,
        checksum: bool = False,
        dry_run: bool = False,
        always: bool = False,
        message: str = "",
        labels: Labels = NO_LABELS,
        progress: Callable[[Progress], None] | None = None,
        report: Callable[[Sequence[Change]], None] | None = None,
    ) -> PushReport:
        """Store what is selected of `sources` as the next snapshot of `ref`; the report says what was new.

        When nothing differs from what the ref names, no snapshot is made, unless `always`. When this returns, the
        snapshot survives a power cut. When it raises, the ref is where it was; what had been stored until then stays,
        so that pushing again is quick. ConflictError if the ref moved meanwhile. Files that could not be read are in
        `problems` and missing from the snapshot. With `checksum` every file is read, also where nothing of it seems
        to have changed. `report` is told what differs from the snapshot before, once it is stored.
        """
        found = Ingest(self, sources, selection, checksum=checksum)
        return self._push(
            found,
            ref,
            dry_run=dry_run,
            always=always,
            message=message,
            labels=labels,
            progress=progress,
            report=report,
        )

    def push_stream(
        self,
        fd: int,
        name: bytes,
        ref: str,
        *,
        dry_run: bool = False,
        always: bool = False,
        message: str = "",
        labels: Labels = NO_LABELS,
        progress: Callable[[Progress], None] | None = None,
    ) -> PushReport:
        """Store what can be read from `fd` as a file `name`, the only entry of the next snapshot of `ref`."""
        found = StreamIngest(self, fd, name)
        return self._push(found, ref, dry_run=dry_run, always=always, message=message, labels=labels, progress=progress)

    def refs(self) -> list[Ref]:
        """All refs, by name."""
        with self.journal.reading() as db:
            found = refs.all_refs(db, self.keys)
        self.admit_new()
        return found

    def resolve(self, ref: str, when: When = LATEST) -> Snapshot:
        """The snapshot of `ref` that `when` means; NotFoundError if there is none."""
        with self.journal.reading() as db:
            found = refs.resolve(db, self.keys, check_ref(ref), when)
        self.admit_new()
        return found

    def snapshot(self, id_: bytes) -> tuple[Snapshot, int] | None:
        """The snapshot whose id begins with `id_`, of whatever ref, and the seq of its commit."""
        with self.journal.reading() as db:
            found = refs.by_id(db, self.keys, id_)
        self.admit_new()
        return None if found is None else (found[1], found[0])

    def state(self, ref: str) -> tuple[Snapshot, int] | None:
        """What `ref` names now, and the seq of the commit that moved it there; None if there is no such ref."""
        with self.journal.reading() as db:
            move = refs.current(db, check_ref(ref))
            found = refs.snapshot_at(db, self.keys, move.seq, move.snapshot) if move else None
        self.admit_new()
        return None if move is None or found is None else (found, move.seq)

    def at(self, seq: int) -> Position | None:
        """The position that entry `seq` led to; None if the journal has no such entry."""
        with self.journal.reading() as db:
            return refs.position_at(db, self.keys, seq)

    def journal_entry(self, seq: int) -> tuple[bytes, int] | None:
        """The bytes of journal entry `seq` and their address; None if there is no such entry."""
        with self.journal.reading() as db:
            return refs.entry_at(db, self.keys, seq)

    def epoch_proof(self) -> bytes:
        """The entry that began the newest epoch here, with its MAC: proof for who has the same secret. Empty: none."""
        with self.journal.reading() as db:
            found = refs.epoch_entry(db, self.keys)
        return self.keys.sealed(found[1]) if found is not None else b""

    def new_number(self) -> int:
        """A number for a copy that is made now; see `standing`. It is given to no other while there are others."""
        with self.journal.writing() as db:
            own = standing.current(db)
            here = own.number if own is not None else standing.number_in(space.epoch(db, self.keys))
            return standing.give_number(db, here, self.env.random_bytes(1)[0])

    def secret(self) -> bytes:
        """The volume's secret, from which all keys derive: for a copy that may come to be its origin."""
        return _secret(self.path, self.descriptor)

    def log(self, ref: str) -> Iterator[Snapshot]:
        """Snapshots of `ref`, newest first, as of the call; NotFoundError if there is no such ref."""
        with self.journal.reading() as db:
            refs.resolve(db, self.keys, check_ref(ref), LATEST)
            newest = refs.current(db, ref)
        self.admit_new()
        return self._history(ref, newest.seq + 1 if newest else 0)

    def snapshots(self) -> Iterator[tuple[str, int, Snapshot]]:
        """Every snapshot that is kept, oldest first: (ref, seq, snapshot)."""
        self.admit_new()
        seq = 0
        while True:
            with self.journal.reading() as db:
                page = refs.commits(db, self.keys, seq)
            if not page:
                return
            yield from page
            seq = page[-1][1]

    @property
    def index_discarded(self) -> str | None:
        """Why the index on disk could not be used, if so. Nothing is lost by it; the next push writes it anew."""
        return self.space.index_discarded

    @property
    def position(self) -> Position:
        """Names the whole state: copies of the volume at the same position are identical."""
        with self.journal.reading() as db:
            return refs.last_entry(db, self.keys)[0]

    def status(self) -> Status:
        """How large the volume is."""
        with self.journal.reading() as db:
            return status_of(db, self.keys, self.descriptor, self.path)

    def reclaimed_since(self, seq: int) -> list[removals.Ranges]:
        """All that is gone of the segments of which entries after `seq` reclaimed anything."""
        with self.journal.reading() as db:
            return removals.change(db, self.keys, seq)[0]

    def reclaimed(self) -> list[Extent]:
        """All that is gone: what no snapshot may point to."""
        return [extent for row in self.reclaimed_since(0) for extent in removals.extents(*row)]

    def segments(self) -> list[Durable]:
        """(segment, head, chunk-table bytes) of everything committed: what a scrub walks."""
        with self.journal.reading() as db:
            found, _ = space.changed_segments(db, self.keys, 0)
        self.admit(found)
        return sorted(found)

    def check_journal(self) -> Position:
        """Verify journal.db: pages and indexes, the hash chain, that refs follow from it. DamagedError if not."""
        if not self.descriptor.checkable:
            raise RefusedError(
                "the volume has a feature without which this version of PacketFS cannot say that it is sound",
                code="feature-unknown",
                hint="upgrade packetfs",
            )
        self.journal.check_pages()
        with self.journal.reading() as db:
            space.epoch(db, self.keys)
            return refs.verify_chain(db, self.keys)

    def filling(self) -> Filling:
        """Leases for one push."""
        damaged = {segment_of(address) for address, _ in self.damaged}
        return Filling(self.journal, self.space, self.keys, self.path, self.admit, damaged=damaged)

    def remember_damage(self, found: Sequence[Extent], *, complete: bool) -> None:
        """Let no push point to `found` again, in this process or another; durable when this returns.

        With `complete` that is all the damage there is, and what was remembered before is forgotten. Otherwise it is
        added. A push whose stat cache or last snapshot needs any of it reads all of its files again.
        """
        before = damage.load(self.path)
        now = damage.coalesced(found if complete else (*before, *found))
        if now:
            self.space.distrust(now)
        if now != before:
            damage.store(self.path, now, self.env)
        self.damaged = now

    @property
    def gate(self) -> str:
        """The file whose locks tell who writes to the volume and who uses it."""
        return os.path.join(self.path, DESCRIPTOR_NAME)

    @property
    def round(self) -> int | None:
        """The round of reclaiming that this object has seen, and is a pin of; None between `rest` and `renew`."""
        return self._pin.round

    def renew(self) -> None:
        """Begin anew from what the journal says now: what was read before may be reclaimed from here on."""
        while True:
            with self.journal.reading() as db:
                number = removals.current_round(db).number
                if number == self._pin.round:
                    self.space.condemn(removals.condemned(db))
                    break
            # What is read after it is held counts.
            self._pin.hold(number)
        self.admit_new()

    def rest(self) -> None:
        """Have nothing to lose until the next `renew`: for one who waits, and has nothing under way."""
        self._pin.release()

    # For a repair from another copy: see `sync.repair`.

    def journal_chunks(self, extents: Sequence[Extent]) -> list[tuple[int, bytes]]:
        """Address and bytes of the chunks in `extents` that are entries of the journal, ascending."""
        with self.journal.reading() as db:
            rows = [row for extent in extents for row in refs.entries_within(db, *extent)]
        return sorted((address, self.keys.sealed(data)) for address, data in rows)

    def space_at(self, directory: str) -> kernel.Space:
        """A space with this volume's keys over the segments in another directory; nothing of it is admitted."""
        return open_space(directory, *open_descriptor(self.path))

    def reopen_space(self) -> None:
        """Read all that is committed afresh: files of segments were replaced."""
        self.space = self.space_at(self.path)
        self._admitted_stamp = self._reclaimed_seq = 0
        self._look_for_damage()
        with self.journal.reading() as db:
            self.space.condemn(removals.condemned(db))
        self.admit_new()

    def replace_segment(self, durable: Durable, put_in_place: Callable[[], None]) -> None:
        """Record that a committed segment has another chunk table, which `put_in_place` moves to where it belongs.

        Killed at any instant it has the new one, or one that is damaged as the old one was. DamagedError if the new one
        is not of what is committed.
        """
        with self.journal.writing() as db:
            space.replace(db, self.keys, (durable[0], durable[1], 0))
        put_in_place()
        with self.journal.writing() as db:
            space.replace(db, self.keys, durable)

    def admit(self, durable: Sequence[Durable]) -> None:
        """Let what was committed be read."""
        with self._admitting:
            self.space.admit(durable)

    def admit_new(self) -> None:
        """Let what other processes have committed since the last time be read, and nothing that is gone since."""
        with self._admitting:
            with self.journal.reading() as db:
                found, stamp = space.changed_segments(db, self.keys, self._admitted_stamp)
                gone, reclaimed_seq = removals.change(db, self.keys, self._reclaimed_seq)
            if gone:
                self.space.reclaim(gone)
            if found:
                self.space.admit(found)
            self._admitted_stamp, self._reclaimed_seq = stamp, reclaimed_seq

    @property
    def epoch(self) -> int:
        """The epoch of this copy's journal."""
        with self.journal.reading() as db:
            return max(refs.epoch_at(db, self.keys), space.epoch(db, self.keys))

    @property
    def standing(self) -> Standing | None:
        """What this copy of the volume is; None: its origin."""
        with self.journal.reading() as db:
            return standing.current(db)

    def check_writable(self) -> None:
        """RefusedError if this version of PacketFS cannot write to the volume, or nobody may write to this copy."""
        if not self.descriptor.writable:
            raise RefusedError(
                "the volume has a feature that this version of PacketFS cannot write",
                code="feature-unknown",
                hint="upgrade packetfs; reading works",
            )
        with self.journal.reading() as db:
            standing.check_origin(db)

    def _push(
        self,
        found: Ingest | StreamIngest,
        ref: str,
        *,
        dry_run: bool,
        always: bool,
        message: str,
        labels: Labels,
        progress: Callable[[Progress], None] | None,
        report: Callable[[Sequence[Change]], None] | None = None,
    ) -> PushReport:
        check_ref(ref)
        self.check_writable()
        # In turns: a push may point to what another lease of this process holds, which is then committed or nobody's.
        with self.in_turn():
            self._look_for_damage()
            return ingest.push(
                self,
                found,
                ref,
                dry_run=dry_run,
                always=always,
                message=message,
                labels=labels,
                progress=progress,
                report=report,
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within the block no push of this object runs in another thread."""
        if self._pusher == threading.get_ident():
            raise UsageError(
                "a push of this volume is running in this thread: its progress callback cannot push",
                hint="push when the first push has returned",
            )
        with self._pushing:
            self._pusher = threading.get_ident()
            try:
                yield
            finally:
                self._pusher = None

    def _look_for_damage(self) -> None:
        """Distrust what another process has found since the last time."""
        found = damage.load(self.path)
        if found != self.damaged:
            self.damaged = found
            self.space.distrust(found)

    def log_page(self, ref: str, before_seq: int, count: int) -> list[tuple[int, Snapshot]]:
        """At most `count` (seq, snapshot) of `ref` before entry `before_seq`, newest first."""
        with self.journal.reading() as db:
            if refs.current(db, check_ref(ref)) is None:
                refs.resolve(db, self.keys, ref, LATEST)  # raises what says which refs there are
            return refs.log(db, self.keys, ref, before_seq, count)

    def _history(self, ref: str, before_seq: int) -> Iterator[Snapshot]:
        while page := self.log_page(ref, before_seq, _PAGE):
            yield from (snapshot for _, snapshot in page)
            before_seq = page[-1][0]


def open_descriptor(path: str) -> tuple[Descriptor, bytes]:
    """What the volume at `path` is, and its secret, which is checked to be its own."""
    descriptor = decode_descriptor(_read(os.path.join(path, DESCRIPTOR_NAME), DESCRIPTOR_BYTES_MAX + 1))
    return descriptor, _secret(path, descriptor)


def open_space(path: str, descriptor: Descriptor, secret: bytes) -> kernel.Space:
    """The bytes of the volume at `path`; nothing can be read before it is admitted."""
    chunks = descriptor.chunks
    return kernel.Space(
        os.fsencode(path),
        descriptor.volume_id,
        secret,
        chunks.min,
        chunks.avg,
        chunks.max,
        chunks.normalisation,
    )


def _secret(path: str, descriptor: Descriptor) -> bytes:
    """The volume's secret, if it is this volume's and nobody else can read it."""
    file = os.path.join(path, "secret")
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        raise _wrong_secret(file, "is missing") from None
    except OSError as error:
        raise disk_error("open", file, error.errno or 0) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RefusedError(
            f"the secret {file!r} can be used by others than its owner (mode {stat.S_IMODE(mode):04o})",
            code="secret-mode",
            hint=f"chmod 600 {file!r}, and ask yourself who may have read it",
            path=file,
        )
    secret = _read(file, _SECRET_BYTES + 1)
    if len(secret) != _SECRET_BYTES:
        raise _wrong_secret(file, f"has not {_SECRET_BYTES} bytes")
    if Keys.secret_id(secret) != descriptor.secret_id:
        raise _wrong_secret(file, "belongs to another volume")
    return secret


def _read(path: str, bytes_max: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(bytes_max)
    except OSError as error:
        raise disk_error("read", path, error.errno or 0) from None


def _wrong_secret(file: str, why: str) -> PacketFSError:
    return DamagedError(
        f"the secret {file!r} {why}",
        code="secret-damaged",
        hint="put back the volume's own secret from a backup: nothing can be read without it",
        path=file,
    )
