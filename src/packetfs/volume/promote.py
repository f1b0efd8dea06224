"""A full replica becomes the origin of its volume: an entry begins a new epoch, and from then on it is written to.

Whoever was the origin is fenced when it hears of that. Nobody can be asked here: that the old origin is gone, or that
nobody writes to it, is for who promotes to know.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packetfs import kernel
from packetfs.errors import BusyError, RefusedError, disk_error
from packetfs.format.address import segment_number
from packetfs.format.entry import NewEpoch, Position
from packetfs.volume import files, pins, refs, space, standing
from packetfs.volume.creation import REPLICA_MARK

if TYPE_CHECKING:
    from packetfs.volume.volume import Volume

__all__ = ["Promoted", "promote"]


@dataclass(frozen=True, slots=True)
class Promoted:
    """The term that began."""

    epoch: int
    position: Position
    """After the entry that begins it."""
    continued: Position
    """Where the replica was: what its old origin committed after that is not in it."""
    origin: str
    """The location of the old origin."""


def promote(volume: "Volume") -> Promoted:
    """Make the full replica `volume` the origin. Durable when this returns; killed at any instant it is one or other.

    RefusedError `not-a-replica` for what is no full replica; BusyError while it is brought up to date.
    """
    with pins.following(volume.gate):
        with volume.journal.reading() as db:
            found = standing.current(db)
        if found is None and (done := _promoted(volume)) is not None:
            _remove_mark(volume)
            return done
        if found is None or found.role != "replica":
            raise RefusedError(
                f"{volume.path!r} is no replica" + (", but the origin of its volume" if found is None else ""),
                code="not-a-replica",
                hint="name a directory that `packetfs replicate` has made"
                if found is None
                else "it is fenced: `packetfs replicate ORIGIN DIR` makes it a replica of the new origin",
                path=volume.path,
            )
        with volume.journal.writing() as db:
            previous, previous_ns = refs.last_entry(db, volume.keys)
            latest = max(refs.epoch_at(db, volume.keys), space.epoch(db, volume.keys), found.epoch)
            epoch = standing.next_epoch(found.number, latest)
            data, position = refs.append(
                volume.keys,
                NewEpoch(recovered_seq=previous.seq, recovered_hash=previous.hash, reason="promoted"),
                previous=previous,
                epoch=epoch,
                time_ns=max(volume.env.now_ns(), previous_ns + 1),
            )
            lease = volume.space.lease(segment_number(epoch, 1), 0, 0, True)
            if lease is None:
                raise BusyError("another process promotes this replica", hint="wait for it")
            try:
                address = lease.append_journal(volume.keys.sealed(data))
                durable = _synced(volume, lease)
            finally:
                lease.close()
            space.begun(db, volume.keys, epoch, 1)
            space.record(db, volume.keys, durable, full=False)
            refs.entered(db, data=data, position=position, address=address)
            standing.now_origin(db)
        volume.admit([durable])
        _remove_mark(volume)
    return Promoted(epoch, position, previous, found.origin)


def _promoted(volume: "Volume") -> Promoted | None:
    """What an earlier call did that was killed before its last step; None if there was none."""
    if not os.path.exists(os.path.join(volume.path, REPLICA_MARK)):
        return None
    with volume.journal.reading() as db:
        began = refs.epoch_entry(db, volume.keys)
        at = refs.position_at(db, volume.keys, began[0].seq) if began is not None else None
    if began is None or at is None or not isinstance(began[0].body, NewEpoch):
        return None
    continued = Position(began[0].body.recovered_seq, began[0].body.recovered_hash)
    return Promoted(began[0].epoch, at, continued, "")


def _synced(volume: "Volume", lease: kernel.Lease) -> space.Durable:
    try:
        return lease.sync()
    except BaseException as error:
        volume.journal.poison(error)
        raise


def _remove_mark(volume: "Volume") -> None:
    """What says that this is a replica when its journal is lost; killed before it, the next promote removes it."""
    try:
        with suppress(FileNotFoundError):
            files.remove(os.path.join(volume.path, REPLICA_MARK))
            files.sync_directory(volume.path)
    except OSError as error:
        raise disk_error("write", volume.path, error.errno or 0) from None
