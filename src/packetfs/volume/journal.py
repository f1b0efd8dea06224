"""journal.db: the one place that decides what is committed. SQLite in WAL mode, every commit synced.

A transaction is either `reading` (a consistent state, as of one commit) or `writing` (exclusive among all processes;
milliseconds). Every error of SQLite becomes an error of ours here and nowhere else. After a write whose outcome is not
known, above all a failed fsync, nothing more is written through this connection: the kernel may have dropped the dirty
pages, and a second fsync would report success for data that is gone. The same holds when `rebuild` has put another file
in the place of the one that is open: what is written to the old one is lost. Writers share a lock (flock) on
volume.toml for the length of a transaction; a rebuild holds it alone from its first look to its last rename.

The hash chain, the refs and what the rows mean are in `refs.py` and `space.py`; docs/formats/journal.md has them all.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

import apsw

from packetfs import kernel
from packetfs.env import Env
from packetfs.errors import BusyError, DamagedError, PacketFSError, RefusedError, UnavailableError, disk_error
from packetfs.volume.group import Queue, queue_of

__all__ = [
    "FULL",
    "OPEN",
    "Journal",
    "alone",
    "create_journal",
    "drop_standing",
    "has_removals",
    "has_standing",
    "of_the_disk",
    "prepare_removals",
    "prepare_standing",
    "select",
]

_APPLICATION_ID: Final = int.from_bytes(b"PFSJ", "big")
_VERSION: Final = 1
_VERSION_REMOVALS: Final = 2  # the same, and the tables of `_REMOVALS`: who does not know them must not write
_VERSION_STANDING: Final = 3  # the same, and those of `_STANDING`: this copy of the volume is not its origin

# States of a segment.
OPEN: Final = 0  # in the pool: it may be leased and filled further
FULL: Final = 1  # no room, or burnt: its head never moves again

_SCHEMA: Final = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};

-- The chain. `entry` is the bytes that `hash` is taken of; `address` is where the same bytes rest in a segment.
CREATE TABLE journal (
    seq      INTEGER PRIMARY KEY,
    hash     BLOB NOT NULL,
    entry    BLOB NOT NULL,
    address  INTEGER NOT NULL
) STRICT;

-- What follows from the chain: rows of `moves` are the commits of `journal`, `refs` the last move of each ref.
CREATE TABLE moves (
    ref            TEXT NOT NULL,
    seq            INTEGER NOT NULL,
    time_ns        INTEGER NOT NULL,
    snapshot       BLOB NOT NULL,
    logical_bytes  INTEGER NOT NULL,
    page_bytes     INTEGER NOT NULL,
    PRIMARY KEY (ref, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX moves_by_snapshot ON moves (snapshot);
CREATE TABLE refs (
    name      TEXT PRIMARY KEY,
    seq       INTEGER NOT NULL,
    snapshot  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- What is durable of each segment. `stamp` grows with each change of any row: readers ask for what is newer.
CREATE TABLE segments (
    segment      INTEGER PRIMARY KEY,
    head         INTEGER NOT NULL,
    table_bytes  INTEGER NOT NULL,
    state        INTEGER NOT NULL,
    stamp        INTEGER NOT NULL,
    row_check    BLOB NOT NULL
) STRICT;
CREATE INDEX segments_by_stamp ON segments (stamp);
CREATE INDEX segments_open ON segments (head) WHERE state = {OPEN};

-- The last counter granted in each epoch; durable before the segment is handed out.
CREATE TABLE epochs (
    epoch      INTEGER PRIMARY KEY,
    counter    INTEGER NOT NULL,
    row_check  BLOB NOT NULL
) STRICT;

-- Which offsets of a segment this copy of the volume holds. On an origin that is [0, head) of each segment.
CREATE TABLE present (
    segment  INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    end      INTEGER NOT NULL,
    PRIMARY KEY (segment, start)
) STRICT, WITHOUT ROWID;

-- When each ref was last pushed to on this machine, also when nothing had changed. Not part of the volume's state.
CREATE TABLE visits (
    ref      TEXT PRIMARY KEY,
    time_ns  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# Made when something is removed for the first time.
_REMOVALS: Final = """
-- Follows from the chain: the snapshot that now comes before a move whose own parent was forgotten, or empty.
CREATE TABLE relinked (
    ref     TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    before  BLOB NOT NULL,
    PRIMARY KEY (ref, seq)
) STRICT, WITHOUT ROWID;

