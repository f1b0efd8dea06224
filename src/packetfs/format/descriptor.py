"""`volume.toml`: what a volume is. Written once when it is made, never rewritten.

A reader that meets a version or a feature it does not know refuses, and says which (docs/formats/volume.md). It is read
at every start: a small subset of TOML, parsed here, because importing `tomllib` takes 9 ms.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from packetfs.errors import DamagedError, RefusedError
from packetfs.format.address import SEGMENT_BYTES

__all__ = ["DESCRIPTOR_BYTES_MAX", "ChunkProfile", "Descriptor", "decode_descriptor", "encode_descriptor"]

_MAGIC: Final = "packetfs-volume"
_VERSION: Final = 1
DESCRIPTOR_BYTES_MAX: Final = 64 << 10
_HEX = re.compile(r"[0-9a-f]+")
_HEADER = re.compile(r"\[([a-z_]+)\]")
_PAIR = re.compile(r'([a-z_]+) = (?:"([^"\\]*)"|([0-9]{1,18})|\[((?:"[^"\\]*"(?:, )?)*)\])')
_NAME = re.compile(r'"([^"\\]*)"')
_TEXT: Final = """\
# A PacketFS volume. This file was written when the volume was made and is never changed.
magic = "{magic}"
version = {version}
volume_id = "{volume_id}"
secret_id = "{secret_id}"
created = "{created}"
segment_bytes = {segment_bytes}

# What a program has to know before it may read the volume, write to it, or say that it is sound.
[features]
read = []
write = []
check = []

# Where files are cut into chunks. Two volumes cut alike only with equal values and an equal secret.
[chunks]
profile = "casc64"
min = {min}
avg = {avg}
max = {max}
normalisation = {normalisation}
"""


class ChunkProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the chunker."""

    min: int = 8 << 10
    avg: int = 32 << 10
    max: int = 128 << 10
    normalisation: int = 2


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """What `volume.toml` says."""

    volume_id: bytes
    """16 random bytes: which volume this is, on every machine."""
    secret_id: bytes
    """8 bytes derived from the secret: tells a foreign `secret` file from the right one."""
    created_ns: int
    chunks: ChunkProfile = ChunkProfile()
    writable: bool = True
    """False when the volume has a feature that writers must know and this version does not."""
    checkable: bool = True
    """False when it has a feature without which nobody can say that it is sound."""


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """The text of `volume.toml` for a new volume."""
    chunks = descriptor.chunks
    created = _EPOCH + timedelta(microseconds=descriptor.created_ns // 1000)
    return _TEXT.format(
        magic=_MAGIC,
        version=_VERSION,
        volume_id=descriptor.volume_id.hex(),
        secret_id=descriptor.secret_id.hex(),
        created=f"{created:%Y-%m-%dT%H:%M:%S.%f}Z",
        segment_bytes=SEGMENT_BYTES,
        min=chunks.min,
        avg=chunks.avg,
        max=chunks.max,
        normalisation=chunks.normalisation,
    ).encode()


def decode_descriptor(data: bytes) -> Descriptor:
    """The descriptor from the bytes of `volume.toml`; RefusedError for what is newer than this version."""
    if len(data) > DESCRIPTOR_BYTES_MAX:
        raise _damaged(f"it is longer than {DESCRIPTOR_BYTES_MAX} bytes")
    table = _parse(data)
    if table.get("magic") != _MAGIC:
        raise _damaged("it does not say that this is a PacketFS volume")
    version = _integer(table, "version")
    if version != _VERSION:
        raise RefusedError(
            f"the volume has format version {version}; this version of PacketFS knows {_VERSION}",
            code="format-unknown",
            hint="upgrade packetfs",
            version=version,
        )
    unknown = {use: _unknown_features(table, use) for use in ("read", "write", "check")}
    if unknown["read"]:
        raise RefusedError(
            f"the volume uses {', '.join(unknown['read'])}, which this version of PacketFS does not know",
            code="feature-unknown",
            hint="upgrade packetfs",
            features=unknown["read"],
        )
    if _integer(table, "segment_bytes") != SEGMENT_BYTES:
        raise _damaged(f"segment_bytes is not {SEGMENT_BYTES}")
    return Descriptor(
        volume_id=_hex(table, "volume_id", 16),
        secret_id=_hex(table, "secret_id", 8),
        created_ns=_time_ns(table, "created"),
        chunks=_chunks(table),
        writable=not unknown["write"],
        checkable=not unknown["check"],
    )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _parse(data: bytes) -> dict[str, Any]:
    """Tables of the file, those of the top level in the table itself."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged("it is not UTF-8") from None
    top: dict[str, Any] = {}
    table = top
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if header := _HEADER.fullmatch(line):
            if header[1] in top:
                raise _damaged(f"[{header[1]}] is there twice")
            table = top[header[1]] = {}
            continue
        pair = _PAIR.fullmatch(line)
        if not pair or pair[1] in table:
            raise _damaged(f"line {number} is not what a volume is made with")
        table[pair[1]] = _value(pair)
    return top


def _value(pair: re.Match[str]) -> str | int | list[str]:
    _, text, number, names = pair.groups()
    if text is not None:
        return str(text)
    return int(number) if number is not None else _NAME.findall(names)


def _unknown_features(table: dict[str, Any], use: str) -> list[str]:
    features = _table(table, "features").get(use, [])
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise _damaged(f"features.{use} is no list of names")
    return features  # version 1 has no features: each one named is unknown


def _chunks(table: dict[str, Any]) -> ChunkProfile:
    chunks = _table(table, "chunks")
    if chunks.get("profile") != "casc64":
        raise RefusedError(
            f"the volume cuts chunks by {chunks.get('profile')!r}, which this version of PacketFS does not know",
            code="feature-unknown",
            hint="upgrade packetfs",
        )
    profile = ChunkProfile(
        min=_integer(chunks, "min"),
        avg=_integer(chunks, "avg"),
        max=_integer(chunks, "max"),
        normalisation=_integer(chunks, "normalisation"),
    )
    if not (64 <= profile.min < profile.avg < profile.max <= SEGMENT_BYTES and 0 <= profile.normalisation <= 3):
        raise _damaged("the sizes under [chunks] contradict each other")
    return profile


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise _damaged(f"[{key}] is missing")
    return value


def _integer(table: dict[str, Any], key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _damaged(f"{key} is missing or no number")
    return value


def _hex(table: dict[str, Any], key: str, length: int) -> bytes:
    value = table.get(key)
    if not isinstance(value, str) or len(value) != 2 * length or not _HEX.fullmatch(value):
        raise _damaged(f"{key} is not {2 * length} hex digits")
    return bytes.fromhex(value)


def _time_ns(table: dict[str, Any], key: str) -> int:
    value = table.get(key)
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _damaged(f"{key} is no time with a zone")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def _damaged(why: str) -> DamagedError:
    return DamagedError(
        f"volume.toml cannot be used: {why}",
        code="descriptor-damaged",
        hint="put back the copy of volume.toml from a backup; it never changes after the volume is made",
    )
