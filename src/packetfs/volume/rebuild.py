"""A lost or damaged journal.db, recovered from the segments. Only what can be proved is believed; nothing is removed.

Every journal entry is also a chunk of kind *journal* with a MAC over it. Kind and MAC decide what is an entry, hashes
put them in order, and the refs follow. Chunks before such an entry in its segment were durable before it; all others
are read and checked, because a power cut may have left chunk tables of bytes that never reached the disk. The recovered
volume begins a new epoch: no old segment is ever filled again, so that no address is given out twice.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import BusyError, DamagedError, RefusedError, disk_error
from packetfs.format.address import (
    OFFSET_BITS,
    SEGMENT_BYTES,
    Extent,
    Page,
    epoch_of,
    offset_of,
    segment_number,
    segment_of,
)
from packetfs.format.descriptor import Descriptor
from packetfs.format.entry import MAC_BYTES, Commit, Entry, Forget, NewEpoch, Position, Reclaim, decode_entry
from packetfs.format.snapshot import decode_snapshot
from packetfs.volume import files, refs, space, standing
from packetfs.volume.creation import REPLICA_MARK
from packetfs.volume.journal import Journal, alone, create_journal
from packetfs.volume.keys import Keys
from packetfs.volume.removals import Ranges
from packetfs.volume.replay import replay
from packetfs.volume.space import Durable
from packetfs.volume.tables import HEADER_BYTES, Table, read_table
from packetfs.volume.volume import DESCRIPTOR_NAME, Volume, open_descriptor, open_space

__all__ = ["Rebuilt", "rebuild"]

_VERIFY_BYTES: Final = 64 << 20  # between two looks at Ctrl-C
_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was recovered."""

    position: Position
    """Where the journal stands now: after the entry that begins the new epoch."""
    recovered: Position
    """The last entry that was found."""
    epoch: int
    segments: int
    kept: str
    """Where the old journal.db is now; empty if there was none."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A journal entry in a segment, its MAC checked."""

    entry: Entry
    data: bytes
    address: int
    group: tuple[int, int]
    """Segment and batch of the chunk table: alike for those that were to be committed together."""
    followed: bool
    """Whether its segment was filled further after them: then they had been recorded, and were committed."""


def rebuild(path: str | os.PathLike[str], *, env: Env = SYSTEM) -> Rebuilt:
    """Make a new journal.db for the volume at `path` from its segments.

    RefusedError if the journal is sound, not an old copy, and knows all that its snapshots point to; BusyError while
    somebody writes. DamagedError, and nothing changed, if an entry in the middle of the chain is lost. Killed at any
    instant, running it again goes through. Who has the volume open meanwhile has to open it again to write.
    """
    absolute = os.path.abspath(os.fspath(path))
    descriptor, secret = open_descriptor(absolute)
    if os.path.exists(os.path.join(absolute, REPLICA_MARK)):
        raise RefusedError(
            f"{absolute!r} is a replica: a rebuild would make a second origin of it",
            code="is-replica",
            hint="delete it and make it again with `packetfs replicate`; if its origin is lost, remove the file "
            f"{REPLICA_MARK!r} in it and run this again",
            path=absolute,
        )
    with alone(os.path.join(absolute, DESCRIPTOR_NAME), wait_s=_WAIT_S, env=env):
        return _rebuild(absolute, descriptor, secret, env)