-- Follows from the chain: all that is gone of each segment. `seq` is the last entry that said so.
CREATE TABLE reclaimed (
    segment    INTEGER PRIMARY KEY,
    ranges     BLOB NOT NULL,
    bytes      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    row_check  BLOB NOT NULL
) STRICT;
CREATE INDEX reclaimed_by_seq ON reclaimed (seq);

-- Not part of the volume's state: what is about to be reclaimed, and segments of which blocks are to be given back.
CREATE TABLE condemned (
    segment  INTEGER PRIMARY KEY,
    ranges   BLOB NOT NULL
) STRICT;
CREATE TABLE punching (segment INTEGER PRIMARY KEY) STRICT;

-- One row: how often something was condemned, the last entry before that, and the last round that reclaimed anything.
CREATE TABLE rounds (
    round      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    reclaimed  INTEGER NOT NULL
) STRICT;
INSERT INTO rounds VALUES (0, 0, 0);
"""

# Made when this copy of the volume is to follow another one, or may not be written to any more; `standing.py`.
_STANDING: Final = """
-- One row.
CREATE TABLE standing (
    role     TEXT NOT NULL,
    origin   TEXT NOT NULL,
    number   INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    time_ns  INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    heard_ns INTEGER NOT NULL
) STRICT;

