"""Who may fill which segment, and what of it is durable. Rows of `segments` and `epochs`; the bytes are the kernel's.

A lease is a lock (flock) on a segment's chunk table, held by the kernel's `Lease`: it ends with the process, however
that ends. Rows only say what is durable. A row is read, and the lock on its segment tried, inside one exclusive
transaction: whoever held the segment before has committed its head or never will, so that the head is current.
What was written past the head by somebody who died is garbage, was never named by anything committed, and is
overwritten. The counter is durable before a segment is handed out, and never goes back.
"""

import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import apsw

from packetfs import kernel
from packetfs.errors import DamagedError, UnavailableError, disk_error
from packetfs.format.address import COUNTER_BITS, COUNTER_MAX, SEGMENT_BYTES, counter_of, epoch_of, segment_number
from packetfs.format.entry import ENTRY_BYTES_MAX, MAC_BYTES, Entry, decode_entry
from packetfs.volume import refs, standing
from packetfs.volume.journal import FULL, OPEN, Journal, select
from packetfs.volume.keys import Keys
from packetfs.volume.tables import HEADER_BYTES, table_shape

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "PUBLISH_ENTRIES",
    "ROOM_BYTES_MIN",
    "SYNC_BYTES",
    "Durable",
    "Filling",
    "begun",
    "changed_segments",
    "epoch",
    "granted",
    "noted",
    "record",
    "replace",
    "row",
]

# (segment, head, chunk-table bytes) as the kernel's Lease.sync gives it and Space.admit takes it.
Durable = tuple[int, int, int]

ROOM_BYTES_MIN: Final = 256 << 10  # two chunks of the largest size: with less a segment is not worth leasing again
PUBLISH_ENTRIES: Final = 1 << 16  # 1.5 MB of chunk tables: what the next process would have to read again
SYNC_BYTES: Final = 4 << 20  # a few ms of writing: less is synced together with the entry, two syncs instead of four
_UNSYNCED_LEASES_MAX: Final = 3  # ~200 MiB of dirty pages: more only makes the commit at the end wait longer
_TRIES_MAX: Final = 64  # segments of the pool that are looked at before a new one is granted


def changed_segments(db: apsw.Connection, keys: Keys, after_stamp: int) -> tuple[list[Durable], int]:
    """Segments whose row is newer than `after_stamp`, and the newest stamp.

    Who asks for all of them gets them from the rows: SQLite sees a damaged page of the index as one with fewer entries.
    """
    indexed = "" if after_stamp else "NOT INDEXED"
    rows = select(
        db,
        (int, int, int, int, int, bytes),
        "SELECT segment, head, table_bytes, state, stamp, row_check "  # noqa: S608 - `indexed` is a literal
        f"FROM segments {indexed} WHERE stamp > ? ORDER BY stamp",
        (after_stamp,),
    )
    for segment, head, table_bytes, state, _, check in rows:
        _check_row(keys, (segment, head, table_bytes, state), check)
    return [(row[0], row[1], row[2]) for row in rows if row[1]], rows[-1][4] if rows else after_stamp


def epoch(db: apsw.Connection, keys: Keys) -> int:
    """The epoch of this volume's sequencer."""
    return _newest_epoch(db, keys)[0]


def granted(db: apsw.Connection, keys: Keys, epoch: int, counter: int) -> None:
    """Write down the last counter granted; it never goes back."""
    check = keys.row_check(epoch, counter)
    db.execute("UPDATE epochs SET counter = ?, row_check = ? WHERE epoch = ?", (counter, check, epoch))


def noted(db: apsw.Connection, keys: Keys, segment: int) -> None:
    """Write down that another machine was granted `segment`: here its number is never granted again."""
    epoch_, counter = epoch_of(segment), counter_of(segment)
    known = select(db, (int,), "SELECT counter FROM epochs WHERE epoch = ?", (epoch_,))
    if not known or known[0][0] < counter:
        begun(db, keys, epoch_, counter)


def begun(db: apsw.Connection, keys: Keys, epoch: int, counter: int) -> None:
    """Write down an epoch that may be new here, and the last counter granted in it."""
    row = (epoch, counter, keys.row_check(epoch, counter))
    db.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?, ?)", row)


