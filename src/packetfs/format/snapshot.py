"""A snapshot: an immutable root entry, whence it came and when. Its id is a keyed digest of its bytes.

Bytes: `PFSN`, version u8, then one msgpack map (docs/formats/snapshot.md). Fields are only ever added; the bytes
are kept as they came, so that a field one does not know is still covered by the id.
"""

from typing import Final

import msgspec

from packetfs.errors import DamagedError, RefusedError, UsageError

__all__ = [
    "NO_LABELS",
    "SNAPSHOT_BYTES_MAX",
    "Labels",
    "Snapshot",
    "Statistics",
    "check_labels",
    "check_message",
    "check_tags",
    "cleaned",
    "decode_snapshot",
    "encode_snapshot",
    "fitting",
]

_MAGIC: Final = b"PFSN"
_VERSION: Final = 1
SNAPSHOT_BYTES_MAX: Final = 60 << 10  # with its journal entry it stays below 64 KiB, half a chunk
_PATHS_BYTES_MAX: Final = 16 << 10  # of `paths`; they tell people whence, nothing is found by them
_TEXT_BYTES_MAX: Final = 16 << 10  # of a message
_NAME_CHARACTERS_MAX: Final = 255  # of a host or user name, or a tag
_TAGS_MAX: Final = 64


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the push that made a snapshot found."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    logical_bytes: int = 0
    """Sum of the sizes of all files, a hard-linked one once."""
    new_bytes: int = 0
    """Content that was read and stored."""
    known_bytes: int = 0
    """Content that was read and found in the volume."""
    unchanged_bytes: int = 0
    """Content that was not read, because the stat cache vouched for it."""
    unchanged_files: int = 0
    page_bytes: int = 0
    """New tree pages."""
    problems: int = 0
    """Files that could not be stored."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The map as it is written: without the id, which is computed from it."""

    root: bytes
    root_digest: bytes
    parent: bytes = b""
    time_ns: int
    host: str = ""
    user: str = ""
    paths: list[bytes] = []
    statistics: Statistics = Statistics()
    message: str = ""
    root_is_source: bool = False


class _Labelled(_Stored, frozen=True, kw_only=True):
    """The same with what is only written when it was said."""

    tags: list[str] = []
    source_time_ns: int | None = None


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever pushes says of a snapshot so that people find it again; nothing else depends on it."""

    tags: tuple[str, ...] = ()
    host: str = ""
    """Where the source is from, if not from the machine that pushes."""
    source_time_ns: int | None = None
    """Of when the source is, if not of now. Snapshots are ordered by the journal's time all the same."""


