"""What a scrub found damaged, remembered in the volume so that no push points to it again. Nothing is repaired here.

`VOLUME/damaged` is text (docs/formats/volume.md). It only ever makes a push store bytes that it might have pointed to:
a range too many costs space, so a line that cannot be read is passed over and is no error.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from packetfs.env import Env
from packetfs.errors import disk_error
from packetfs.format.address import OFFSET_BITS, SEGMENT_BYTES, Extent, segment_of
from packetfs.volume import files

__all__ = ["FILE_NAME", "coalesced", "decode_damage", "encode_damage", "load", "store"]

FILE_NAME: Final = "damaged"
_HEADER: Final = b"packetfs damaged 1\n"
_BYTES_MAX: Final = 16 << 20  # ten times what `_RANGES_MAX` need
_RANGES_MAX: Final = 1 << 16  # a disk that has lost more has lost whole segments
_ADDRESS_MAX: Final = (1 << 64) - 1


def coalesced(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The same ranges, sorted; those that touch in a segment are one, and if they are too many each segment has one."""
    merged: list[tuple[int, int]] = []  # start, end
    for address, length in sorted(set(extents)):
        if merged and address <= merged[-1][1] and segment_of(merged[-1][0]) == segment_of(address):
            merged[-1] = merged[-1][0], max(merged[-1][1], address + length)
        else:
            merged.append((address, address + length))
    if len(merged) > _RANGES_MAX:
        spans: dict[int, tuple[int, int]] = {}
        for start, end in merged:
            spans[segment_of(start)] = spans.get(segment_of(start), (start, end))[0], end
        merged = list(spans.values())
    return tuple((start, end - start) for start, end in merged)


def encode_damage(extents: Sequence[Extent]) -> bytes:
    """The bytes of the file."""
    return _HEADER + b"".join(b"%d %d\n" % extent for extent in extents)


def decode_damage(data: bytes) -> tuple[Extent, ...]:
    """The ranges of a file; what does not look like one is left out."""
    if not data.startswith(_HEADER):
        return ()
    found = []
    for line in data[len(_HEADER) :].split(b"\n"):
        words = line.split(b" ")
        if len(words) != 2 or not all(word.isdigit() and len(word) <= 20 for word in words):
            continue
        address, length = int(words[0]), int(words[1])
        if SEGMENT_BYTES <= address <= _ADDRESS_MAX and 0 < length <= SEGMENT_BYTES - address % (1 << OFFSET_BITS):
            found.append((address, length))
    return coalesced(found)


def load(volume: str) -> tuple[Extent, ...]:
    """What is known to be damaged in the volume at `volume`; nothing if that cannot be read."""
    try:
        with open(os.path.join(volume, FILE_NAME), "rb") as file:
            return decode_damage(file.read(_BYTES_MAX))
    except OSError:
        return ()


def store(volume: str, extents: Sequence[Extent], env: Env) -> None:
    """Make `extents` what is known to be damaged; durable when this returns. Without any the file is removed."""
    path = os.path.join(volume, FILE_NAME)
    staging = f"{path}.{env.random_bytes(4).hex()}.new"
    try:
        if extents:
            files.write_new(staging, encode_damage(extents))
            files.rename(staging, path)
        else:
            with suppress(FileNotFoundError):
                files.remove(path)
        files.sync_directory(volume)
    except OSError as error:
        raise disk_error("write", path, error.errno or 0) from None
    finally:
        with suppress(OSError):
            os.unlink(staging)