def row(db: apsw.Connection, keys: Keys, segment: int) -> Durable | None:
    """What is durable of a segment; None if nothing was ever written down of it."""
    rows = select(
        db,
        (int, int, int, bytes),
        "SELECT head, table_bytes, state, row_check FROM segments WHERE segment = ?",
        (segment,),
    )
    for head, table_bytes, state, check in rows:
        _check_row(keys, (segment, head, table_bytes, state), check)
        return segment, head, table_bytes
    return None


def record(db: apsw.Connection, keys: Keys, durable: Durable, *, full: bool) -> None:
    """Write down what is durable of a segment. Its head never goes back."""
    segment, head, table_bytes = durable
    state = FULL if full or SEGMENT_BYTES - head < ROOM_BYTES_MIN else OPEN
    before = select(db, (int,), "SELECT head FROM segments WHERE segment = ?", (segment,))
    if before and before[0][0] > head:
        raise DamagedError(
            f"segment {segment} is committed up to {before[0][0]}, beyond {head} where it was filled",
            code="journal-damaged",
            segment=segment,
        )
    _write_row(db, keys, segment, head, table_bytes, state)
    if head:
        db.execute("INSERT OR REPLACE INTO present VALUES (?, 0, ?)", (segment, head))


def replace(db: apsw.Connection, keys: Keys, durable: Durable) -> None:
    """Write down another chunk table of a segment that is committed up to the same head; nobody fills it any more."""
    segment, head, table_bytes = durable
    rows = select(db, (int,), "SELECT head FROM segments WHERE segment = ?", (segment,))
    if not rows or rows[0][0] != head:
        raise DamagedError(f"segment {segment} is not committed up to {head}", code="journal-damaged", segment=segment)
    _write_row(db, keys, segment, head, table_bytes, FULL)