-- Commits after the position whose snapshots are here whole already.
CREATE TABLE arrived (
    seq          INTEGER PRIMARY KEY,
    root         BLOB NOT NULL,
    root_digest  BLOB NOT NULL
) STRICT;
"""

_WAIT_MIN_S: Final = 0.001
_WAIT_MAX_S: Final = 0.025  # a commit lasts milliseconds: looking more rarely would let others overtake us for ever

_OPEN_BYTES: Final = 64 << 10  # journal.db-shm, and a page or two of the file system's own

_DAMAGED_HINT: Final = "`packetfs rebuild` recovers it from the segments"


def create_journal(path: str, *, epoch: int, row_check: bytes) -> None:
    """Make an empty journal at `path`, durable when this returns. Nothing may be there."""
    with _speaking(path):
        db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        try:
            db.execute("PRAGMA synchronous = FULL")
            # WAL is a property of the file: set once here, only checked when it is opened.
            if db.execute("PRAGMA journal_mode = WAL").get != "wal":
                raise UnavailableError(
                    f"the file system of {path!r} cannot hold a shared journal",
                    hint="put the volume on a local disk",
                )
            db.execute("BEGIN IMMEDIATE")
            db.execute(_SCHEMA)
            db.execute("INSERT INTO epochs VALUES (?, 0, ?)", (epoch, row_check))
            db.execute("COMMIT")
            os.chmod(path, 0o600)  # the WAL beside it gets the same mode
        finally:
            db.close()


def has_removals(db: apsw.Connection) -> bool:
    """Whether anything was ever removed from this volume: then the tables that say what are there."""
    return bool(db.execute("PRAGMA user_version").get >= _VERSION_REMOVALS)


def prepare_removals(db: apsw.Connection) -> None:
    """Make those tables, if they are not there. From then on a version that does not know them opens nothing."""
    if not has_removals(db):
        db.execute(_REMOVALS)
        db.execute(f"PRAGMA user_version = {_VERSION_REMOVALS}")


def has_standing(db: apsw.Connection) -> bool:
    """Whether this copy of the volume is not simply its origin."""
    return bool(db.execute("PRAGMA user_version").get == _VERSION_STANDING)


def prepare_standing(db: apsw.Connection) -> None:
    """Make the tables that say what it is, if they are not there. A version that does not know them opens nothing."""
    if not has_standing(db):
        prepare_removals(db)
        db.execute(_STANDING)
        db.execute(f"PRAGMA user_version = {_VERSION_STANDING}")


def drop_standing(db: apsw.Connection) -> None:
    """Be simply the origin from now on."""
    db.execute("DROP TABLE standing")
    db.execute("DROP TABLE arrived")
    db.execute(f"PRAGMA user_version = {_VERSION_REMOVALS}")


def select(
    db: apsw.Connection, kinds: tuple[type, ...], statement: str, values: Sequence[int | str | bytes] = ()
) -> list[tuple[Any, ...]]:
    """The rows of a query, each value of the kind that the schema says: a flipped bit can turn one into another."""
    rows = db.execute(statement, tuple(values)).fetchall()
    for row in rows:
        if tuple(map(type, row)) != kinds:
            raise _damaged(db.filename, "a value is not of the kind that its column has")
    return rows


class Journal:
    """An open journal.db. Threads take turns; other processes are waited for, at most `lock_wait_s`.

    `gate` is the file whose lock writers share and a rebuild holds alone; without it nobody else knows the journal.
    """

    def __init__(self, path: str, *, lock_wait_s: float, env: Env, gate: str | None = None) -> None:
        self.path = path
        self._gate = gate
        self._lock_wait_s = lock_wait_s
        self._env = env
        self._turn = threading.RLock()
        self._failure: PacketFSError | None = None
        self._waiting_since_s = 0.0
        self._identity = _identity(path)
        self._db = self._open()
        while (found := _identity(path)) != self._identity:  # it was replaced while it was opened
            self._db.close()
            self._identity = found
            self._db = self._open()
        self.queue: Queue[Any] = queue_of(self._identity)
        """Who writes to the same file in this process."""

    def close(self) -> None:
        """Close it; idempotent. The last process to close folds the WAL into journal.db."""
        with self._turn, suppress(apsw.Error):
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """One consistent state of the volume, for the length of the block; writers go on meanwhile."""
        with self._turn, _speaking(self.path):
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._roll_back()

    @contextmanager
    def writing(self) -> Iterator[apsw.Connection]:
        """The only writer of all processes, for the length of the block, which commits when it ends.

        If the block raises, nothing has changed. If the commit itself fails, whether it took place is not known
        before the volume is opened again, and this journal refuses to write.
        """
        with self._turn, self._after_others(), self._beside_others():
            self._check_usable()
            with _speaking(self.path, self._lock_wait_s):
                self._db.execute("BEGIN IMMEDIATE")
            try:
                self._check_in_place()
                with _speaking(self.path):
                    yield self._db
                self._commit()
            finally:
                self._roll_back()

    def version(self) -> int:
        """Another number once anybody else has committed: cheap to ask for again and again."""
        with self._turn, _speaking(self.path):
            return int(self._db.execute("PRAGMA data_version").get)

    @property
    def is_usable(self) -> bool:
        """Whether it can still be written to: see `poison`."""
        return self._failure is None

    def poison(self, error: BaseException) -> None:
        """Refuse all further writes: what is on disk after a failed sync is not known."""
        if self._failure is None:
            self._failure = UnavailableError(
                f"an earlier write to this volume failed ({error}); it has to be opened again",
                code="volume-failed",
                hint="run the command again: it continues from what was committed",
                path=self.path,
            )

    def check_pages(self) -> None:
        """Have SQLite look at every page and compare indexes with rows; DamagedError if one is not as it should be."""
        with self.reading() as db:
            answer = db.execute("PRAGMA integrity_check(1)").get
        if answer != "ok":
            raise _damaged(self.path, str(answer).replace("\n", " "))

    def _open(self) -> apsw.Connection:
        if not os.path.exists(self.path):
            raise DamagedError(f"{self.path!r} is missing", code="journal-missing", hint=_DAMAGED_HINT, path=self.path)
        with _speaking(self.path, self._lock_wait_s):
            if _is_frozen(self.path):
                from urllib.parse import quote

                # SQLite's shared memory cannot be made there, and is not needed where nothing changes.
                return self._prepared(f"file:{quote(self.path)}?immutable=1", apsw.SQLITE_OPEN_READONLY)
            return self._prepared(self.path, apsw.SQLITE_OPEN_READWRITE)

    def _prepared(self, name: str, flags: int) -> apsw.Connection:
        db = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: apsw.Connection) -> None:
        db.set_busy_handler(self._wait)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")  # a flipped bit in a page is found when the page is read
        if db.execute("PRAGMA application_id").get != _APPLICATION_ID:
            raise _damaged(self.path, "it is not a journal of PacketFS, or empty")
        version = db.execute("PRAGMA user_version").get
        if version not in (_VERSION, _VERSION_REMOVALS, _VERSION_STANDING):
            raise RefusedError(
                f"{self.path!r} has version {version}; this version of PacketFS knows {_VERSION_STANDING}",
                code="format-unknown",
                hint="upgrade packetfs",
                path=self.path,
            )
        if not db.readonly("main") and db.execute("PRAGMA journal_mode").get != "wal":
            raise _damaged(self.path, "it is not in WAL mode")

    def _wait(self, attempts: int) -> bool:
        """SQLite's question whether to try again to get a lock that another process has."""
        now_s = self._env.monotonic_s()
        if attempts == 0:
            self._waiting_since_s = now_s
        left_s = self._waiting_since_s + self._lock_wait_s - now_s
        if left_s <= 0:
            return False
        self._env.sleep(min(left_s, _WAIT_MAX_S, _WAIT_MIN_S * (attempts + 1)))
        return True

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _after_others(self) -> Iterator[None]:
        """Other threads of this process wait meanwhile: SQLite would have them look again and again."""
        if not self.queue.writing.acquire(timeout=self._lock_wait_s):
            raise BusyError(
                f"another session of this process holds the journal for {self._lock_wait_s:g} s",
                hint="try again, or wait longer with --lock-wait",
                path=self.path,
            )
        try:
            yield
        finally:
            self.queue.writing.release()

    @contextmanager
    def _beside_others(self) -> Iterator[None]:
        """Other writers may come and go meanwhile, a rebuild may not."""
        if self._gate is None:
            yield
            return
        with _opened(self._gate) as gate:
            _take_lock(gate.fileno(), fcntl.LOCK_SH, self._gate, wait_s=self._lock_wait_s, env=self._env)
            yield

    def _check_in_place(self) -> None:
        """UnavailableError for ever if the open file is not the volume's journal any more."""
        if _identity(self.path) != self._identity:
            self.poison(PacketFSError("journal.db was replaced by another while it was open"))
            self._check_usable()

    def _commit(self) -> None:
        try:
            self._check_usable()  # another thread's sync may have failed while this block ran
            with _speaking(self.path):
                _pass_fault_point(self.path)
                self._db.execute("COMMIT")
        except PacketFSError as error:
            self.poison(error)
            raise

    def _roll_back(self) -> None:
        # SQLite rolls back by itself after some errors; a second attempt would only hide the first.
        with suppress(apsw.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _pass_fault_point(path: str) -> None:
    try:
        kernel.fault_point("sync")
    except OSError as error:
        raise disk_error("write", path, error.errno or 0) from None


@contextmanager
def alone(gate: str, *, wait_s: float, env: Env) -> Iterator[None]:
    """Within the block no writer begins a transaction and nobody else is `alone`. BusyError after `wait_s`."""
    with _opened(gate) as file:
        _take_lock(file.fileno(), fcntl.LOCK_EX, gate, wait_s=wait_s, env=env)
        yield


def _opened(gate: str) -> BinaryIO:
    try:
        return open(gate, "rb")
    except OSError as error:
        raise disk_error("open", gate, error.errno or 0) from None


def _take_lock(handle: int, kind: int, path: str, *, wait_s: float, env: Env) -> None:
    begun_s = env.monotonic_s()
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if env.monotonic_s() - begun_s >= wait_s:
                break
            env.sleep(_WAIT_MAX_S)
        except OSError as error:
            raise disk_error("lock", path, error.errno or 0) from None
        else:
            return
    what = "is rebuilding the volume" if kind == fcntl.LOCK_SH else "writes to the volume or rebuilds it"
    raise BusyError(f"another process {what}", hint="wait until it has ended, then try again", path=path)


def _identity(path: str) -> tuple[int, int] | None:
    """Which file is at `path`; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_frozen(path: str) -> bool:
    """Whether `path` is on a file system that is mounted read-only, with all of the journal in journal.db."""
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    try:
        waiting = os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return True
    if waiting:
        raise UnavailableError(
            f"{path!r} was not closed, and its file system is mounted read-only",
            code="disk-read-only",
            hint="mount it writable and open the volume once",
            path=path,
        )
    return True


@contextmanager
def _speaking(path: str, lock_wait_s: float | None = None) -> Iterator[None]:
    """Turn errors of SQLite into ours."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError, apsw.ProtocolError) as error:
        waited = "" if lock_wait_s is None else f" for {lock_wait_s:g} s"
        raise BusyError(
            f"another process holds the journal{waited}",
            hint="try again, or wait longer with --lock-wait",
            path=path,
        ) from error
    except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError, apsw.SchemaChangeError) as error:
        raise _damaged(path, str(error)) from error
    except (apsw.FullError, apsw.CantOpenError, apsw.IOError) as error:
        raise of_the_disk(path, error) from error
    except apsw.ReadOnlyError as error:
        raise UnavailableError(
            f"cannot write {path!r}: it is read-only",
            code="disk-read-only",
            hint="check the mode of the volume's directory and how its file system is mounted",
            path=path,
        ) from error
    except (apsw.PermissionsError, apsw.AuthError) as error:
        raise UnavailableError(
            f"cannot open {path!r}: {error}",
            code="permission-denied",
            hint="check who owns the volume's directory, its mode, and that the disk is not full",
            path=path,
        ) from error
    except apsw.NoMemError as error:
        raise disk_error("read", path, errno.ENOMEM) from error
    except (apsw.SQLError, apsw.MismatchError, apsw.ConstraintError, UnicodeDecodeError) as error:
        # Our statements fit our schema: a table that is not there, or a row that contradicts a key, is damage.
        raise _damaged(path, str(error)) from error


def of_the_disk(path: str, error: apsw.Error) -> PacketFSError:
    """Our error for one of SQLite's about the disk that `path` is on.

    That a file could not be made or read is all that SQLite says; why, a look at the disk may tell.
    """
    if isinstance(error, apsw.FullError) or _is_full(path):
        return disk_error("write", path, errno.ENOSPC)
    if isinstance(error, apsw.CantOpenError):
        return UnavailableError(
            f"cannot open {path!r}: {error}",
            code="permission-denied",
            hint="check who owns the volume's directory, and its mode",
            path=path,
        )
    return UnavailableError(
        f"the disk failed at {path!r}: {error}",
        code="disk-failed",
        hint="look at the system log (dmesg) and check the disk",
        path=path,
    )


def _is_full(path: str) -> bool:
    """Whether there is no room for what SQLite makes beside a database to open it."""
    try:
        found = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _OPEN_BYTES


def _damaged(path: str, why: str) -> DamagedError:
    return DamagedError(f"{path!r} is damaged: {why}", code="journal-damaged", hint=_DAMAGED_HINT, path=path)
