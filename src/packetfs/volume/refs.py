"""The chain and what follows from it: refs, snapshots, the position. Statements inside a transaction of `journal.py`.

What is read is checked before it is believed: an entry against its hash, a snapshot against its id. No entry is ever
changed or removed, and a ref moves only together with the entry that says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import apsw

from packetfs import kernel
from packetfs.errors import ConflictError, DamagedError, NotFoundError, UsageError
from packetfs.format.address import OFFSET_BITS, offset_of, segment_of
from packetfs.format.entry import (
    MAC_BYTES,
    Body,
    Commit,
    Entry,
    Forget,
    NewEpoch,
    Position,
    Reclaim,
    decode_entry,
    encode_entry,
)
from packetfs.format.snapshot import Snapshot, decode_snapshot
from packetfs.format.when import AtTime, Back, ById, When
from packetfs.volume.journal import has_removals, prepare_removals, select
from packetfs.volume.keys import Keys

__all__ = [
    "Move",
    "Ref",
    "all_kept",
    "all_refs",
    "append",
    "base_of",
    "by_id",
    "check_known",
    "check_unmoved",
    "clear",
    "commits",
    "committed_after",
    "current",
    "entered",
    "entries_after",
    "entries_within",
    "entry_at",
    "entry_ends",
    "epoch_at",
    "epoch_entry",
    "forgotten",
    "is_kept",
    "kept_at",
    "last_entry",
    "log",
    "moved",
    "moves_of",
    "position_at",
    "resolve",
    "snapshot_at",
    "verify_chain",
    "visited",
]

_SEQ_MAX: Final = (1 << 63) - 1
_PAGE: Final = 256  # rows read at a time, so that a long history is never in memory as a whole


@dataclass(frozen=True, slots=True)
class Ref:
    """A name and the snapshot it names now."""

    name: str
    snapshot: Snapshot
    seq: int
    """The journal entry that moved it there."""
    visited_ns: int
    """When it was last pushed to on this machine, also when nothing had changed."""


@dataclass(frozen=True, slots=True)
class Move:
    """One commit: which ref moved, by which entry, to which snapshot."""

    ref: str
    seq: int
    snapshot: bytes


def last_entry(db: apsw.Connection, keys: Keys) -> tuple[Position, int]:
    """The position, and the journal time of its entry; genesis and 0 while there is none."""
    rows = select(db, (int, bytes, bytes), "SELECT seq, hash, entry FROM journal ORDER BY seq DESC LIMIT 1")
    if not rows:
        return keys.genesis, 0
    seq, hash_, data = rows[0]
    return Position(seq, hash_), _checked(keys, seq, hash_, data).time_ns


def position_at(db: apsw.Connection, keys: Keys, seq: int) -> Position | None:
    """The position that entry `seq` led to; genesis for 0."""
    if seq == 0:
        return keys.genesis
    rows = select(db, (bytes,), "SELECT hash FROM journal WHERE seq = ?", (seq,))
    return Position(seq, rows[0][0]) if rows else None


def epoch_at(db: apsw.Connection, keys: Keys) -> int:
    """The epoch of the last entry; 0 while there is none."""
    rows = select(db, (int, bytes, bytes), "SELECT seq, hash, entry FROM journal ORDER BY seq DESC LIMIT 1")
    return _checked(keys, *rows[0]).epoch if rows else 0


def epoch_entry(db: apsw.Connection, keys: Keys, after_epoch: int = -1) -> tuple[Entry, bytes] | None:
    """The newest entry that began an epoch later than `after_epoch`, and its bytes; None if there is none."""
    seq = _SEQ_MAX
    # Entries ascend by epoch, so it is enough to go back to the first that is of an earlier one than the last.
    while rows := select(
        db,
        (int, bytes, bytes),
        "SELECT seq, hash, entry FROM journal WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        (seq, _PAGE),
    ):
        for seq, hash_, data in rows:
            entry = _checked(keys, seq, hash_, data)
            if entry.epoch <= max(after_epoch, 0):
                return None
            if isinstance(entry.body, NewEpoch):
                return entry, data
    return None


def entries_after(db: apsw.Connection, keys: Keys, seq: int, until_seq: int) -> list[tuple[Entry, bytes, int]]:
    """Entries after `seq`, up to `until_seq`: a page of (entry, bytes, address), in order."""
    statement = "SELECT seq, hash, entry, address FROM journal WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
    rows = select(db, (int, bytes, bytes, int), statement, (seq, until_seq, _PAGE))
    return [(_checked(keys, row[0], row[1], row[2]), row[2], _address(row[3])) for row in rows]


def entry_at(db: apsw.Connection, keys: Keys, seq: int) -> tuple[bytes, int] | None:
    """The bytes of entry `seq` and their address; None if there is no such entry."""
    rows = select(db, (bytes, bytes, int), "SELECT hash, entry, address FROM journal WHERE seq = ?", (seq,))
    for hash_, data, address in rows:
        _checked(keys, seq, hash_, data)
        return data, _address(address)
    return None


def entries_within(db: apsw.Connection, address: int, length: int) -> list[tuple[int, bytes]]:
    """Address and bytes of each journal entry that is stored in a range; unchecked."""
    return [
        (_address(row[0]), row[1])
        for row in select(
            db,
            (int, bytes),
            "SELECT address, entry FROM journal WHERE address BETWEEN ? AND ? ORDER BY address",
            (_column(address), _column(address + length - 1)),
        )
    ]


def append(keys: Keys, body: Body, *, previous: Position, epoch: int, time_ns: int) -> tuple[bytes, Position]:
    """The bytes of the entry after `previous`, and the position it leads to. Nothing is written yet: see `moved`."""
    entry = Entry(seq=previous.seq + 1, epoch=epoch, time_ns=time_ns, previous=previous.hash, body=body)
    data = encode_entry(entry)
    return data, Position(entry.seq, keys.entry_hash(data))


def current(db: apsw.Connection, ref: str) -> Move | None:
    """What `ref` names now; None if there is no such ref."""
    rows = select(db, (str, int, bytes), "SELECT name, seq, snapshot FROM refs WHERE name = ?", (ref,))
    return Move(*rows[0]) if rows else None


def check_unmoved(db: apsw.Connection, ref: str, expected: bytes) -> None:
    """ConflictError unless `ref` names the snapshot `expected`, or, if that is empty, is new."""
    move = current(db, ref)
    found = move.snapshot if move else b""
    if found == expected:
        return
    before = f"snapshot {expected[:6].hex()}" if expected else "no snapshot"
    after = f"snapshot {found[:6].hex()}" if found else "no snapshot"
    raise ConflictError(
        f"ref {ref!r} moved from {before} to {after} during the push",
        code="ref-moved",
        hint="run the push again: what it stored stays, so it is quick",
        ref=ref,
        expected=expected.hex() or None,
        found=found.hex() or None,
    )


def moved(db: apsw.Connection, *, data: bytes, position: Position, address: int, ref: str, snapshot: Snapshot) -> None:
    """Write an entry and move its ref. Durable, and visible to others, with the transaction."""
    stats = snapshot.statistics
    entered(db, data=data, position=position, address=address)
    db.execute(
        "INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?)",
        (ref, position.seq, snapshot.time_ns, snapshot.id, stats.logical_bytes, stats.page_bytes),
    )
    db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", (ref, position.seq, snapshot.id))
    visited(db, ref, snapshot.time_ns)


def entered(db: apsw.Connection, *, data: bytes, position: Position, address: int) -> None:
    """Write an entry, and nothing that follows from it."""
    db.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (position.seq, position.hash, data, _column(address)))


def forgotten(db: apsw.Connection, forget: Forget) -> None:
    """Do what an entry says: its snapshots are not kept any more, and a ref without any is gone."""
    prepare_removals(db)
    ref = forget.ref
    followers: set[int] = set()
    for seq in forget.seqs:
        db.execute("DELETE FROM moves WHERE ref = ? AND seq = ?", (ref, seq))
        db.execute("DELETE FROM relinked WHERE ref = ? AND seq = ?", (ref, seq))
        followers.discard(seq)
        followers.update(move.seq for move in _moves(db, "ref = ? AND seq > ? ORDER BY seq LIMIT 1", (ref, seq)))
    for seq in followers:
        older = _moves(db, "ref = ? AND seq < ? ORDER BY seq DESC LIMIT 1", (ref, seq))
        before = older[0].snapshot if older else b""
        db.execute("INSERT OR REPLACE INTO relinked VALUES (?, ?, ?)", (ref, seq, before))
    if not _moves(db, "ref = ? LIMIT 1", (ref,)):
        db.execute("DELETE FROM refs WHERE name = ?", (ref,))
        db.execute("DELETE FROM visits WHERE ref = ?", (ref,))


def moves_of(db: apsw.Connection, ref: str) -> list[Move]:
    """Every snapshot of `ref` that is kept, oldest first; NotFoundError if there is no such ref."""
    check_known(db, ref)
    return _moves(db, "ref = ? ORDER BY seq", (ref,))


def all_kept(db: apsw.Connection, keys: Keys) -> list[Snapshot]:
    """Every snapshot that is kept, of whatever ref, oldest first; one that several moves name once."""
    moves = {move.snapshot: move for move in _moves(db, "1 ORDER BY seq", ())}
    return [snapshot_at(db, keys, move.seq, move.snapshot) for move in moves.values()]


def entry_ends(db: apsw.Connection, keys: Keys, until_ns: int) -> dict[int, int]:
    """Of each segment with entries of the journal up to that time, the offset behind the last of them."""
    seq = _SEQ_MAX
    while rows := select(
        db,
        (int, bytes, bytes),
        "SELECT seq, hash, entry FROM journal WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        (seq, _PAGE),
    ):
        seq, hash_, data = next((row for row in rows if _checked(keys, *row).time_ns <= until_ns), rows[-1])
        if _checked(keys, seq, hash_, data).time_ns <= until_ns:
            break
    else:
        return {}
    statement = "SELECT max(address + length(entry)) FROM journal WHERE seq <= ? GROUP BY address >> ?"
    ends = [_address(row[0]) + MAC_BYTES for row in select(db, (int,), statement, (seq, OFFSET_BITS))]
    return {segment_of(end - 1): offset_of(end - 1) + 1 for end in ends}


def _column(address: int) -> int:
    """An address as its column has it: SQLite's integers have a sign (docs/formats/journal.md)."""
    return address - (1 << 64) if address >> 63 else address


