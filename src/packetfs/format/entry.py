"""A journal entry: one change of a volume's state, chained to the one before it by its hash.

Bytes: a 64-byte header (magic `PFSJ`, version, kind, epoch, seq, time, hash of the previous entry, body length), then
the body, one msgpack map (docs/formats/journal.md). In a segment an entry is one chunk: these bytes and their MAC.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from packetfs.errors import DamagedError, RefusedError
from packetfs.format.address import EPOCH_MAX

__all__ = [
    "ENTRY_BYTES_MAX",
    "HASH_BYTES",
    "MAC_BYTES",
    "Body",
    "Commit",
    "Entry",
    "EntryKind",
    "Forget",
    "NewEpoch",
    "Position",
    "Reclaim",
    "decode_entry",
    "encode_entry",
]

_HEADER: Final = struct.Struct("<4sBBHQq32sI4x")  # magic, version, kind, epoch, seq, time_ns, prev, body length, zeros
_MAGIC: Final = b"PFSJ"
_VERSION: Final = 1
_SEQ_MAX: Final = (1 << 63) - 1  # what SQLite's integers hold
HASH_BYTES: Final = 32
MAC_BYTES: Final = 32
ENTRY_BYTES_MAX: Final = 64 << 10  # one entry is one chunk; checked before anything is allocated


class EntryKind(IntEnum):
    """What an entry changes. A kind that is not known here is refused, not skipped: state would differ."""

    COMMIT = 1
    NEW_EPOCH = 2
    FORGET = 3
    RECLAIM = 4


class Position(NamedTuple):
    """Names the whole state of a volume: machines at the same position are identical."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash[:6].hex()}"


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """A ref moves to a new snapshot."""

    ref: str
    expected: bytes = b""
    """Id of the snapshot the ref named until now; empty when the ref is new."""
    snapshot_id: bytes
    snapshot: bytes
    """The snapshot's bytes."""


class NewEpoch(msgspec.Struct, frozen=True, kw_only=True):
    """A new sequencer's term begins: here, or after the journal was rebuilt from the segments."""

    recovered_seq: int
    recovered_hash: bytes
    reason: str = ""


class Forget(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshots of a ref are not kept any more. A ref of which none is left is gone."""

    ref: str
    seqs: list[int]
    """The entries that committed them, ascending."""


class Reclaim(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges are gone: nothing that is kept points there, and nothing ever will."""

    ranges: list[tuple[int, bytes]]
    """(segment, ranges): start and end of each as u32, little-endian, ascending, none touching another."""


Body: TypeAlias = Commit | NewEpoch | Forget | Reclaim


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the journal."""

    seq: int
    epoch: int
    time_ns: int
    previous: bytes
    """Hash of the entry before it."""
    body: Body


_KINDS: Final[dict[type[Body], EntryKind]] = {
    Commit: EntryKind.COMMIT,
    NewEpoch: EntryKind.NEW_EPOCH,
    Forget: EntryKind.FORGET,
    Reclaim: EntryKind.RECLAIM,
}
_encoder = msgspec.msgpack.Encoder()
_decoders: Final[dict[int, msgspec.msgpack.Decoder[Body]]] = {
    EntryKind.COMMIT: msgspec.msgpack.Decoder(Commit),
    EntryKind.NEW_EPOCH: msgspec.msgpack.Decoder(NewEpoch),
    EntryKind.FORGET: msgspec.msgpack.Decoder(Forget),
    EntryKind.RECLAIM: msgspec.msgpack.Decoder(Reclaim),
}


def encode_entry(entry: Entry) -> bytes:
    """The bytes of an entry, of which its hash is taken."""
    body = _encoder.encode(entry.body)
    kind = _KINDS[type(entry.body)]
    header = _HEADER.pack(_MAGIC, _VERSION, kind, entry.epoch, entry.seq, entry.time_ns, entry.previous, len(body))
    return header + body


def decode_entry(data: bytes) -> Entry:
    """The entry whose bytes are exactly `data`. Whether it belongs into the chain is the caller's question."""
    if len(data) < _HEADER.size or len(data) > ENTRY_BYTES_MAX:
        raise _damaged(f"{len(data)} bytes are no journal entry")
    magic, version, kind, epoch, seq, time_ns, previous, length = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise _damaged("a journal entry does not begin with its magic")
    if version > _VERSION or (version == _VERSION and kind not in _decoders):
        raise RefusedError(
            f"journal entry {seq} has format {version} and kind {kind}, which this version of PacketFS does not know",
            code="format-unknown",
            hint="upgrade packetfs",
            seq=seq,
        )
    if version != _VERSION or length != len(data) - _HEADER.size or epoch > EPOCH_MAX or not 0 < seq <= _SEQ_MAX:
        raise _damaged("the header of a journal entry contradicts itself")
    try:
        body = _decoders[kind].decode(memoryview(data)[_HEADER.size :])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(f"journal entry {seq} cannot be read: {error}") from None
    return Entry(seq=seq, epoch=epoch, time_ns=time_ns, previous=previous, body=body)


def _damaged(message: str) -> DamagedError:
    return DamagedError(message, code="journal-damaged")
