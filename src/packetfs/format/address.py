"""Addresses: where a byte is in a volume, for ever. Arithmetic only.

`address = epoch (12 bits) | counter (26) | offset in the segment (26)`; a segment's number is the upper 38 bits.
Segment 0 of every epoch is never granted, so address 0 is a hole. The kernel's `address.rs` says the same.
"""

from typing import Final, TypeAlias

from packetfs.errors import InvalidError

__all__ = [
    "COUNTER_BITS",
    "COUNTER_MAX",
    "EPOCH_BITS",
    "EPOCH_MAX",
    "OFFSET_BITS",
    "SEGMENT_BYTES",
    "Extent",
    "Page",
    "counter_of",
    "epoch_of",
    "offset_of",
    "segment_number",
    "segment_of",
]

OFFSET_BITS: Final = 26
COUNTER_BITS: Final = 26
EPOCH_BITS: Final = 12
SEGMENT_BYTES: Final = 1 << OFFSET_BITS
COUNTER_MAX: Final = (1 << COUNTER_BITS) - 1
EPOCH_MAX: Final = (1 << EPOCH_BITS) - 1

Extent: TypeAlias = tuple[int, int]
"""(address, length)."""
Page: TypeAlias = tuple[int, int, bytes]
"""(address, length, digest): where a page of a stored directory rests and what it means."""


def segment_number(epoch: int, counter: int) -> int:
    """The segment that is number `counter` of `epoch`."""
    if not 0 <= epoch <= EPOCH_MAX:
        raise InvalidError(f"epoch {epoch} is not between 0 and {EPOCH_MAX}")
    if not 1 <= counter <= COUNTER_MAX:
        raise InvalidError(f"segment counter {counter} is not between 1 and {COUNTER_MAX}")
    return epoch << COUNTER_BITS | counter


def segment_of(address: int) -> int:
    """The segment that holds `address`."""
    return address >> OFFSET_BITS


def offset_of(address: int) -> int:
    """The offset of `address` in its segment."""
    return address & (SEGMENT_BYTES - 1)


def epoch_of(segment: int) -> int:
    """The epoch in which `segment` was granted."""
    return segment >> COUNTER_BITS


def counter_of(segment: int) -> int:
    """The number of `segment` within its epoch."""
    return segment & COUNTER_MAX
