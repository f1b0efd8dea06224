"""A replica: another machine's volume as far as it has been needed here. Everything in it can be had again.

    REPLICA/
      replica.db     what is here: the volume's id and keys, segments, snapshots, refs as they were last seen
      secret         of this replica alone: names of its files say nothing, and nothing about the origin's
      lock           held by the one process that uses it
      segments/ index/ cache/    as in a volume, with gaps where nothing was needed

Addresses are the origin's, so what is pushed or pulled has one address everywhere. A replica orders nothing: its origin
does. Rows of `replica.db` name only what the origin has committed; what was filled under a lease that did not end in a
commit is forgotten when the process ends. The replica is never the only copy: bytes that are damaged or evicted are
fetched again, and one that contradicts its origin is emptied.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import apsw
import msgspec

from packetfs import kernel
from packetfs.env import Env
from packetfs.errors import BusyError, DamagedError, InvalidError, NotFoundError, disk_error
from packetfs.format.address import Extent
from packetfs.format.descriptor import ChunkProfile
from packetfs.format.entry import Position
from packetfs.format.snapshot import Snapshot, decode_snapshot
from packetfs.format.when import LATEST, AtTime, Back, ById, When
from packetfs.volume import files, removals
from packetfs.volume.journal import of_the_disk, select
from packetfs.volume.keys import Keys
from packetfs.volume.refs import Ref
from packetfs.volume.removals import Ranges
from packetfs.volume.space import PUBLISH_ENTRIES, Durable
from packetfs.volume.trees import Trees

__all__ = ["Identity", "Kept", "Replica", "is_replica"]

DATABASE_NAME: Final = "replica.db"
_VERSION: Final = 1
_SECRET_BYTES: Final = 32
_SCHEMA: Final = """
CREATE TABLE identity (value BLOB NOT NULL) STRICT;
CREATE TABLE segments (
    segment      INTEGER PRIMARY KEY,
    head         INTEGER NOT NULL,
    table_bytes  INTEGER NOT NULL,
    used         INTEGER NOT NULL   -- grows with each use: what was not needed for long is evicted first
) STRICT;
CREATE TABLE snapshots (
    id        BLOB PRIMARY KEY,
    seq       INTEGER NOT NULL,
    bytes     BLOB NOT NULL,
    complete  INTEGER                -- 1 if all that it holds is here, 0 if not, NULL if nobody has looked
) STRICT, WITHOUT ROWID;
CREATE TABLE refs (
    name      TEXT PRIMARY KEY,
    snapshot  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE moves (                 -- of a whole replica: what `log` and `@~1` mean
    ref       TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    time_ns   INTEGER NOT NULL,
    snapshot  BLOB NOT NULL,
    PRIMARY KEY (ref, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE position (seq INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
"""
# Made when the origin first says that anything is gone there: it is nothing to point to any more.
_RECLAIMED: Final = """
CREATE TABLE IF NOT EXISTS reclaimed (segment INTEGER PRIMARY KEY, ranges BLOB NOT NULL) STRICT
"""

# Bases that are worth keeping: what refs name, and the newest.
_PRUNE: Final = """
DELETE FROM snapshots WHERE id NOT IN (SELECT snapshot FROM refs)
    AND id NOT IN (SELECT id FROM snapshots ORDER BY seq DESC LIMIT 16)
"""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which volume this is a replica of, and what is needed to read it."""

    volume_id: bytes
    keys: bytes
    """Digest key and cut key of the volume."""
    chunks: ChunkProfile
    created_ns: int
    """When the volume was made."""
    origin: str
    """The location it was first reached at."""
    cache_bytes: int | None = None
    """How much it may hold between operations; None: everything."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot whose tree is here. `complete`: whether all its content is, too; None if nobody has looked."""

    snapshot: Snapshot
    seq: int
    complete: bool | None


def is_replica(path: str) -> bool:
    """Whether there is a replica at `path`."""
    return os.path.exists(os.path.join(path, DATABASE_NAME))


class Replica(Trees):
    """An open replica; a context manager. One process at a time uses it, and its threads may share it."""

    def __init__(self, path: str, lock: BinaryIO, env: Env) -> None:
        """Use `open` or `create`."""
        self.path = path
        self.env = env
        self._lock = lock
        self._db = _connect(os.path.join(path, DATABASE_NAME))
        try:
            self.identity = _identity(self._db)
            self._secret = _read_secret(path)
            self.keys = Keys(self._secret, self.identity.volume_id, digest_key=self.identity.keys[:32])
            self.space = self._open_space()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def open(cls, path: str, *, lock_wait_s: float, env: Env) -> "Replica | None":
        """The replica at `path`; None if there is none that can be used: then `create` makes one."""
        if not is_replica(path):
            return None
        lock = _take_lock(path, lock_wait_s, env)
        try:
            return cls(path, lock, env)
        except (apsw.FullError, apsw.CantOpenError, apsw.IOError) as error:
            lock.close()
            raise of_the_disk(os.path.join(path, DATABASE_NAME), error) from error  # it is as good as it was
        except (apsw.Error, DamagedError, InvalidError, FileNotFoundError, msgspec.DecodeError):
            lock.close()
            return None  # it is derived: whatever is wrong with it, a new one is right
        except BaseException:
            lock.close()
            raise

    @classmethod
    def create(cls, path: str, identity: Identity, *, lock_wait_s: float, env: Env) -> "Replica":
        """Make an empty replica at `path`; what was there of an older one is removed."""
        try:
            files.make_directory(path)
            lock = _take_lock(path, lock_wait_s, env)
        except OSError as error:
            raise disk_error("create", path, error.errno or 0) from None
        try:
            _clear(path)
            for name in ("segments", "index", "cache"):
                files.make_directory(os.path.join(path, name))
            files.write_new(os.path.join(path, "secret"), env.random_bytes(_SECRET_BYTES))
            _make_database(path, identity)
            return cls(path, lock, env)
        except OSError as error:
            lock.close()
            raise disk_error("create", path, error.errno or 0) from None
        except apsw.Error as error:
            lock.close()
            raise of_the_disk(os.path.join(path, DATABASE_NAME), error) from error
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Let the next process use it; idempotent."""
        with suppress(apsw.Error):  # folding the WAL is worth trying, and the next process does it as well
            self._db.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # What is here.

    @property
    def position(self) -> Position | None:
        """The origin's position when it was last seen; None if that never was."""
        rows = self._select((int, bytes), "SELECT seq, hash FROM position")
        return Position(*rows[0]) if rows else None

    def kept(self, id_: bytes) -> Kept | None:
        """The snapshot whose id begins with `id_`, if its tree is here."""
        high = id_ + b"\xff" * (32 - len(id_))
        rows = self._kept("id BETWEEN ? AND ? LIMIT 1", (id_, high))
        return rows[0] if rows else None

    def ref(self, name: str) -> Kept | None:
        """What `name` was last seen to name, if that tree is here."""
        rows = self._select((bytes,), "SELECT snapshot FROM refs WHERE name = ?", (name,))
        return self.kept(rows[0][0]) if rows else None

    def newest(self) -> Kept | None:
        """The newest snapshot whose tree is here: the next best base."""
        rows = self._kept("1 ORDER BY seq DESC LIMIT 1", ())
        return rows[0] if rows else None

    @property
    def is_whole(self) -> bool:
        """Whether it keeps everything that it ever held, and can be read like a volume without its origin."""
        return self.identity.cache_bytes is None

    # Reading a whole replica like a volume.

    @property
    def index_discarded(self) -> str | None:
        """Why the index on disk could not be used, if so."""
        return self.space.index_discarded

    def refs(self) -> list[Ref]:
        """All refs, by name."""
        rows = self._select((str, int), "SELECT ref, max(seq) FROM moves GROUP BY ref ORDER BY ref")
        found = [(name, seq, self._moves("ref = ? AND seq = ?", (name, seq))[0]) for name, seq in rows]
        return [Ref(name, kept.snapshot, seq, kept.snapshot.time_ns) for name, seq, kept in found]

    def log(self, ref: str) -> Iterator[Snapshot]:
        """Snapshots of `ref`, newest first; NotFoundError if there is no such ref."""
        self.resolve(ref)
        return iter([kept.snapshot for kept in self._moves("ref = ? ORDER BY seq DESC", (ref,))])

    def resolve(self, ref: str, when: When = LATEST) -> Snapshot:
        """The snapshot of `ref` that `when` means; NotFoundError if there is none here."""
        match when:
            case Back(count):
                rows = self._moves("ref = ? ORDER BY seq DESC LIMIT 1 OFFSET ?", (ref, count))
            case AtTime(time_ns):
                rows = self._moves("ref = ? AND time_ns <= ? ORDER BY seq DESC LIMIT 1", (ref, time_ns))
            case ById(prefix):
                low, high = (bytes.fromhex(prefix.ljust(64, digit)) for digit in "0f")
                where = "ref = ? AND snapshot BETWEEN ? AND ? ORDER BY seq DESC LIMIT 1"
                rows = self._moves(where, (ref, low, high))
        if not rows:
            raise NotFoundError(
                f"this replica has no snapshot {when} of {ref!r}",
                code="snapshot-not-found",
                hint="`packetfs clone --full` brings it up to date",
                ref=ref,
                when=str(when),
            )
        return rows[0].snapshot

    def moved(self, ref: str, seq: int, snapshot: Snapshot) -> None:
        """Remember that entry `seq` moved `ref` to `snapshot`, which is here."""
        with self._writing():
            row = (ref, seq, snapshot.time_ns, snapshot.id)
            self._db.execute("INSERT OR REPLACE INTO moves VALUES (?, ?, ?, ?)", row)

    def keep_moves(self, kept: AbstractSet[tuple[str, int]]) -> None:
        """Remember no others, (ref, seq): the origin has forgotten them."""
        gone = [row for row in self._select((str, int), "SELECT ref, seq FROM moves") if row not in kept]
        with self._writing():
            self._db.executemany("DELETE FROM moves WHERE ref = ? AND seq = ?", gone)

    def _moves(self, where: str, values: Sequence[int | str | bytes]) -> list[Kept]:
        rows = self._select((bytes,), f"SELECT snapshot FROM moves WHERE {where}", values)  # noqa: S608 - literals
        return [kept for (id_,) in rows if (kept := self.kept(id_)) is not None]

    def is_complete(self, kept: Kept) -> bool:
        """Whether all that a snapshot holds is here. Looked up once, then remembered until something is evicted."""
        if kept.complete is not None:
            return kept.complete
        complete = not self.space.absent(kept.snapshot.root, b"")
        with self._writing():
            self._db.execute("UPDATE snapshots SET complete = ? WHERE id = ?", (int(complete), kept.snapshot.id))
        return complete

    def disk_bytes(self) -> int:
        """What the segments take on disk."""
        return self.bytes_in(segment for (segment,) in self._select((int,), "SELECT segment FROM segments"))

    def bytes_in(self, segments: Iterable[int]) -> int:
        """What the files of some segments take on disk."""
        return sum(map(self._segment_bytes, segments))

    # What changes.

    def lease(self, segment: int, head: int, *, fill: bool) -> kernel.Lease:
        """`segment` to be written: from `head` on, which the origin leased to us, or (`fill`) wherever it is empty."""
        rows = self._select((int, int), "SELECT head, table_bytes FROM segments WHERE segment = ?", (segment,))
        here, table_bytes = rows[0] if rows else (0, 0)
        # What an earlier process left beyond its rows is cut off with the chunk table.
        try:
            lease = self.space.lease(segment, max(head, here) if not fill else here, table_bytes, not rows, True)
        except NotFoundError as error:
            raise DamagedError(f"the replica {self.path!r} has lost a segment: {error.message}") from None
        if lease is None:
            raise BusyError(f"another process fills segment {segment} of the replica {self.path!r}", path=self.path)
        return lease

    def admit(self, durable: Sequence[Durable]) -> None:
        """Let what leases hold be read by this process. It counts for nothing before `record`."""
        self.space.admit(durable)

    def record(
        self,
        durable: Iterable[Durable],
        *,
        position: Position | None = None,
        snapshot: tuple[Snapshot, int] | None = None,
        complete: bool | None = None,
        ref: str | None = None,
    ) -> None:
        """Write down what the origin has committed and is on disk here.

        `snapshot` is a snapshot whose tree is here, and the seq of its commit; `ref` names it from now on.
        """
        with self._writing():
            used = self._select((int,), "SELECT coalesce(max(used), 0) + 1 FROM segments")[0][0]
            for segment, head, table_bytes in durable:
                self._db.execute(
                    "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)", (segment, head, table_bytes, used)
                )
            if snapshot is not None:
                value, seq = snapshot
                row = (value.id, seq, value.data, None if complete is None else int(complete))
                self._db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", row)
                if ref is not None:
                    self._db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?)", (ref, value.id))
                if self.identity.cache_bytes is not None:
                    self._db.execute(_PRUNE)
            if position is not None:
                self._db.execute("DELETE FROM position")
                self._db.execute("INSERT INTO position VALUES (?, ?)", tuple(position))

    def drop(self, rows: Sequence[Ranges]) -> None:
        """Forget what is gone at the origin, (segment, all that is gone of it), and snapshots that needed any of it."""
        if not rows:
            return
        with self._writing():
            self._db.execute(_RECLAIMED)
            self._db.executemany("INSERT OR REPLACE INTO reclaimed VALUES (?, ?)", rows)
            self._db.execute("UPDATE snapshots SET complete = NULL")
        self.space = self._open_space()
        self._drop_broken()

    def limit(self, cache_bytes: int) -> None:
        """Keep no more than `cache_bytes` from now on."""
        if cache_bytes == self.identity.cache_bytes:
            return
        self.identity = msgspec.structs.replace(self.identity, cache_bytes=cache_bytes)
        with self._writing():
            self._db.execute("UPDATE identity SET value = ?", (msgspec.msgpack.encode(self.identity),))

    def forget_uncommitted(self) -> None:
        """Go back to what the rows say: after a push that failed, its leases are somebody else's to fill."""
        self.reopen_space()

    # For verifying it, and for a repair from another copy: as of a `Volume`.

    @property
    def id(self) -> bytes:
        """16 bytes that name the volume on every machine."""
        return self.identity.volume_id

    def segments(self) -> list[Durable]:
        """(segment, head, chunk-table bytes) of everything that is here, with gaps where nothing was needed."""
        return [
            (row[0], row[1], row[2])
            for row in self._select((int, int, int), "SELECT segment, head, table_bytes FROM segments ORDER BY segment")
        ]

    def reclaimed(self) -> list[Extent]:
        """What the origin has reclaimed, as far as that is known here."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reclaimed'").get:
            return []
        rows = self._select((int, bytes), "SELECT segment, ranges FROM reclaimed")
        return [extent for row in rows for extent in removals.extents(*row)]

    def admit_new(self) -> None:
        """Nothing: nobody else uses it."""

    def snapshots(self) -> Iterator[tuple[str, int, Snapshot]]:
        """Every snapshot whose tree is here, oldest first: (ref, seq, snapshot), with the refs that it has here."""
        names = self._select((str, bytes), "SELECT ref, snapshot FROM moves UNION SELECT name, snapshot FROM refs")
        for kept in self._kept("1 ORDER BY seq", ()):
            for ref in [name for name, id_ in names if id_ == kept.snapshot.id] or [""]:
                yield ref, kept.seq, kept.snapshot

    def check_journal(self) -> None:
        """DamagedError if replica.db is not as it should be; the journal itself is at the origin."""
        rows = self._select((str,), "PRAGMA integrity_check(1)")
        if rows != [("ok",)]:
            raise DamagedError(f"{self.path!r}: replica.db is damaged: {rows}", hint="delete the replica")

    def remember_damage(self, found: Sequence[Extent], *, complete: bool) -> None:
        """Nothing new points to `found` as long as this object lives. A push reads what it points to at the origin."""
        del complete
        self.space.distrust(found)

    def journal_chunks(self, extents: Sequence[Extent]) -> list[tuple[int, bytes]]:
        """None: the journal is at the origin."""
        del extents
        return []

    def space_at(self, directory: str) -> kernel.Space:
        """A space with this replica's keys over the segments in another directory; nothing of it is admitted."""
        chunks = self.identity.chunks
        return kernel.Space(
            os.fsencode(directory),
            self.identity.volume_id,
            self._secret,
            chunks.min,
            chunks.avg,
            chunks.max,
            chunks.normalisation,
            self.identity.keys,
        )

    def reopen_space(self) -> None:
        """Read what the rows say afresh."""
        self.space = self._open_space()

    def replace_segment(self, durable: Durable, put_in_place: Callable[[], None]) -> None:
        """Record another chunk table of a segment; see `Volume.replace_segment`."""
        segment, head, table_bytes = durable
        for bytes_ in (0, table_bytes):
            with self._writing():
                statement = "UPDATE segments SET table_bytes = ? WHERE segment = ? AND head = ?"
                self._db.execute(statement, (bytes_, segment, head))
            if not bytes_:
                put_in_place()

    def evict(self) -> int:
        """Remove the segments used least recently until no more than `cache_bytes` are here; the bytes that went."""
        limit = self.identity.cache_bytes
        if limit is None:
            return 0
        self._drop_strays()
        rows = self._select((int,), "SELECT segment FROM segments ORDER BY used")
        sizes = [(segment, self._segment_bytes(segment)) for (segment,) in rows]
        surplus = sum(size for _, size in sizes) - limit
        going: list[int] = []
        for segment, size in sizes:
            if surplus <= 0:
                break
            going.append(segment)
            surplus -= size
        if not going:
            return 0
        freed = sum(size for segment, size in sizes if segment in going)
        # Rows first: a file without a row is garbage that the next lease overwrites, a row without a file is damage.
        with self._writing():
            for segment in going:
                self._db.execute("DELETE FROM segments WHERE segment = ?", (segment,))
            self._db.execute("UPDATE snapshots SET complete = NULL")
        for segment in going:
            for path in self._files(segment):
                with suppress(FileNotFoundError):
                    os.unlink(path)
        shutil.rmtree(os.path.join(self.path, "index"), ignore_errors=True)  # it has claims on what is gone
        files.make_directory(os.path.join(self.path, "index"))
        self.space = self._open_space()
        self._drop_broken()
        return freed

    def tidy(self) -> None:
        """What is worth doing at the end: keep no more than may be kept, and spare the next process the index."""
        self.evict()
        if self.space.open_entries >= PUBLISH_ENTRIES:
            self.space.publish_index()

    def _drop_strays(self) -> None:
        """Remove segments without a row: what a push that failed had filled. No lease is open now."""
        rows = self._select((int,), "SELECT segment FROM segments")
        slots = {self.space.slot(segment) for (segment,) in rows}
        place = os.path.join(self.path, "segments")
        if not os.path.isdir(place):
            return  # somebody has cleared the cache
        for name in os.listdir(place):
            if name.partition(".")[0] not in slots:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(place, name))

    def _drop_broken(self) -> None:
        """Forget snapshots whose trees have lost a page: they cannot be a base any more."""
        gone = []
        for kept in self._kept("1", ()):
            try:
                # Files that have lost content are as good as those whose content never came.
                self.space.absent(kept.snapshot.root, b"")
            except DamagedError:
                gone.append(kept.snapshot.id)
        with self._writing():
            for id_ in gone:
                self._db.execute("DELETE FROM snapshots WHERE id = ?", (id_,))
                self._db.execute("DELETE FROM moves WHERE snapshot = ?", (id_,))

    def _kept(self, where: str, values: Sequence[int | str | bytes]) -> list[Kept]:
        statement = f"SELECT id, seq, bytes, coalesce(complete, -1) FROM snapshots WHERE {where}"  # noqa: S608 - literals
        rows = self._select((bytes, int, bytes, int), statement, values)
        return [
            Kept(decode_snapshot(data, id_), seq, None if complete < 0 else bool(complete))
            for id_, seq, data, complete in rows
            if self.keys.snapshot_id(data) == id_
        ]

    def _select(
        self, kinds: tuple[type, ...], statement: str, values: Sequence[int | str | bytes] = ()
    ) -> list[tuple[Any, ...]]:
        try:
            return select(self._db, kinds, statement, values)
        except (apsw.FullError, apsw.CantOpenError, apsw.IOError) as error:
            raise of_the_disk(os.path.join(self.path, DATABASE_NAME), error) from error
        except apsw.Error as error:
            raise DamagedError(f"the replica {self.path!r} cannot be read: {error}") from error

    def _open_space(self) -> kernel.Space:
        space = self.space_at(self.path)
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reclaimed'").get:
            space.reclaim(self._select((int, bytes), "SELECT segment, ranges FROM reclaimed"))
        space.admit(self.segments())
        return space

    def _files(self, segment: int) -> tuple[str, str]:
        slot = os.path.join(self.path, "segments", self.space.slot(segment))
        return f"{slot}.data", f"{slot}.chunks"

    def _segment_bytes(self, segment: int) -> int:
        total = 0
        for path in self._files(segment):
            with suppress(FileNotFoundError):
                total += os.stat(path).st_blocks * 512
        return total

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._db:
                yield
        except apsw.Error as error:
            raise of_the_disk(os.path.join(self.path, DATABASE_NAME), error) from error


def _connect(path: str) -> apsw.Connection:
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        # A row lost in a power cut costs a fetch; one that came too early names bytes that fail their digest.
        db.execute("PRAGMA synchronous = NORMAL")
        if db.execute("PRAGMA user_version").get != _VERSION:
            raise DamagedError(f"{path!r} is not a replica of this version")
    except BaseException:
        db.close()
        raise
    return db


def _make_database(path: str, identity: Identity) -> None:
    """Made under another name: a replica.db is whole or not there."""
    final = os.path.join(path, DATABASE_NAME)
    made = f"{final}.new"
    kernel.fault_point("create")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"):
        pass  # with a mode of our own: it holds keys
    db = apsw.Connection(made, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        with db:
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.execute(_SCHEMA)
            db.execute("INSERT INTO identity VALUES (?)", (msgspec.msgpack.encode(identity),))
    finally:
        db.close()
    files.rename(made, final)


def _identity(db: apsw.Connection) -> Identity:
    rows = select(db, (bytes,), "SELECT value FROM identity")
    if not rows:
        raise DamagedError("a replica does not say whose it is")
    return msgspec.msgpack.decode(rows[0][0], type=Identity)


def _read_secret(path: str) -> bytes:
    with open(os.path.join(path, "secret"), "rb") as file:
        secret = file.read(_SECRET_BYTES + 1)
    if len(secret) != _SECRET_BYTES:
        raise DamagedError(f"the secret of the replica {path!r} has not {_SECRET_BYTES} bytes")
    return secret


def _clear(path: str) -> None:
    """Remove what an older replica left. Only names that a replica has: this may be a directory that a user named."""
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", f"{DATABASE_NAME}.new", "secret"):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(path, name))
    for name in ("segments", "index", "cache"):
        shutil.rmtree(os.path.join(path, name), ignore_errors=True)


def _take_lock(path: str, wait_s: float, env: Env) -> BinaryIO:
    file = files.take_lock(os.path.join(path, "lock"), wait_s=wait_s, env=env)
    if file is None:
        raise BusyError(
            f"another process uses the replica {path!r}",
            hint="wait until that transfer has ended, or wait longer with --lock-wait",
            path=path,
        )
    return file
