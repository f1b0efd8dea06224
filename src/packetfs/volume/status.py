"""How large a volume is and where its journal stands. Numbers only; nothing is decided from them."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import apsw

from packetfs.errors import InvalidError
from packetfs.format.descriptor import Descriptor
from packetfs.format.entry import Position
from packetfs.volume import refs, removals, space
from packetfs.volume.journal import OPEN
from packetfs.volume.keys import Keys

__all__ = ["Status", "status_of"]


@dataclass(frozen=True, slots=True)
class Status:
    """How large a volume is and where its journal stands."""

    path: str
    volume_id: str
    created_ns: int
    epoch: int
    position: Position
    refs: int
    snapshots: int
    logical_bytes: int
    """Sum over all snapshots of the sizes of their files: what separate copies would take."""
    latest_bytes: int
    """The same over the newest snapshot of each ref."""
    unique_bytes: int
    """Content, stored once for all of them; gaps that alignment leaves are counted too."""
    stored_bytes: int
    """Committed bytes of segments: content, tree pages and journal."""
    disk_bytes: int
    """What the volume's files take on disk, chunk tables, index and caches included."""
    segments: int
    open_segments: int
    """Those of them that still have room."""
    reclaimed_bytes: int = 0
    """Addresses of forgotten content whose bytes are gone; no other number counts them."""

    @property
    def dedup_ratio(self) -> float:
        """Logical to unique bytes; 1.0 for an empty volume."""
        return self.logical_bytes / self.unique_bytes if self.unique_bytes else 1.0

    def as_fields(self) -> dict[str, int | str]:
        """Everything but where it is, as plain values for a peer."""
        fields = asdict(self)
        del fields["path"], fields["position"]
        return {**fields, "position_seq": self.position.seq, "position_hash": self.position.hash.hex()}

    @classmethod
    def from_fields(cls, fields: Mapping[str, object], *, path: str) -> "Status":
        """What `as_fields` gave, of a volume that is somewhere else."""
        fields = {"reclaimed_bytes": 0, **fields}  # older peers have nothing to say of that
        numbers = {name: fields.get(name) for name in cls.__slots__ if name not in ("path", "position", "volume_id")}
        seq, hash_, volume_id = (fields.get(name) for name in ("position_seq", "position_hash", "volume_id"))
        try:
            position = Position(int(seq), bytes.fromhex(hash_))  # type: ignore[call-overload,arg-type]
        except (TypeError, ValueError):
            position = None
        if position is None or type(volume_id) is not str or any(type(value) is not int for value in numbers.values()):
            raise InvalidError("this is no status of a volume", code="protocol-violation")
        return cls(path=path, volume_id=volume_id, position=position, **numbers)  # type: ignore[arg-type]


def status_of(db: apsw.Connection, keys: Keys, descriptor: Descriptor, path: str) -> Status:
    """The status as of one consistent state of the journal."""
    position, _ = refs.last_entry(db, keys)
    snapshots, logical_bytes, page_bytes = db.execute(
        "SELECT count(DISTINCT snapshot), coalesce(sum(logical_bytes), 0), coalesce(sum(page_bytes), 0) FROM moves"
    ).get
    names, latest_bytes = db.execute(
        "SELECT count(*), coalesce(sum(logical_bytes), 0) FROM refs JOIN moves ON ref = name AND moves.seq = refs.seq"
    ).get
    segments, open_segments, stored_bytes = db.execute(
        "SELECT count(*), coalesce(sum(state = ?), 0), coalesce(sum(head), 0) FROM segments WHERE head > 0", (OPEN,)
    ).get
    reclaimed_bytes = removals.reclaimed_bytes(db)
    stored_bytes -= reclaimed_bytes
    journal_bytes = db.execute("SELECT coalesce(sum(length(entry) + 32), 0) FROM journal").get
    return Status(
        path=path,
        volume_id=descriptor.volume_id.hex(),
        created_ns=descriptor.created_ns,
        epoch=space.epoch(db, keys),
        position=position,
        refs=names,
        snapshots=snapshots,
        logical_bytes=logical_bytes,
        latest_bytes=latest_bytes,
        unique_bytes=max(0, stored_bytes - page_bytes - journal_bytes),
        stored_bytes=stored_bytes,
        disk_bytes=_disk_bytes(path),
        segments=segments,
        open_segments=open_segments,
        reclaimed_bytes=reclaimed_bytes,
    )


def _disk_bytes(path: str) -> int:
    """Blocks that the files of a volume occupy; one that vanishes meanwhile counts nothing."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
