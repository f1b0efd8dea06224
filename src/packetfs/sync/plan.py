"""Decide what a transfer asks for, what it sends against and what need not be said; ask and send nothing."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from packetfs.errors import ConflictError, InvalidError
from packetfs.format.snapshot import Snapshot, Statistics
from packetfs.volume.commit import Proposal
from packetfs.volume.replica import Kept
from packetfs.wire import protocol

__all__ = ["asks", "base_of", "numbers_of", "proposal_from", "raced", "retries", "said_or", "statistics_from"]

T = TypeVar("T")

# Below this the answers cost more than the literals that they save (a record is 44 bytes, a chunk 32 KiB).
_ASKED_BYTES_MIN: Final = 1 << 20
_RACES_MAX: Final = 8  # each was won by somebody else: that many at once are no accident


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


def raced(what: Callable[[], T]) -> T:
    """The answer of `what`, which is tried again when a ref has moved meanwhile, a few times.

    For refs that everybody moves to what there is now: who comes last is right, and lost only as two began at once.
    """
    for _ in range(_RACES_MAX - 1):
        with suppress(ConflictError):
            return what()
    return what()


def said_or(said: T | None, base: T) -> T:
    """What was said; what was left out is as in the base."""
    return base if said is None else said


def proposal_from(
    said: protocol.Commit | protocol.Planned, tree: tuple[bytes, bytes], parent: bytes, base: Snapshot | None
) -> Proposal:
    """A snapshot of `tree` (root and its digest), made from what a peer said of it; what it left out is `base`'s."""
    root, root_digest = tree
    return Proposal(
        root=root,
        root_digest=root_digest,
        parent=parent,
        host=said_or(said.host, base.host if base is not None else ""),
        user=said_or(said.user, base.user if base is not None else ""),
        paths=tuple(said_or(said.paths, base.paths if base is not None else ())),
        statistics=statistics_from(said.statistics),
        message=said.message,
        root_is_source=said.root_is_source,
        tags=tuple(said.tags) if isinstance(said, protocol.Commit) else (),
        source_time_ns=said.source_time_ns if isinstance(said, protocol.Commit) else None,
    )


def numbers_of(statistics: Statistics) -> list[int]:
    """Statistics as they travel."""
    return [getattr(statistics, field) for field in Statistics.__struct_fields__]


def statistics_from(numbers: Sequence[int]) -> Statistics:
    """Statistics that came from a peer: informative, and nothing is decided by them."""
    fields = Statistics.__struct_fields__
    if len(numbers) > len(fields) or any(not 0 <= number < 1 << 63 for number in numbers):
        raise InvalidError("these are no statistics of a snapshot", code="protocol-violation")
    return Statistics(**dict(zip(fields, numbers, strict=False)))
