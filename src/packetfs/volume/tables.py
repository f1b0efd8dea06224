"""The shape of a chunk table: its batches and where entries of the journal are. CRCs and digests are the kernel's.

For the two questions that the journal cannot answer about itself: what it was (`rebuild.py`), and whether it is older
than what lies in the segments (`space.py`). The layout is docs/formats/chunk-table.md.
"""

import struct
from dataclasses import dataclass
from typing import Final

from packetfs.format.entry import ENTRY_BYTES_MAX, MAC_BYTES

__all__ = ["HEADER_BYTES", "Table", "read_table", "table_shape"]

_MAGIC: Final = b"PFSCHUNK"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sB7x16sQ8s")  # magic, version, volume id, segment, slot key id; then zeros and CRC
HEADER_BYTES: Final = 64
_BATCH: Final = struct.Struct("<II")  # start, count
_RECORD_BYTES: Final = 37  # end u32, kind u8, digest
_CRC_BYTES: Final = 4
_KIND_JOURNAL: Final = 2


@dataclass(frozen=True, slots=True)
class Table:
    """What a chunk table says, before anything of it is proved."""

    segment: int
    ends: tuple[int, ...]
    """Bytes of the table after each batch, the header alone first."""
    heads: tuple[int, ...]
    """The greatest end of a chunk up to there."""
    journal: tuple[tuple[int, int, int], ...]
    """(offset, length, number of the batch) of chunks that are as long as an entry of the journal may be.

    Entries that were committed together are one batch; batch `n` ends at `ends[n]`.
    """


def read_table(data: bytes, volume_id: bytes) -> Table | None:
    """The shape of a whole table; None for one that is not of this volume or has nothing in it."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, owner, segment, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or owner != volume_id:
        return None
    table = table_shape(segment, data, HEADER_BYTES)
    return table if len(table.ends) > 1 else None


def table_shape(segment: int, data: bytes, first: int) -> Table:
    """The shape of the batches from byte `first` on, up to one that is cut off."""
    ends, heads = [first], [0]
    journal: list[tuple[int, int, int]] = []
    at = first
    while at + _BATCH.size <= len(data):
        start, count = _BATCH.unpack_from(data, at)
        records, stop = at + _BATCH.size, at + _BATCH.size + count * _RECORD_BYTES
        if not count or stop + _CRC_BYTES > len(data):
            break
        chunk_ends = [int.from_bytes(data[i : i + 4], "little") for i in range(records, stop, _RECORD_BYTES)]
        begins = [start, *chunk_ends[:-1]]
        for i, kind in enumerate(data[records + 4 : stop : _RECORD_BYTES]):
            if kind == _KIND_JOURNAL and MAC_BYTES < chunk_ends[i] - begins[i] <= ENTRY_BYTES_MAX + MAC_BYTES:
                journal.append((begins[i], chunk_ends[i] - begins[i], len(ends)))
        at = stop + _CRC_BYTES
        ends.append(at)
        heads.append(max(heads[-1], *chunk_ends))
    return Table(segment, tuple(ends), tuple(heads), tuple(journal))
