"""Clone: make a replica of another machine's volume at a place of one's own, or bring one up to date."""

from collections.abc import Callable
from dataclasses import dataclass

from packetfs.format.snapshot import Snapshot
from packetfs.sync.session import Session
from packetfs.sync.transfer import fetch_absent

__all__ = ["CloneReport", "clone"]


@dataclass(frozen=True, slots=True)
class CloneReport:
    """What the replica holds now."""

    refs: int
    snapshots: int


def clone(session: Session, *, told: Callable[[str, Snapshot], None] | None = None) -> CloneReport:
    """Bring every ref here: its tree, or, if the replica is whole, every snapshot with all that it holds.

    Killed at any instant it can be run again and goes on. `told` hears of each snapshot that has arrived.
    """
    count = 0
    kept: set[tuple[str, int]] = set()
    refs = session.refs()
    for ref in refs:
        if not session.replica.is_whole:
            session.receive(ref.name, "latest", b"", data=False)
            count += 1
            continue
        # Oldest first: each is sent as what differs from the one before.
        for seq, snapshot in reversed(list(session.log_with_seq(ref.name))):
            if session.replica.kept(snapshot.id) is None:
                session.receive(ref.name, snapshot.name, b"", data=True)
            fetch_absent(session, snapshot, b"")
            session.replica.moved(ref.name, seq, snapshot)
            kept.add((ref.name, seq))
            count += 1
            if told is not None:
                told(ref.name, snapshot)
    session.replica.keep_moves(kept)
    return CloneReport(len(refs), count)