NO_LABELS: Final = Labels()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable state of a tree."""

    id: bytes
    root: bytes
    """The root entry, encoded (`kernel.decode_root`)."""
    root_digest: bytes
    parent: bytes = b""
    """Id of the snapshot that the ref named before, or empty."""
    time_ns: int
    """Journal time of the commit: later than that of any earlier entry, also when the clock was set back."""
    host: str = ""
    user: str = ""
    paths: tuple[bytes, ...] = ()
    statistics: Statistics = Statistics()
    message: str = ""
    root_is_source: bool = False
    """Whether the root is the one directory that was pushed, with its mode, owner and time.

    Otherwise it was made to hold sources by their names, and its metadata are those of no directory.
    """
    tags: tuple[str, ...] = ()
    source_time_ns: int | None = None
    """Of when the source is, where that was said."""
    data: bytes
    """The bytes that `id` is the digest of."""

    @property
    def name(self) -> str:
        """The id in full, as it is typed after `@`."""
        return self.id.hex()

    @property
    def short(self) -> str:
        """The first twelve digits of the id: enough to tell snapshots of a volume apart."""
        return self.id[:6].hex()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Labelled)


def encode_snapshot(
    *,
    root: bytes,
    root_digest: bytes,
    parent: bytes,
    time_ns: int,
    host: str,
    user: str,
    paths: tuple[bytes, ...],
    statistics: Statistics,
    message: str,
    root_is_source: bool,
    tags: tuple[str, ...] = (),
    source_time_ns: int | None = None,
) -> bytes:
    """The bytes of a snapshot. Too many source paths are cut to what fits; too long a message is a UsageError."""
    stored = _Stored(
        root=root,
        root_digest=root_digest,
        parent=parent,
        time_ns=time_ns,
        host=cleaned(host)[:_NAME_CHARACTERS_MAX],
        user=cleaned(user)[:_NAME_CHARACTERS_MAX],
        paths=fitting(paths),
        statistics=statistics,
        message=check_message(message),
        root_is_source=root_is_source,
    )
    if tags or source_time_ns is not None:
        fields = msgspec.structs.asdict(stored)
        stored = _Labelled(**fields, tags=list(check_tags(tags)), source_time_ns=source_time_ns)
    data = _MAGIC + bytes([_VERSION]) + _encoder.encode(stored)
    if len(data) > SNAPSHOT_BYTES_MAX:
        raise UsageError(
            f"the snapshot's own record would be {len(data)} bytes, more than {SNAPSHOT_BYTES_MAX}",
            hint="say the message shorter; extended attributes of the top directory count as well",
        )
    return data


def decode_snapshot(data: bytes, id: bytes) -> Snapshot:  # noqa: A002 - it is what a snapshot's id is called
    """The snapshot whose bytes are `data`; the caller has checked that `id` is their digest."""
    if data[:4] != _MAGIC or len(data) < 5 or len(data) > SNAPSHOT_BYTES_MAX:
        raise DamagedError("these bytes are no snapshot", code="snapshot-damaged", snapshot=id.hex())
    if data[4] > _VERSION:
        raise RefusedError(
            f"snapshot {id[:6].hex()} has format {data[4]}, this version of PacketFS knows {_VERSION}",
            code="format-unknown",
            hint="upgrade packetfs",
            snapshot=id.hex(),
        )
    try:
        stored = _decoder.decode(memoryview(data)[5:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(
            f"the bytes of snapshot {id[:6].hex()} cannot be read: {error}",
            code="snapshot-damaged",
            snapshot=id.hex(),
        ) from None
    return Snapshot(
        id=id,
        root=stored.root,
        root_digest=stored.root_digest,
        parent=stored.parent,
        time_ns=stored.time_ns,
        host=stored.host,
        user=stored.user,
        paths=tuple(stored.paths),
        statistics=stored.statistics,
        message=stored.message,
        root_is_source=stored.root_is_source,
        tags=tuple(stored.tags),
        source_time_ns=stored.source_time_ns,
        data=data,
    )


def check_message(message: str) -> str:
    """The message as it is stored. UsageError if it is too long."""
    if len(message.encode("utf-8", "surrogateescape")) > _TEXT_BYTES_MAX:
        raise UsageError(f"the message is longer than {_TEXT_BYTES_MAX} bytes", hint="say it shorter")
    return cleaned(message)


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags as they are stored, each once, in order. UsageError if there are too many, or one cannot be a tag."""
    found = tuple(sorted({cleaned(tag) for tag in tags}))
    wrong = next((tag for tag in found if not tag.strip() or "," in tag or len(tag) > _NAME_CHARACTERS_MAX), None)
    if wrong is not None:
        raise UsageError(
            f"{wrong!r} cannot be a tag", hint=f"a tag has 1 to {_NAME_CHARACTERS_MAX} characters, and no comma"
        )
    if len(found) > _TAGS_MAX:
        raise UsageError(f"{len(found)} tags are more than {_TAGS_MAX}", hint="give fewer")
    return found


def check_labels(labels: Labels) -> Labels:
    """The same labels as they are stored."""
    return Labels(
        tags=check_tags(labels.tags),
        host=cleaned(labels.host)[:_NAME_CHARACTERS_MAX],
        source_time_ns=labels.source_time_ns,
    )


def cleaned(text: str) -> str:
    """Text that is valid UTF-8: what came as surrogates (a command line in another encoding) becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def fitting(paths: tuple[bytes, ...]) -> list[bytes]:
    """As many of the source paths as a snapshot keeps."""
    kept: list[bytes] = []
    room = _PATHS_BYTES_MAX
    for path in paths:
        room -= len(path) + 5
        if room < 0:
            break
        kept.append(path)
    return kept