def _address(column: int) -> int:
    return column % (1 << 64)


def clear(db: apsw.Connection) -> None:
    """Forget every entry and all that follows from them, to do them again."""
    for table in ("journal", "moves", "refs"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - literals
    if has_removals(db):
        db.execute("DELETE FROM relinked")


def visited(db: apsw.Connection, ref: str, time_ns: int) -> None:
    """Remember that `ref` was pushed to, whether or not anything had changed."""
    db.execute("INSERT OR REPLACE INTO visits VALUES (?, ?)", (ref, time_ns))


def commits(db: apsw.Connection, keys: Keys, after_seq: int) -> list[tuple[str, int, Snapshot]]:
    """(ref, seq, snapshot) of the commits after entry `after_seq` that are kept, oldest first; a page of them."""
    page: list[tuple[str, int, Snapshot]] = []
    while not page and (found := committed_after(db, keys, after_seq)):
        page = [one for one in found if _moves(db, "ref = ? AND seq = ?", (one[0], one[1]))]
        after_seq = found[-1][1]
    return page


def committed_after(db: apsw.Connection, keys: Keys, after_seq: int) -> list[tuple[str, int, Snapshot]]:
    """The same by the chain alone, whether or not they are kept."""
    found: list[tuple[str, int, Snapshot]] = []
    seq = after_seq
    statement = "SELECT seq, hash, entry FROM journal WHERE seq > ? ORDER BY seq LIMIT ?"
    while not found and (rows := select(db, (int, bytes, bytes), statement, (seq, _PAGE))):
        for number, hash_, data in rows:
            if number != seq + 1:
                raise _damaged(f"journal entry {seq + 1} is missing")
            seq = number
            body = _checked(keys, seq, hash_, data).body
            if isinstance(body, Commit):
                found.append((body.ref, seq, _snapshot(keys, seq, body)))
    return found


def snapshot_at(db: apsw.Connection, keys: Keys, seq: int, expected_id: bytes) -> Snapshot:
    """The snapshot that journal entry `seq` committed, checked against the entry's hash and its own id."""
    rows = select(db, (bytes, bytes), "SELECT hash, entry FROM journal WHERE seq = ?", (seq,))
    if not rows:
        raise _damaged(f"journal entry {seq} is missing")
    body = _checked(keys, seq, *rows[0]).body
    if not isinstance(body, Commit) or body.snapshot_id != expected_id:
        raise _damaged(f"journal entry {seq} is not the commit of snapshot {expected_id[:6].hex()}")
    return _snapshot(keys, seq, body)


def is_kept(db: apsw.Connection, ref: str, seq: int) -> bool:
    """Whether the snapshot that entry `seq`, a commit of `ref`, made is kept."""
    return bool(_moves(db, "ref = ? AND seq = ?", (ref, seq)))


def kept_at(db: apsw.Connection, keys: Keys, seq: int) -> Snapshot | None:
    """The snapshot that entry `seq` committed, if it is kept."""
    found = entry_at(db, keys, seq)
    body = decode_entry(found[0]).body if found is not None else None
    return _snapshot(keys, seq, body) if isinstance(body, Commit) and is_kept(db, body.ref, seq) else None


def base_of(db: apsw.Connection, ref: str, seq: int) -> int:
    """The commit before entry `seq` whose snapshot is kept and resembles that of `ref` most; 0 if there is none."""
    for where, values in (("ref = ? AND seq < ?", (ref, seq)), ("seq < ?", (seq,))):
        found = _moves(db, f"{where} ORDER BY seq DESC LIMIT 1", values)
        if found:
            return found[0].seq
    return 0


def by_id(db: apsw.Connection, keys: Keys, id_: bytes) -> tuple[int, Snapshot] | None:
    """The snapshot whose id begins with `id_`, of whatever ref, and the entry that committed it first."""
    high = id_ + b"\xff" * (32 - len(id_))
    rows = _moves(db, "snapshot BETWEEN ? AND ? ORDER BY seq LIMIT 1", (id_, high))
    return (rows[0].seq, snapshot_at(db, keys, rows[0].seq, rows[0].snapshot)) if rows else None


def check_known(db: apsw.Connection, ref: str) -> None:
    """NotFoundError unless there is such a ref."""
    if current(db, ref) is None:
        names = [name for (name,) in select(db, (str,), "SELECT name FROM refs ORDER BY name LIMIT 6")]
        others = " and others" if len(names) > 5 else ""
        known = f"it has {', '.join(names[:5])}{others}" if names else "it has none yet"
        raise NotFoundError(f"the volume has no ref {ref!r}", code="ref-not-found", hint=known, ref=ref)


def resolve(db: apsw.Connection, keys: Keys, ref: str, when: When) -> Snapshot:
    """The snapshot of `ref` that `when` means; NotFoundError if there is none."""
    check_known(db, ref)
    match when:
        case Back(count):
            found = _back(db, keys, ref, count)
        case AtTime(time_ns):
            found = _at_time(db, keys, ref, time_ns)
        case ById(prefix):
            rows = _by_id(db, ref, prefix)
            found = snapshot_at(db, keys, rows[0].seq, rows[0].snapshot) if rows else None
    if found is None:
        raise NotFoundError(
            f"ref {ref!r} has no snapshot {when}",
            code="snapshot-not-found",
            hint="`packetfs log` lists its snapshots",
            ref=ref,
            when=str(when),
        )
    return found


def log(db: apsw.Connection, keys: Keys, ref: str, before_seq: int, count: int) -> list[tuple[int, Snapshot]]:
    """At most `count` (seq, snapshot) of `ref` before entry `before_seq`, newest first.

    Rows of `moves` have no checksum, snapshots have: each names its parent, so that a row that was lost, or belongs to
    another ref, shows. Where the parent was forgotten, `relinked` says which one comes before.
    """
    moves = _moves(db, "ref = ? AND seq < ? ORDER BY seq DESC LIMIT ?", (ref, before_seq, count + 1))
    found = [(move.seq, snapshot_at(db, keys, move.seq, move.snapshot)) for move in moves]
    newer = _moves(db, "ref = ? AND seq >= ? ORDER BY seq LIMIT 1", (ref, before_seq))
    relinked = _relinked(db, ref, newer[0].seq if newer else _SEQ_MAX, len(found) + 1)
    if newer:
        expected = relinked.get(newer[0].seq, snapshot_at(db, keys, newer[0].seq, newer[0].snapshot).parent)
    else:
        newest = current(db, ref)
        expected = newest.snapshot if newest else b""
    for seq, snapshot in found:
        if snapshot.id != expected:
            raise _damaged(f"the moves of ref {ref!r} do not follow from the journal")
        expected = relinked.get(seq, snapshot.parent)
    if len(found) <= count and expected:
        raise _damaged(f"the first moves of ref {ref!r} are missing")
    return found[:count]


def _relinked(db: apsw.Connection, ref: str, up_to_seq: int, count: int) -> dict[int, bytes]:
    """At most `count` moves of `ref` whose parents were forgotten, and what comes before them; the newest."""
    if not has_removals(db):
        return {}
    statement = "SELECT seq, before FROM relinked WHERE ref = ? AND seq <= ? ORDER BY seq DESC LIMIT ?"
    return dict(select(db, (int, bytes), statement, (ref, up_to_seq, count)))


def _back(db: apsw.Connection, keys: Keys, ref: str, count: int) -> Snapshot | None:
    before_seq = _SEQ_MAX
    while page := log(db, keys, ref, before_seq, min(count + 1, _PAGE)):
        if count < len(page):
            return page[count][1]
        count -= len(page)
        before_seq = page[-1][0]
    return None


def _at_time(db: apsw.Connection, keys: Keys, ref: str, time_ns: int) -> Snapshot | None:
    newer = _moves(db, "ref = ? AND time_ns > ? ORDER BY seq LIMIT 1", (ref, time_ns))
    page = log(db, keys, ref, newer[0].seq if newer else _SEQ_MAX, 1)
    if page and page[0][1].time_ns > time_ns:
        raise _damaged(f"the times of the moves of ref {ref!r} are not those of the journal")
    return page[0][1] if page else None


def all_refs(db: apsw.Connection, keys: Keys) -> list[Ref]:
    """Every ref, by name."""
    rows = select(
        db,
        (str, int, bytes, int),
        "SELECT name, seq, snapshot, coalesce(time_ns, 0) FROM refs LEFT JOIN visits ON ref = name ORDER BY name",
    )
    return [Ref(name, snapshot_at(db, keys, seq, id_), seq, visited_ns) for name, seq, id_, visited_ns in rows]


def verify_chain(db: apsw.Connection, keys: Keys) -> Position:
    """Walk the journal from its first entry; the position it ends at. DamagedError if anything does not follow.

    Checked are every entry's hash, its link to the one before, the order of epochs and times, every snapshot's id, and
    that `refs`, `moves` and what was removed are what the chain says.
    """
    position, time_ns, epoch = keys.genesis, 0, 0
    named: dict[str, dict[int, bytes]] = {}
    relinked: set[tuple[str, int]] = set()
    gone: dict[int, bytes] = {}
    for seq, hash_, data in _entries(db):
        entry = _checked(keys, seq, hash_, data)
        if entry.seq != position.seq + 1 or entry.previous != position.hash:
            raise _damaged(f"journal entry {seq} does not continue entry {position.seq}")
        if entry.time_ns <= time_ns or entry.epoch < epoch:
            raise _damaged(f"journal entry {seq} is older than the one before it")
        match entry.body:
            case Commit() as commit:
                kept = named.setdefault(commit.ref, {})
                _verify_commit(keys, entry, commit, next(reversed(kept.values()), b""))
                kept[seq] = commit.snapshot_id
            case Forget() as forget:
                _verify_forget(seq, forget, named, relinked)
            case Reclaim() as reclaim:
                for segment, ranges in reclaim.ranges:
                    gone[segment] = kernel.merge_ranges(gone.get(segment, b""), ranges)
        position, time_ns, epoch = Position(seq, hash_), entry.time_ns, entry.epoch
    _verify_rows(db, named, relinked, gone)
    return position


def _verify_commit(keys: Keys, entry: Entry, commit: Commit, before: bytes) -> None:
    snapshot = _snapshot(keys, entry.seq, commit)
    if commit.expected != before or snapshot.parent != commit.expected:
        raise _damaged(f"journal entry {entry.seq} moves ref {commit.ref!r} from where it was not")


def _verify_forget(
    seq: int, forget: Forget, named: dict[str, dict[int, bytes]], relinked: set[tuple[str, int]]
) -> None:
    kept = named.get(forget.ref, {})
    newest = next(reversed(kept), 0)
    if not forget.seqs or not kept.keys() >= set(forget.seqs):
        raise _damaged(f"journal entry {seq} forgets snapshots of ref {forget.ref!r} that are not there")
    left = {one: id_ for one, id_ in kept.items() if one not in forget.seqs}
    if left and newest not in left:
        raise _damaged(f"journal entry {seq} forgets the newest snapshot of ref {forget.ref!r} and keeps older ones")
    went = False
    for one in kept:
        if one in left and went:
            relinked.add((forget.ref, one))
        went = one not in left
        if went:
            relinked.discard((forget.ref, one))
    named[forget.ref] = left
    if not left:
        del named[forget.ref]


def _verify_rows(
    db: apsw.Connection, named: dict[str, dict[int, bytes]], relinked: set[tuple[str, int]], gone: dict[int, bytes]
) -> None:
    """DamagedError unless the tables say what the chain does."""
    rows = {
        name: (seq, id_) for name, seq, id_ in select(db, (str, int, bytes), "SELECT name, seq, snapshot FROM refs")
    }
    latest = {name: next(reversed(kept.items())) for name, kept in named.items()}
    if rows != latest:
        wrong = sorted(name for name in rows.keys() | latest.keys() if rows.get(name) != latest.get(name))
        raise _damaged(f"the refs {', '.join(wrong)} are not where the journal says")
    moves = {(move.ref, move.seq): move.snapshot for move in _moves(db, "1", ())}
    expected = {(ref, seq): id_ for ref, kept in named.items() for seq, id_ in kept.items()}
    for ref, seq in sorted(expected.keys() | moves.keys()):
        if (ref, seq) not in expected:
            raise _damaged("there are moves of refs that no entry of the journal made")
        if moves.get((ref, seq)) != expected[ref, seq]:
            raise _damaged(f"the move of ref {ref!r} by entry {seq} is missing")
    links: dict[tuple[str, int], bytes] = {}
    ranges: dict[int, bytes] = {}
    if has_removals(db):
        found = select(db, (str, int, bytes), "SELECT ref, seq, before FROM relinked")
        links = {(ref, seq): before for ref, seq, before in found}
        ranges = dict(select(db, (int, bytes), "SELECT segment, ranges FROM reclaimed"))
    befores: dict[tuple[str, int], bytes] = {}
    for ref, kept in named.items():
        for before, seq in zip((b"", *kept.values()), kept, strict=False):
            if (ref, seq) in relinked:
                befores[ref, seq] = before
    if links != befores:
        raise _damaged("what comes before a move whose parent was forgotten is not what the journal says")
    if ranges != gone:
        raise _damaged("the ranges that are reclaimed are not those that the journal says")


def _entries(db: apsw.Connection) -> Iterator[tuple[int, bytes, bytes]]:
    seq = 0
    statement = "SELECT seq, hash, entry FROM journal WHERE seq > ? ORDER BY seq LIMIT ?"
    while rows := select(db, (int, bytes, bytes), statement, (seq, _PAGE)):
        yield from ((row[0], row[1], row[2]) for row in rows)
        seq = rows[-1][0]


def _moves(db: apsw.Connection, where: str, values: tuple[str | int | bytes, ...]) -> list[Move]:
    statement = f"SELECT ref, seq, snapshot FROM moves WHERE {where}"  # noqa: S608 - `where` is always a literal here
    return [Move(*row) for row in select(db, (str, int, bytes), statement, values)]


def _by_id(db: apsw.Connection, ref: str, prefix: str) -> list[Move]:
    """The newest move of `ref` to a snapshot whose id begins with `prefix`."""
    low = bytes.fromhex(prefix.ljust(64, "0"))
    high = bytes.fromhex(prefix.ljust(64, "f"))
    found = _moves(db, "snapshot BETWEEN ? AND ? ORDER BY seq DESC", (low, high))
    own = [move for move in found if move.ref == ref]
    if len({move.snapshot for move in own}) > 1:
        raise UsageError(
            f"more than one snapshot of {ref!r} begins with {prefix}",
            code="ambiguous-id",
            hint="give more digits: " + ", ".join(sorted({move.snapshot.hex()[:16] for move in own})[:5]),
            ref=ref,
            prefix=prefix,
        )
    if not own and found:
        raise NotFoundError(
            f"snapshot {prefix} is not one of ref {ref!r}",
            code="snapshot-not-found",
            hint=f"it belongs to {found[0].ref!r}",
            ref=ref,
            when=prefix,
        )
    return own


def _checked(keys: Keys, seq: int, hash_: bytes, data: bytes) -> Entry:
    if keys.entry_hash(data) != hash_:
        raise _damaged(f"journal entry {seq} does not have its hash")
    entry = decode_entry(data)
    if entry.seq != seq:
        raise _damaged(f"journal entry {entry.seq} stands in the place of entry {seq}")
    return entry


def _snapshot(keys: Keys, seq: int, commit: Commit) -> Snapshot:
    if keys.snapshot_id(commit.snapshot) != commit.snapshot_id:
        raise DamagedError(
            f"snapshot {commit.snapshot_id[:6].hex()} of journal entry {seq} does not have its id",
            code="snapshot-damaged",
            seq=seq,
        )
    return decode_snapshot(commit.snapshot, commit.snapshot_id)


def _damaged(message: str) -> DamagedError:
    return DamagedError(
        message,
        code="journal-damaged",
        hint="`packetfs rebuild` recovers it from the segments",
    )
