"""What this copy of a volume is: its origin, as a rule; a full replica that follows one; or an origin that was fenced.

Only an origin is written to. The row is read inside each transaction that writes, so that whoever is promoted elsewhere
stops the commits of processes that have the volume open. No row and no table: an origin. Which epochs a copy may begin
follows from its `number`: copies of one volume have different ones, so that no two of them ever begin the same.
"""

from dataclasses import dataclass
from typing import Final, Literal

import apsw

from packetfs.errors import DamagedError, RefusedError
from packetfs.format.address import EPOCH_MAX
from packetfs.format.entry import Position
from packetfs.volume.journal import drop_standing, has_standing, prepare_standing, select

__all__ = [
    "NUMBERS",
    "ORIGIN_NUMBER",
    "Arrived",
    "Role",
    "Standing",
    "arrive",
    "arrived",
    "check_origin",
    "clear_arrived",
    "current",
    "enter",
    "give_number",
    "next_epoch",
    "now_origin",
    "number_in",
    "refusal",
]

NUMBERS: Final = 64
"""Of every so many epochs each copy has one."""
ORIGIN_NUMBER: Final = 1  # of a volume that was never a replica: what `rebuild` begins

Role = Literal["replica", "fenced"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a copy that is not its volume's origin."""

    role: Role
    origin: str
    """The location that it follows, or that of who fenced it; empty if that is not known."""
    number: int
    epoch: int
    """Fenced: the epoch that began elsewhere."""
    seq: int = 0
    """Where the origin's journal stood when it was last heard of."""
    time_ns: int = 0
    """Journal time of the oldest entry that it had and this copy had not; 0 if there was none."""
    bytes: int = 0
    """Content of what was missing here then."""
    heard_ns: int = 0
    """When that was, by the clock here."""

    @property
    def lag_s(self) -> float:
        """How long ago the oldest entry that was missing had been committed, when the origin was last heard of."""
        return max(0.0, (self.heard_ns - self.time_ns) / 1e9) if self.time_ns else 0.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A snapshot that is here whole before its entry is."""

    seq: int
    root: bytes
    root_digest: bytes


def current(db: apsw.Connection) -> Standing | None:
    """What this copy is; None: the origin."""
    if not has_standing(db):
        return None
    kinds = (str, str, int, int, int, int, int, int)
    rows = select(db, kinds, "SELECT role, origin, number, epoch, seq, time_ns, bytes, heard_ns FROM standing")
    if len(rows) != 1 or rows[0][0] not in ("replica", "fenced"):
        raise DamagedError(
            "journal.db does not say what this copy of the volume is",
            code="journal-damaged",
            hint="make the replica again with `packetfs replicate`",
        )
    return Standing(*rows[0])


def enter(db: apsw.Connection, standing: Standing) -> None:
    """Be that from now on."""
    prepare_standing(db)
    db.execute("DELETE FROM standing")
    row = (
        standing.role,
        standing.origin,
        standing.number,
        standing.epoch,
        standing.seq,
        standing.time_ns,
        standing.bytes,
        standing.heard_ns,
    )
    db.execute("INSERT INTO standing VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def now_origin(db: apsw.Connection) -> None:
    """Be the origin from now on."""
    if has_standing(db):
        drop_standing(db)


def check_origin(db: apsw.Connection) -> None:
    """RefusedError unless this copy is the origin: nobody else writes to its volume."""
    found = current(db)
    if found is not None:
        raise refusal(found)


def refusal(found: Standing) -> RefusedError:
    """Why nothing is written to a copy that is not the origin."""
    if found.role == "fenced":
        return RefusedError(
            f"this copy of the volume is fenced: epoch {found.epoch} began elsewhere, and its origin is there now",
            code="fenced",
            hint="write to the new origin; `packetfs replicate ORIGIN DIR` here makes this copy its replica, and keeps "
            "what only this one has under refs of their own",
            epoch=found.epoch,
            origin=found.origin,
        )
    return RefusedError(
        f"this copy of the volume is a replica of {found.origin!r}, and is written to by nobody but `replicate`",
        code="is-replica",
        hint=f"write to {found.origin}; if that is lost, `packetfs promote DIR` makes this copy the origin",
        origin=found.origin,
    )


def number_in(epoch: int) -> int:
    """The number of the copy that is the origin in `epoch`: the one that began it."""
    return epoch % NUMBERS or ORIGIN_NUMBER


def give_number(db: apsw.Connection, own: int, dice: int) -> int:
    """A number that was given to nobody here, nor is this copy's `own`; once all were, any. It is remembered.

    Which one `dice`, 0 to 255, decides: copies made by different machines should differ as well.
    """
    db.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY) STRICT")
    taken = {row[0] for row in select(db, (int,), "SELECT number FROM numbers")} | {own, ORIGIN_NUMBER, 0}
    free = [number for number in range(NUMBERS) if number not in taken]
    if not free:
        free = [number for number in range(NUMBERS) if number not in (own, ORIGIN_NUMBER, 0)]
    number = free[dice % len(free)]
    db.execute("INSERT OR REPLACE INTO numbers VALUES (?)", (number,))
    return number


def next_epoch(number: int, latest: int) -> int:
    """The first epoch after `latest` that a copy with this number may begin; RefusedError if there is none left."""
    epoch = latest + 1 + (number - latest - 1) % NUMBERS
    if epoch > EPOCH_MAX:
        raise RefusedError(f"all {EPOCH_MAX} epochs of this volume are used up", hint="begin a new volume")
    return epoch


def arrived(db: apsw.Connection) -> dict[int, Arrived]:
    """Snapshots that are here before their entries are, by seq."""
    rows = select(db, (int, bytes, bytes), "SELECT seq, root, root_digest FROM arrived ORDER BY seq")
    return {row[0]: Arrived(*row) for row in rows}


def arrive(db: apsw.Connection, one: Arrived) -> None:
    """Remember one."""
    db.execute("INSERT OR REPLACE INTO arrived VALUES (?, ?, ?)", (one.seq, one.root, one.root_digest))


def clear_arrived(db: apsw.Connection, position: Position) -> None:
    """Forget those whose entries are here by now."""
    db.execute("DELETE FROM arrived WHERE seq <= ?", (position.seq,))