def _rebuild(absolute: str, descriptor: Descriptor, secret: bytes, env: Env) -> Rebuilt:
    keys = Keys(secret, descriptor.volume_id)
    known = _known_if_sound(absolute, env)
    tables = [table for file in _table_files(absolute) if (table := _load(file, descriptor))]
    opened = open_space(absolute, descriptor, secret)
    whole = _whole(lambda: open_space(absolute, descriptor, secret), tables)
    opened.admit(whole)
    heads = {segment: head for segment, head, _ in whole}
    chain = _longest_chain(list(_entries(opened, tables, heads, keys)), keys)
    opened.reclaim(_gone(chain))  # not damage
    recovered = _position(chain[-1], keys) if chain else keys.genesis
    # One group of entries more may be that of pushes that were killed before they committed.
    beyond = {found.group for found in chain if known is not None and found.entry.seq > known.seq}
    if known is not None and len(beyond) <= 1 and not _knows_too_little(opened, known, heads, chain):
        raise RefusedError(f"the journal of {absolute!r} is sound: there is nothing to rebuild", hint="use the volume")
    durable = [_proven(opened, table, row, chain) for table, row in zip(tables, whole, strict=True)]
    begun = chain[-1].entry.epoch if chain else 0
    latest = max([epoch_of(row[0]) for row in durable] + [begun], default=0)
    epoch = standing.next_epoch(standing.number_in(begun), latest)
    staging = os.path.join(absolute, "journal.db.new")
    _remove(staging)
    create_journal(staging, epoch=epoch, row_check=keys.row_check(epoch, 0))
    journal = Journal(staging, lock_wait_s=_WAIT_S, env=env)
    try:
        position = _fill(journal, keys, opened, chain, durable, epoch, env)
    finally:
        journal.close()
    kept = _put_in_place(absolute, staging, env)
    return Rebuilt(position, recovered, epoch, sum(row[1] > 0 for row in durable), kept)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the journal that is there says."""

    seq: int
    heads: dict[int, int]


def _known_if_sound(path: str, env: Env) -> _Known | None:
    """What the journal says that is there, if nothing is wrong with it by itself; it may be an old copy."""
    try:
        with Volume.open(path, env=env) as volume:
            seq = volume.check_journal().seq
            return _Known(seq, {segment: head for segment, head, _ in volume.segments()})
    except DamagedError:
        return None


def _knows_too_little(opened: kernel.Space, known: _Known, heads: dict[int, int], chain: list[_Found]) -> bool:
    """Whether snapshots point to what is in the segments and the journal does not know as committed."""
    excess = [
        ((segment << OFFSET_BITS) + known.heads.get(segment, 0), head - known.heads.get(segment, 0))
        for segment, head in heads.items()
        if head > known.heads.get(segment, 0)
    ]
    if not excess:
        return False
    known_chain = [found for found in chain if found.entry.seq <= known.seq]
    pages = {page for found in _kept(known_chain) if (page := _root_page(found.entry)) is not None}
    # What cannot be read with all that there is, is damaged: no journal would help it.
    return any(set(opened.files_touching(page, excess)) - set(opened.files_touching(page, [])) for page in pages)


def _kept(chain: list[_Found]) -> list[_Found]:
    """The commits of a chain that it has not forgotten."""
    kept: dict[int, _Found] = {}
    for found in chain:
        match found.entry.body:
            case Commit():
                kept[found.entry.seq] = found
            case Forget(seqs=seqs):
                for seq in seqs:
                    kept.pop(seq, None)
    return list(kept.values())


def _gone(chain: list[_Found]) -> list[Ranges]:
    """What a chain has reclaimed."""
    gone: dict[int, bytes] = {}
    for found in chain:
        if isinstance(found.entry.body, Reclaim):
            for segment, ranges in found.entry.body.ranges:
                gone[segment] = kernel.merge_ranges(gone.get(segment, b""), ranges)
    return list(gone.items())


def _root_page(entry: Entry) -> Page | None:
    """The first page of the snapshot that an entry commits."""
    if not isinstance(entry.body, Commit):
        return None
    return kernel.decode_root(decode_snapshot(entry.body.snapshot, entry.body.snapshot_id).root).page


def _table_files(path: str) -> Iterator[str]:
    directory = os.path.join(path, "segments")
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise disk_error("list", directory, error.errno or 0) from None
    yield from (os.path.join(directory, name) for name in names if name.endswith(".chunks"))


def _load(file: str, descriptor: Descriptor) -> Table | None:
    """The shape of a chunk table; None for one that is not of this volume or has nothing in it."""
    try:
        with open(file, "rb") as opened:
            # Nobody can begin to write without a journal; who holds this lock began before it was lost.
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            data = opened.read()
    except BlockingIOError:
        raise BusyError("another process is writing to the volume", hint="end it first", path=file) from None
    except OSError as error:
        raise disk_error("read", file, error.errno or 0) from None
    return read_table(data, descriptor.volume_id)


def _whole(open_scratch: Callable[[], kernel.Space], tables: list[Table]) -> list[Durable]:
    """How far each chunk table can be read: a batch that a crash tore is left out."""
    scratch = open_scratch()
    rows: list[Durable] = []
    for table in tables:
        for head, table_bytes in zip(reversed(table.heads), reversed(table.ends), strict=True):
            row = (table.segment, head, table_bytes)
            if not head or (head <= SEGMENT_BYTES and _is_whole(scratch, row)):
                rows.append(row)
                break
            scratch = open_scratch()  # what was admitted once stays admitted
    return rows


def _is_whole(scratch: kernel.Space, row: Durable) -> bool:
    """Whether the table's CRCs hold; the bytes themselves are another question."""
    scratch.admit([row])
    checked_bytes, _, _ = scratch.verify(row[0], 0, 1)
    return checked_bytes > 0  # a table that cannot be read has no chunks to check


def _proven(opened: kernel.Space, table: Table, row: Durable, chain: list[_Found]) -> Durable:
    """`row`, cut before the first batch with bytes that are not what they should be, unless a snapshot needs them."""
    segment, head, _ = row
    own = [found for found in chain if segment_of(found.address) == segment]
    start = max((offset_of(found.address) + len(found.data) + MAC_BYTES for found in own), default=0)
    damaged: list[Extent] = []
    while start < head:
        _, start, found = opened.verify(segment, start, _VERIFY_BYTES)
        damaged += found
    if not damaged:
        return row
    first = min(offset_of(address) for address, _ in damaged)
    cut = max(
        (pair for pair in zip(table.heads, table.ends, strict=True) if pair[0] <= first), default=(0, HEADER_BYTES)
    )
    lost = ((segment << OFFSET_BITS) + cut[0], head - cut[0])
    for one in _kept(chain):
        page = _root_page(one.entry)
        if page is not None and opened.files_touching(page, [lost]):
            return row  # it was committed, and rots: `verify` says what of it is lost
    return segment, *cut


