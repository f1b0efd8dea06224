"""What an origin sends to a copy that follows its journal. It only reads, and waits for nobody.

Entries go in their order, each commit with what turns a snapshot that the copy has into its own. A snapshot that has
been forgotten since is not sent, its bytes may be gone: its entry goes bare, and says so by not ending the group; the
group ends when the entry that forgets it has gone too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packetfs import kernel
from packetfs.errors import ConflictError
from packetfs.format.entry import Commit, Entry, Forget, Position
from packetfs.format.snapshot import decode_snapshot
from packetfs.volume import refs, standing
from packetfs.wire import protocol

if TYPE_CHECKING:
    from packetfs.volume import Volume

__all__ = ["Step", "feed", "groups", "period_s"]

_ENTRIES_MAX: Final = 1024  # in one answer, which is durable at the copy before it asks for more
_BYTES_MAX: Final = 256 << 20
_LAG_ENTRIES_MAX: Final = 4096  # of those that are not sent yet, how many are added up
_BUSY_S: Final = 2.0
_PERIOD_BUSY_S: Final = 0.005
_PERIOD_IDLE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Step:
    """What is sent for one entry."""

    entry: Entry
    data: bytes
    address: int
    carries: bool
    ends: bool


def groups(
    entries: Sequence[tuple[Entry, bytes, int]], kept: frozenset[int], arrived: frozenset[int], waiting: set[int]
) -> Iterator[Step]:
    """What is sent for each of `entries`: (entry, bytes, address).

    `kept` are the commits whose snapshots are kept, `arrived` those that the copy has. `waiting` are commits that went
    bare and are not forgotten yet; it is brought up to date.
    """
    for entry, data, address in entries:
        carries = False
        match entry.body:
            case Commit():
                if entry.seq not in kept:
                    waiting.add(entry.seq)
                else:
                    carries = entry.seq not in arrived
            case Forget(seqs=seqs):
                waiting.difference_update(seqs)
        yield Step(entry, data, address, carries, ends=not waiting)


def period_s(quiet_s: float) -> float:
    """How long to wait between two looks at the journal, when nothing was committed for `quiet_s`."""
    return _PERIOD_BUSY_S if quiet_s < _BUSY_S else _PERIOD_IDLE_S


def feed(volume: "Volume", said: protocol.Follow) -> Iterator[protocol.Message]:
    """The answer to FOLLOW: entries after its position, with what they carry. ConflictError if that is not ours."""
    check_position(volume, Position(said.seq, said.hash))
    arrived = frozenset(memoryview(said.arrived).cast("Q"))
    seq, count, sent_bytes = said.seq, 0, 0
    waiting: set[int] = set()
    is_enough = False
    while not is_enough and (page := _page(volume, seq)):
        entries, kept = page
        for step in groups(entries, kept, arrived, waiting):
            outgoing = kernel.Outgoing(volume.space)
            yield _planned(volume, step, outgoing)
            while (body := outgoing.literals()) is not None:
                yield protocol.Literals(*body)
            while (part := outgoing.tree()) is not None:
                yield protocol.Tree(part)
            seq, count = step.entry.seq, count + 1
            sent_bytes += outgoing.literal_bytes
            is_enough = step.ends and (count >= _ENTRIES_MAX or sent_bytes >= _BYTES_MAX)
            if is_enough:
                break
    yield followed(volume, seq)


def _page(volume: "Volume", seq: int) -> tuple[list[tuple[Entry, bytes, int]], frozenset[int]] | None:
    """Some entries after `seq`, and which of them are commits that are kept; None if there are none."""
    with volume.journal.reading() as db:
        head, _ = refs.last_entry(db, volume.keys)
        entries = refs.entries_after(db, volume.keys, seq, head.seq)
        commits = [(entry.body.ref, entry.seq) for entry, _, _ in entries if isinstance(entry.body, Commit)]
        kept = frozenset(at for ref, at in commits if refs.is_kept(db, ref, at))
    volume.admit_new()
    return (entries, kept) if entries else None


def followed(volume: "Volume", seq: int) -> protocol.Followed:
    """What there is after entry `seq`."""
    with volume.journal.reading() as db:
        head, _ = refs.last_entry(db, volume.keys)
        left: list[Entry] = []
        while len(left) < _LAG_ENTRIES_MAX:
            page = refs.entries_after(db, volume.keys, left[-1].seq if left else seq, head.seq)
            if not page:
                break
            left += [entry for entry, _, _ in page]
    return protocol.Followed(
        seq=head.seq,
        hash=head.hash,
        bytes=sum(_new_bytes(entry) for entry in left),
        oldest_ns=left[0].time_ns if left else 0,
        now_ns=volume.env.now_ns(),
    )


def check_followed(volume: "Volume") -> None:
    """RefusedError for an origin that is fenced: who follows it has to follow the new one."""
    found = volume.standing
    if found is not None and found.role == "fenced":
        raise standing.refusal(found)


def check_position(volume: "Volume", position: Position) -> None:
    """ConflictError unless the journal goes on from `position`."""
    found = volume.at(position.seq)
    if found == position:
        return
    last = volume.position
    raise ConflictError(
        f"the copy is at position {position}, which is not in the journal here: "
        + (f"entry {position.seq} is {found}" if found is not None else f"it ends at {last}"),
        code="diverged",
        hint="the two have gone different ways since one of them was promoted, restored or rebuilt: see "
        "docs/guides/replicate.md",
        seq=position.seq,
        hash=position.hash.hex(),
        origin_seq=last.seq,
        origin_hash=last.hash.hex(),
    )


def _planned(volume: "Volume", step: Step, outgoing: kernel.Outgoing) -> protocol.Entry:
    base = 0
    body = step.entry.body
    if step.carries and isinstance(body, Commit):
        with volume.journal.reading() as db:
            base = refs.base_of(db, body.ref, step.entry.seq)
            before = refs.kept_at(db, volume.keys, base) if base else None
        snapshot = decode_snapshot(body.snapshot, body.snapshot_id)
        root = before.root if before is not None else None
        outgoing.plan(snapshot.root, root, fresh=None, within=b"", data=True)
    return protocol.Entry(address=step.address, data=step.data, carries=step.carries, base=base, ends=step.ends)


def _new_bytes(entry: Entry) -> int:
    if not isinstance(entry.body, Commit):
        return 0
    numbers = decode_snapshot(entry.body.snapshot, entry.body.snapshot_id).statistics
    return numbers.new_bytes + numbers.page_bytes
