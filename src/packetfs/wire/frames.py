"""Frames: the unit on the wire. What a body says is the protocol's question; nothing here reads or writes a stream.

    0   magic "PF"           2 bytes
    2   version              u8, 1
    3   type                 u8
    4   length of the body   u32     little-endian, as all numbers
    8   request              u32     which request it is, or answers; 0: none
    12  CRC-32C              u32     of the first 12 bytes and the body
    16  body

A length is checked against the limit of its type before anything is reserved for it. After one bad frame nothing that
follows can be believed, so a decoder that met one answers nothing but that error (docs/formats/frames.md).
"""

import struct
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from packetfs.errors import InvalidError
from packetfs.kernel import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CONTROL_BYTES_MAX",
    "GREETING_BYTES_MAX",
    "HEADER_BYTES",
    "LIMITS",
    "LITERALS_BYTES_MAX",
    "REQUEST_MAX",
    "TREE_BYTES_MAX",
    "Buffers",
    "Decoder",
    "Frame",
    "FrameType",
    "encode",
    "request_of",
]

Buffers: TypeAlias = "list[Buffer]"
"""One frame as it is written: the header, and the body uncopied."""

_MAGIC: Final = b"PF"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<2sBBIII")
_CHECKED_BYTES: Final = 12  # of the header: all but the checksum itself
_PEEK_BYTES: Final = 80  # of a stream that is not ours: a line of text, to tell the user what it was
HEADER_BYTES: Final = _HEADER.size
REQUEST_MAX: Final = (1 << 32) - 1

GREETING_BYTES_MAX: Final = 64 << 10  # a HELLO comes from somebody yet unknown: a path, a name, little else
CONTROL_BYTES_MAX: Final = 1 << 20  # 20,000 answers to tags; holds no side up longer than 10 ms at 1 Gbit/s
TREE_BYTES_MAX: Final = 2 << 20  # a coded part is of 1 MiB raw at most; incompressible it is a little longer
LITERALS_BYTES_MAX: Final = (16 << 20) + (
    64 << 10
)  # a run of 8 MiB that does not compress, twice over, and its columns


class FrameType(IntEnum):
    """What a frame carries. Numbers are never given twice."""

    HELLO = 1
    CHECK = 2
    RESOLVE = 3
    ASK = 4
    LEASE = 5
    COMMIT = 6
    WANT = 7
    FETCH = 8
    REFS = 9
    LOG = 10
    STATUS = 11
    BYE = 12
    INGEST = 13
    CHECKOUT = 14
    PAIR = 15
    LITERALS = 16
    TREE = 17
    BEGIN = 18
    JOIN = 20
    FOLLOW = 21
    FENCE = 22
    ADOPT = 23
    AT = 24
    WELCOME = 32
    STATE = 33
    KNOWN = 34
    LEASED = 35
    ACK = 36
    COMMITTED = 37
    PLANNED = 38
    DONE = 39
    REF_LIST = 40
    LOG_PAGE = 41
    STATUS_REPLY = 42
    FAILURE = 43
    INGESTED = 44
    CHANGES = 45
    CHECKED_OUT = 46
    PROGRESS = 47
    PAIRED = 48
    JOINED = 52
    ENTRY = 53
    FOLLOWED = 54
    FENCED = 55
    ADOPTED = 56


LIMITS: Final[dict[int, int]] = {int(kind): CONTROL_BYTES_MAX for kind in FrameType} | {
    FrameType.HELLO: GREETING_BYTES_MAX,
    FrameType.PAIR: GREETING_BYTES_MAX,
    FrameType.LITERALS: LITERALS_BYTES_MAX,
    FrameType.TREE: TREE_BYTES_MAX,
}
"""The longest body of each type."""


class Frame(NamedTuple):
    """A frame that came whole and with its checksum."""

    type: FrameType
    request: int
    body: bytes


def encode(kind: FrameType, request: int, *body: "Buffer") -> Buffers:
    """The frame as buffers to write one after the other. InvalidError when the body is longer than its type may be.

    The body may be given in parts, which are written as they are.
    """
    parts = [part for part in body if memoryview(part).nbytes]
    length = sum(memoryview(part).nbytes for part in parts)
    if length > LIMITS[kind]:
        raise _bad(
            f"a {kind.name} of {length} bytes is longer than the {LIMITS[kind]} that one may have", type=int(kind)
        )
    assert 0 <= request <= REQUEST_MAX
    checked = _HEADER.pack(_MAGIC, _VERSION, kind, length, request, 0)[:_CHECKED_BYTES]
    check = crc32c(checked)
    for part in parts:
        check = crc32c(part, check)
    return [checked + check.to_bytes(4, "little"), *parts]


