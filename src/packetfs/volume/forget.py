"""Snapshots and refs are let go: a journal entry says so, and nothing else happens. `gc.py` gives their space back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw

from packetfs import kernel
from packetfs.errors import ConflictError, NotFoundError, RefusedError
from packetfs.format.entry import Forget
from packetfs.format.snapshot import Snapshot
from packetfs.format.when import When
from packetfs.volume import refs, reserve
from packetfs.volume.commit import enter
from packetfs.volume.retention import Candidate, Rules, decide

if TYPE_CHECKING:
    from packetfs.volume.volume import Volume

__all__ = ["Choice", "choose", "find", "forget", "freed_bytes", "remove"]

_SEQS_MAX: Final = 4096  # 9 bytes each at most: an entry has 64 KiB
_Check = Callable[[Sequence[refs.Move], Sequence[int]], None]
"""Raises if these snapshots must not go: all moves of the ref that are kept, and those that are to go now."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is decided of a snapshot of a ref."""

    ref: str
    seq: int
    snapshot: Snapshot
    reasons: tuple[str, ...]
    """Why it is kept; empty: it goes."""


def choose(volume: "Volume", ref: str, rules: Rules) -> list[Choice]:
    """What `rules` say of each snapshot of `ref`, newest first; NotFoundError if there is no such ref."""
    with volume.journal.reading() as db:
        moves = refs.moves_of(db, ref)
        found = {move.seq: refs.snapshot_at(db, volume.keys, move.seq, move.snapshot) for move in moves}
    candidates = [Candidate(seq, _time_ns(snapshot), frozenset(snapshot.tags)) for seq, snapshot in found.items()]
    return [
        Choice(ref, one.seq, found[one.seq], one.reasons)
        for one in decide(candidates, rules, now_ns=volume.env.now_ns())
    ]


def find(volume: "Volume", ref: str, when: When) -> Choice:
    """The snapshot of `ref` that `when` means, as one that goes; RefusedError if it is the newest."""
    with volume.journal.reading() as db:
        snapshot = refs.resolve(db, volume.keys, ref, when)
        moves = refs.moves_of(db, ref)
    if snapshot.id == moves[-1].snapshot:
        raise _newest(ref, snapshot.id)
    return Choice(ref, next(move.seq for move in moves if move.snapshot == snapshot.id), snapshot, ())


def forget(volume: "Volume", ref: str, seqs: Sequence[int]) -> None:
    """Keep these snapshots of `ref`, named by the entries that committed them, no longer.

    RefusedError, and nothing is forgotten, if the one that the ref names is among them.
    """

    def check(moves: Sequence[refs.Move], going: Sequence[int]) -> None:
        if moves[-1].seq in seqs:
            raise _newest(ref, moves[-1].snapshot)
        missing = set(going) - {move.seq for move in moves}
        if missing:
            raise NotFoundError(
                f"ref {ref!r} has no snapshot of journal entry {min(missing)} any more",
                code="snapshot-not-found",
                hint="another process has forgotten it: run it again",
                ref=ref,
            )

    _enter(volume, ref, sorted(seqs), check)


def remove(volume: "Volume", ref: str, *, newest: int | None = None) -> int:
    """Forget `ref` with all of its snapshots; how many there were.

    ConflictError if it moved meanwhile: since it was last moved by entry `newest`, if that is given.
    """
    with volume.journal.reading() as db:
        seqs = [move.seq for move in refs.moves_of(db, ref)]

    def check(moves: Sequence[refs.Move], _: Sequence[int]) -> None:
        if moves[-1].seq != (seqs[-1] if newest is None else newest):
            raise ConflictError(
                f"ref {ref!r} moved while it was to be removed",
                code="ref-moved",
                hint="look at what it names now, and run it again if it is still to go",
                ref=ref,
            )

    _enter(volume, ref, seqs, check)
    return len(seqs)


def freed_bytes(volume: "Volume", going: Sequence[tuple[str, int]]) -> int:
    """Bytes that nothing but these snapshots, (ref, seq of the commit), needs; what they share is counted once.

    DamagedError if a page of any snapshot is damaged: what it points to is not known.
    """
    mark, gone = kernel.Mark(volume.space), set(going)
    roots: dict[bool, list[bytes]] = {True: [], False: []}
    for ref, seq, snapshot in volume.snapshots():
        roots[(ref, seq) in gone].append(snapshot.root)
    mark.trees(roots[False])
    kept_bytes = mark.reached_bytes
    mark.trees(roots[True])
    return mark.reached_bytes - kept_bytes


def _enter(volume: "Volume", ref: str, seqs: Sequence[int], check: _Check) -> None:
    """The oldest first: killed in between, the ref has lost what was to go anyway."""
    volume.check_writable()
    with reserve.spent(volume.path):
        for start in range(0, len(seqs), _SEQS_MAX):
            _enter_one(volume, Forget(ref=ref, seqs=list(seqs[start : start + _SEQS_MAX])), check)


def _enter_one(volume: "Volume", body: Forget, check: _Check) -> None:
    def decide(db: apsw.Connection) -> Forget:
        check(refs.moves_of(db, body.ref), body.seqs)
        return body

    enter(volume, decide, lambda db, _: refs.forgotten(db, body))


def _newest(ref: str, snapshot: bytes) -> RefusedError:
    return RefusedError(
        f"snapshot {snapshot[:6].hex()} is the newest of ref {ref!r}, which always keeps one",
        code="newest-snapshot",
        hint=f"`packetfs rm` removes the ref {ref!r} with all of its snapshots",
        ref=ref,
    )


def _time_ns(snapshot: Snapshot) -> int:
    return snapshot.time_ns if snapshot.source_time_ns is None else snapshot.source_time_ns
