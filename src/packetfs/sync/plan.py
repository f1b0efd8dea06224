"""Decide what a transfer asks for and what it sends against; ask and send nothing."""

from typing import Final

from packetfs.errors import ConflictError
from packetfs.volume.replica import Kept

__all__ = ["asks", "base_of", "retries"]

# Below this the answers cost more than the literals that they save (a record is 44 bytes, a chunk 32 KiB).
_ASKED_BYTES_MIN: Final = 1 << 20


def base_of(named: Kept | None, newest: Kept | None) -> Kept | None:
    """The snapshot that both sides hold and that a tree is sent against: what the ref named, else the newest known."""
    return named or newest


def asks(origin_bytes: int, replica_bytes: int) -> bool:
    """Whether the origin may well have bytes that the replica does not know: then it is asked before they are sent."""
    return origin_bytes - replica_bytes >= _ASKED_BYTES_MIN


def retries(error: ConflictError, *, fresh: bool) -> bool:
    """Whether a push that lost is run again by itself.

    Only when what this side knew of the ref was older than the push: then nobody was first *during* it.
    """
    return error.code == "ref-moved" and not fresh