class Filling:
    """The leases of one push: granted as they are needed, made durable in a thread of their own when they are full.

    A context manager. What it checkpointed stays in the volume also when the push fails, so that the next one finds it.
    Segments in `damaged` are not filled further: what has begun to rot, or lost its chunk table, gets nothing new.
    """

    def __init__(
        self,
        journal: Journal,
        space: kernel.Space,
        keys: Keys,
        directory: str,
        admit: Callable[[list[Durable]], None],
        *,
        damaged: AbstractSet[int] = frozenset(),
    ) -> None:
        self._journal = journal
        self._space = space
        self._keys = keys
        self._segments = os.path.join(directory, "segments")
        self._admit = admit
        self._damaged = damaged
        self._looked = False
        self._thread: ThreadPoolExecutor | None = None
        self._syncing: deque[Future[None]] = deque()
        self._held: list[kernel.Lease] = []
        self._spare: kernel.Lease | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Full leases are finished also when the push failed: their data is what makes running it again cheap.
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        for lease in (*self._held, self._spare):
            if lease is not None:
                lease.close()

    def grant(self, full: kernel.Lease | None) -> kernel.Lease:
        """A lease to fill after `full`, which is synced and recorded meanwhile."""
        if full is not None:
            while len(self._syncing) >= _UNSYNCED_LEASES_MAX:
                self._syncing.popleft().result()
            self._raise_failures()
            self._syncing.append(self._syncer().submit(self._checkpoint_full, full))
        lease, self._spare = self._spare, None
        if lease is None:
            with self._journal.writing() as db:
                lease = self._take(db)
        self._held.append(lease)
        return lease

    def lease_for_entry(self, lease: kernel.Lease | None) -> kernel.Lease:
        """`lease` if a journal entry still fits into it, else another one."""
        if lease is None or lease.room < ENTRY_BYTES_MAX + MAC_BYTES:
            return self.grant(lease)
        return lease

    def settle(self) -> None:
        """Wait until every full lease is durable and recorded; raise what went wrong with them."""
        while self._syncing:
            self._syncing.popleft().result()

    def sync(self, lease: kernel.Lease) -> Durable:
        """Make what was appended to `lease` durable. A failure is fatal for the open volume."""
        try:
            return lease.sync()
        except BaseException as error:
            self._journal.poison(error)
            raise

    def keep(self, lease: kernel.Lease | None) -> None:
        """Make what was appended durable although nothing was committed, so that the next push finds it."""
        self.settle()
        if lease is not None:
            self.checkpoint(lease, full=False)
            lease.close()

    def keep_granted(self) -> None:
        """The same for the lease that is being filled, by a push that is stopped before it has an entry to commit."""
        self.keep(self._held[-1] if self._held else None)

    def checkpoint(self, lease: kernel.Lease, *, full: bool) -> None:
        """Make what a lease holds durable and write it down. It can be filled further; when `full`, by nobody else."""
        durable = self.sync(lease)
        with self._journal.writing() as db:
            record(db, self._keys, durable, full=full)
        self._admit([durable])

    def checkpoint_all(
        self, leases: Sequence[tuple[kernel.Lease, bool]], recorded: dict[int, tuple[Durable, bool]]
    ) -> None:
        """The same for several leases (each with whether it is full) in one transaction, for those that have changed.

        `recorded` is what was written down of each before; it is brought up to date.
        """
        durable = {lease.segment: (self.sync(lease), full) for lease, full in leases}
        changed = {segment: row for segment, row in durable.items() if recorded.get(segment) != row}
        if not changed:
            return
        with self._journal.writing() as db:
            for row, full in changed.values():
                record(db, self._keys, row, full=full)
        self._admit([row for row, _ in changed.values()])
        recorded.update(changed)

    def _syncer(self) -> "ThreadPoolExecutor":
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms, and most pushes fill no lease

            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="packetfs-sync")
        return self._thread

    def _checkpoint_full(self, lease: kernel.Lease) -> None:
        durable = self.sync(lease)
        with self._journal.writing() as db:
            record(db, self._keys, durable, full=True)
            # One transaction, one sync of the journal: the next lease comes with the record of the last.
            spare = self._take(db) if self._spare is None else None
        if spare is not None:
            self._spare = spare
        self._admit([durable])
        lease.close()

    def _raise_failures(self) -> None:
        while self._syncing and self._syncing[0].done():
            self._syncing.popleft().result()

    def _take(self, db: apsw.Connection) -> kernel.Lease:
        """A segment of the pool that nobody holds, the fullest first; else a new one."""
        standing.check_origin(db)
        epoch_, counter = _newest_epoch(db, self._keys)
        rows = select(
            db,
            (int, int, int, int, bytes),
            f"SELECT segment, head, table_bytes, state, row_check FROM segments WHERE state = {OPEN} "  # noqa: S608
            "AND segment > ? ORDER BY head DESC",
            (epoch_ << COUNTER_BITS,),  # what an older epoch left is never filled further
        )
        for segment, head, table_bytes, state, check in rows:
            _check_row(self._keys, (segment, head, table_bytes, state), check)
        self._look_around(db, {row[0]: row[2] for row in rows}, epoch_, counter)
        for segment, head, table_bytes, _, _ in [row for row in rows if row[0] not in self._damaged][:_TRIES_MAX]:
            self._check_not_stale(db, segment, table_bytes)
            lease = self._space.lease(segment, head, table_bytes, head == 0)
            if lease is not None:
                return lease
        return self._grant_new(db, epoch_, counter)

    def _look_around(self, db: apsw.Connection, pool: Mapping[int, int], epoch: int, counter: int) -> None:
        """Before a push takes its first lease: nothing may lie anywhere that only a later journal can know.

        Not only where the lease will be: a later push may have filled other segments than those that this journal would
        hand out first. `pool` gives chunk-table bytes of open segments.
        """
        if self._looked:
            return
        for segment, table_bytes in pool.items():
            self._check_not_stale(db, segment, table_bytes)
        # Not the next segment alone: a push that was granted it may have kept it as a spare and filled the one after.
        for granted_later in range(counter + 1, min(counter + _TRIES_MAX, COUNTER_MAX) + 1):
            self._check_not_stale(db, segment_number(epoch, granted_later), None)
        self._looked = True

    def _grant_new(self, db: apsw.Connection, epoch: int, counter: int) -> kernel.Lease:
        """The next segment of the epoch. The lock is taken before the row can be seen: nobody else tries it."""
        while counter < COUNTER_MAX:
            counter += 1
            segment = segment_number(epoch, counter)
            self._check_not_stale(db, segment, None)
            lease = self._space.lease(segment, 0, 0, True)
            if lease is None:
                continue  # a number is cheaper than finding out who holds it
            granted(db, self._keys, epoch, counter)
            _write_row(db, self._keys, segment, 0, 0, OPEN)
            return lease
        raise UnavailableError(
            f"epoch {epoch} has no segments left: all {COUNTER_MAX} were granted",
            hint="begin a new volume",
        )

    def _check_not_stale(self, db: apsw.Connection, segment: int, table_bytes: int | None) -> None:
        """DamagedError if the segment holds what only a later journal can know: this one is an old copy.

        Going on with it would overwrite what was committed, so this is asked before the table is cut. A killed push may
        have left chunks, and the entry after the last one with those that were to be committed together with it, but
        never a later one; a segment never granted has nothing.
        """
        slot = os.path.join(self._segments, self._space.slot(segment))
        known_bytes = max(table_bytes or 0, HEADER_BYTES)
        try:
            with open(f"{slot}.chunks", "rb") as table:
                fcntl.flock(table, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(table.fileno()).st_size <= known_bytes:
                    return
                data = table.read()
            places = table_shape(segment, data, known_bytes).journal
            entries = zip(places, self._entries(f"{slot}.data", places), strict=True)
            found = [(place[2], entry.seq) for place, entry in entries if entry is not None]
        except (FileNotFoundError, BlockingIOError):
            return  # not there yet; or somebody fills it, and it will not be ours
        except OSError as error:
            raise disk_error("read", f"{slot}.chunks", error.errno or 0) from None
        last, _ = refs.last_entry(db, self._keys)
        # Those of one batch were to be committed together.
        next_ = {batch for batch, seq in found if seq == last.seq + 1}
        newest = max((seq for batch, seq in found if batch not in next_), default=0)
        if newest > last.seq + 1 or table_bytes is None:
            holds = f"holds entry {newest} of the journal" if newest else "holds chunks and was never granted"
            raise DamagedError(
                f"segment {segment} {holds}, but journal.db ends with entry {last.seq}",
                code="journal-stale",
                hint="journal.db is an old copy: put back the newest, with its -wal file, or run `packetfs rebuild`",
                segment=segment,
                seq=newest,
            )

    def _entries(self, path: str, places: Sequence[tuple[int, int, int]]) -> Iterator[Entry | None]:
        """The journal entries at (offset, length) of a segment's data; None for what has not our MAC."""
        with open(path, "rb") as data:
            for offset, length, _ in places:
                sealed = self._keys.unsealed(os.pread(data.fileno(), length, offset))
                yield decode_entry(sealed) if sealed is not None else None


def _newest_epoch(db: apsw.Connection, keys: Keys) -> tuple[int, int]:
    """The epoch that new segments belong to and the last counter granted in it."""
    rows = select(db, (int, int, bytes), "SELECT epoch, counter, row_check FROM epochs ORDER BY epoch DESC LIMIT 1")
    newest = select(db, (int,), "SELECT coalesce(max(segment), 0) FROM segments")[0][0]
    epoch_, counter, check = rows[0] if rows else (0, -1, b"")
    if (
        min(epoch_, counter) < 0
        or check != keys.row_check(epoch_, counter)
        or newest > epoch_ << COUNTER_BITS | counter
    ):
        raise DamagedError(
            "the counter of segments in journal.db contradicts itself",
            code="journal-damaged",
            hint="`packetfs rebuild` recovers it; until then the volume can be read but not written",
        )
    return epoch_, counter


def _write_row(db: apsw.Connection, keys: Keys, segment: int, head: int, table_bytes: int, state: int) -> None:
    stamp = select(db, (int,), "SELECT coalesce(max(stamp), 0) + 1 FROM segments")[0][0]
    check = keys.row_check(segment, head, table_bytes, state)
    db.execute(
        "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?)", (segment, head, table_bytes, state, stamp, check)
    )


def _check_row(keys: Keys, numbers: tuple[int, int, int, int], check: bytes) -> None:
    """A flipped bit in a head would let a lease overwrite what is committed: never believe an unchecked row."""
    if any(number < 0 for number in numbers) or keys.row_check(*numbers) != check:
        raise DamagedError(
            f"the row of segment {numbers[0]} in journal.db does not have its check",
            code="journal-damaged",
            hint="`packetfs rebuild` recovers it from the segments",
            segment=numbers[0],
        )