def _entries(opened: kernel.Space, tables: list[Table], heads: dict[int, int], keys: Keys) -> Iterator[_Found]:
    """Every journal entry in the segments that is whole and has our MAC."""
    for table in tables:
        for offset, length, batch in table.journal:
            address = (table.segment << OFFSET_BITS) + offset
            with suppress(DamagedError):  # of an entry that is needed the chain will miss the link
                data = keys.unsealed(b"".join(opened.read(address, length)))
                if data is not None:
                    followed = heads[table.segment] > table.heads[batch]
                    yield _Found(decode_entry(data), data, address, (table.segment, batch), followed)


def _longest_chain(found: list[_Found], keys: Keys) -> list[_Found]:
    """The entries from genesis on.

    Where two follow one entry, the one of a later epoch counts: the other one was committed by an origin that did not
    know that it was none any more, and was taken out. Of one epoch, one of them was written by a push that was killed
    before it committed: the one with the longer future counts, in which entries that were committed together count
    once; then one whose segment was filled further, which proves that it was committed; then the later one; and of
    two with one time (a clock that was set back) the one with the greater hash, so that every run agrees.
    """
    followers: dict[bytes, list[_Found]] = {}
    for one in found:
        followers.setdefault(one.entry.previous, []).append(one)
    depth: dict[bytes, int] = {}
    for one in sorted(found, key=lambda one: one.entry.seq, reverse=True):
        hash_ = keys.entry_hash(one.data)
        depth[hash_] = max(
            (depth[keys.entry_hash(next_.data)] + (next_.group != one.group) for next_ in followers.get(hash_, [])),
            default=1,
        )
    chain: list[_Found] = []
    killed: set[tuple[int, int]] = set()
    at = keys.genesis
    while candidates := [one for one in followers.get(at.hash, []) if one.entry.seq == at.seq + 1]:
        best = max(candidates, key=lambda one: _claim(one, keys.entry_hash(one.data), depth))
        chain.append(best)
        killed.update(one.group for one in candidates if one.group != best.group)
        at = _position(best, keys)
    latest = chain[-1].entry.epoch if chain else 0
    newest = max((one.entry.seq for one in found if one.group not in killed and one.entry.epoch >= latest), default=0)
    if newest > at.seq:
        raise DamagedError(
            f"journal entry {at.seq + 1} is not in the segments, but entry {newest} is",
            code="journal-damaged",
            hint="look for the segments that are missing, or for an older copy of journal.db",
            seq=at.seq + 1,
        )
    return chain


def _claim(found: _Found, hash_: bytes, depth: dict[bytes, int]) -> tuple[int, int, bool, int, bytes]:
    """How much speaks for an entry among others that follow the same one."""
    return found.entry.epoch, depth[hash_], found.followed, found.entry.time_ns, hash_


def _position(found: _Found, keys: Keys) -> Position:
    return Position(found.entry.seq, keys.entry_hash(found.data))


def _fill(
    journal: Journal,
    keys: Keys,
    opened: kernel.Space,
    chain: list[_Found],
    durable: list[Durable],
    epoch: int,
    env: Env,
) -> Position:
    """Write the recovered state and the entry that begins the new epoch, as one transaction."""
    recovered = _position(chain[-1], keys) if chain else keys.genesis
    previous_ns = chain[-1].entry.time_ns if chain else 0
    segment = segment_number(epoch, 1)
    with journal.writing() as db:
        for found in chain:
            replay(db, keys, found.entry, data=found.data, position=_position(found, keys), address=found.address)
        for row in durable:
            if row[1]:
                space.record(db, keys, row, full=True)
        data, position = refs.append(
            keys,
            NewEpoch(recovered_seq=recovered.seq, recovered_hash=recovered.hash, reason="rebuilt from the segments"),
            previous=recovered,
            epoch=epoch,
            time_ns=max(env.now_ns(), previous_ns + 1),
        )
        lease = opened.lease(segment, 0, 0, True)
        if lease is None:
            raise BusyError("another process is rebuilding the volume", hint="wait for it")
        try:
            address = lease.append_journal(keys.sealed(data))
            space.granted(db, keys, epoch, 1)
            space.record(db, keys, lease.sync(), full=False)
        finally:
            lease.close()
        refs.entered(db, data=data, position=position, address=address)
    return position


def _put_in_place(path: str, staging: str, env: Env) -> str:
    """Rename the old journal away, then the new one into its place; where the old one is now."""
    target = os.path.join(path, "journal.db")
    time_s = env.now_ns() // 1_000_000_000
    while os.path.lexists(f"{target}.lost-{time_s}"):
        time_s += 1  # what an earlier rebuild kept is kept
    kept = f"{target}.lost-{time_s}"
    found = ""
    # The database first: without its WAL it would be an older state that opens, and takes writes, as if it were sound.
    # What is left of the WAL must be gone before the new database comes, which would take it for its own.
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            files.rename(target + suffix, kept + suffix)
            found = kept
    files.rename(staging, target)
    files.sync_directory(path)
    return found


def _remove(staging: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(staging + suffix)