def request_of(frame: Buffers) -> int:
    """The request that an encoded frame bears."""
    return int(_HEADER.unpack_from(frame[0])[4])


class Decoder:
    """Frames from a stream that comes in pieces of any size.

    `feed` what was read, then take frames with `next` until it answers None. Memory is bounded by what was fed, and a
    caller that takes all frames after each piece keeps at most one unfinished frame.
    """

    def __init__(self, *, body_bytes_max: int = LITERALS_BYTES_MAX) -> None:
        """A body longer than `body_bytes_max` is refused, whatever its type may have."""
        self._body_bytes_max = body_bytes_max
        self._pieces: deque[bytes] = deque()
        self._offset = 0  # up to which the first piece has been taken
        self._held_bytes = 0
        self._begun = False
        self._header: tuple[FrameType, int, int, int] | None = None  # type, body length, request, checksum
        self._seed = 0  # the checksum of that header
        self._dead: InvalidError | None = None

    @property
    def pending(self) -> bool:
        """Whether a frame has begun that has not ended: a stream that ends here was cut."""
        return self._held_bytes > 0 or self._header is not None

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        if data and self._dead is None:
            self._pieces.append(data)
            self._held_bytes += len(data)

    def next(self) -> Frame | None:
        """The next whole frame, or None if more has to be fed. InvalidError "bad-frame", now and ever after."""
        if self._dead is not None:
            raise self._dead
        try:
            return self._next()
        except InvalidError as error:
            self._dead = error
            self._pieces.clear()
            self._held_bytes = 0
            raise

    def _next(self) -> Frame | None:
        if self._header is None and not self._read_header():
            return None
        assert self._header is not None
        kind, length, request, check = self._header
        if self._held_bytes < length:
            return None
        body = self._take(length)
        if crc32c(body, self._seed) != check:
            raise _bad(f"the checksum of a {kind.name} of {length} bytes is wrong", type=int(kind))
        self._header = None
        self._begun = True
        return Frame(kind, request, body)

    def _read_header(self) -> bool:
        """Whether a header was there to read."""
        first = self._pieces[0][self._offset : self._offset + 2] if self._pieces else b""
        if not _MAGIC.startswith(first):  # one wrong byte is enough: text that ends here would never be told
            begins = self._peek()
            raise _bad(f"no frame begins with {begins!r}"[:200], begins=begins, offset=0 if not self._begun else None)
        if self._held_bytes < HEADER_BYTES:
            return False
        header = self._take(HEADER_BYTES)
        magic, version, kind, length, request, check = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise _bad(f"no frame begins with {header!r}", begins=header, offset=0 if not self._begun else None)
        if version != _VERSION:
            raise _bad(f"a frame has version {version}; this version of PacketFS knows {_VERSION}", version=version)
        if kind not in LIMITS:
            raise _bad(f"there is no frame of type {kind}", type=kind)
        longest = min(LIMITS[kind], self._body_bytes_max)
        if length > longest:
            raise _bad(f"a {FrameType(kind).name} of {length} bytes is longer than {longest}", type=kind)
        self._header = (FrameType(kind), length, request, check)
        self._seed = crc32c(header[:_CHECKED_BYTES])
        return True

    def _take(self, count: int) -> bytes:
        """The next `count` bytes of those held: a slice of one piece where they lie in one, else joined."""
        self._held_bytes -= count
        taken: list[memoryview] = []
        while count:
            piece, begin = self._pieces[0], self._offset
            end = min(begin + count, len(piece))
            taken.append(memoryview(piece)[begin:end])
            count -= end - begin
            self._offset = end
            if end == len(piece):
                self._pieces.popleft()
                self._offset = 0
        return b"".join(taken)

    def _peek(self) -> bytes:
        return b"".join(self._pieces)[self._offset :][:_PEEK_BYTES]


def _bad(message: str, **values: object) -> InvalidError:
    return InvalidError(message, code="bad-frame", hint="the stream is damaged, or the peer is not PacketFS", **values)
