"""What two machines say to each other, and when they may. No stream, no clock, no thread: frames in, frames out.

    the client says                     the origin answers
    HELLO                               WELCOME
    PAIR                                PAIRED; instead of HELLO, and that is all
    CHECK, RESOLVE                      STATE
    ASK                                 KNOWN
    LEASE                               LEASED
    LITERALS, BEGIN, TREE               nothing; now and then ACK, which no request asked for
    COMMIT                              COMMITTED
    WANT                                PLANNED, (LITERALS | TREE)*, DONE
    FETCH                               LITERALS*, DONE
    REFS, LOG, STATUS                   REF_LIST, LOG_PAGE, STATUS_REPLY
    INGEST                              PROGRESS*, INGESTED
    CHECKOUT                            (PROGRESS | CHANGES)*, CHECKED_OUT
    JOIN, AT, FENCE, ADOPT              JOINED, ENTRY, FENCED, ADOPTED
    FOLLOW                              (ENTRY | LITERALS | TREE | PROGRESS)*, FOLLOWED
    BYE                                 nothing

Requests have numbers 1, 2, 3 ... and are answered in their order; several may be on their way. FAILURE is an answer to
any of them, also in the middle of a stream; one that bears number 0 is about something that has no answer, and ends the
session, and so does one that answers HELLO or PAIR. `SPOKEN` says what may be said in which state. Both sides keep the
same states, so that each refuses at once what the other should not have said.

Bodies are msgspec arrays: fields are only ever added at the end, with defaults, and unknown further ones are ignored
(docs/design/wire-protocol.md, docs/formats/frames.md). What a body says about a volume is checked by whoever uses it;
here its shape is: lengths, ranges, counts, names of refs.
"""

import re
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, NoReturn, TypeAlias, cast

import msgspec
from msgspec import Meta

from packetfs import errors
from packetfs.errors import InvalidError, PacketFSError, RefusedError, UsageError
from packetfs.events import ProblemKind
from packetfs.format.address import SEGMENT_BYTES
from packetfs.format.location import check_ref
from packetfs.wire.frames import Buffers, Frame, FrameType, encode

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "ARRIVED_MAX",
    "ASK_TAGS_MAX",
    "CHANGES_MAX",
    "FETCH_EXTENTS_MAX",
    "PAGE_BYTES",
    "PROGRESS_MAX",
    "PROTOCOL",
    "RANGE_BYTES",
    "RECLAIMED_BYTES_MAX",
    "RECORD_BYTES",
    "SAID_BY_PEER",
    "SPOKEN",
    "TAG_BYTES",
    "Ack",
    "Adopt",
    "Adopted",
    "Ask",
    "At",
    "Begin",
    "Bye",
    "Changed",
    "Changes",
    "Check",
    "CheckedOut",
    "Checkout",
    "Client",
    "Commit",
    "Committed",
    "Done",
    "Entry",
    "Event",
    "Failure",
    "Fence",
    "Fenced",
    "Fetch",
    "Follow",
    "Followed",
    "Hello",
    "Ingest",
    "Ingested",
    "Join",
    "Joined",
    "Kind",
    "Known",
    "Lease",
    "Leased",
    "Literals",
    "Log",
    "LogPage",
    "Message",
    "Missed",
    "Origin",
    "Pair",
    "Paired",
    "Phase",
    "Planned",
    "Progress",
    "Reclaimed",
    "RefList",
    "RefState",
    "Refs",
    "Resolve",
    "State",
    "Status",
    "StatusReply",
    "Tree",
    "Value",
    "Want",
    "Welcome",
    "decode",
    "said_by_peer",
]

PROTOCOL: Final = 1  # raised only when machines of two versions could misunderstand each other
TAG_BYTES: Final = 8
RECORD_BYTES: Final = 44  # address u64, length u32, digest
EXTENT_BYTES: Final = 16  # address u64, length u64
ASK_TAGS_MAX: Final = 16 << 10  # their answer is 704 KiB, one KNOWN
FETCH_EXTENTS_MAX: Final = 32 << 10  # 512 KiB
RANGE_BYTES: Final = 8  # start u32, end u32
RECLAIMED_BYTES_MAX: Final = 512 << 10  # of a WELCOME: who was away for longer begins anew
PAGE_BYTES: Final = 512 << 10  # of snapshots in a REF_LIST or LOG_PAGE; who fills one stops there and says `more`
ARRIVED_MAX: Final = 8192  # seqs in one FOLLOW, 64 KiB; snapshots beyond them come again
CHANGES_MAX: Final = 4096  # names in one CHANGES, of half a MiB together
PROGRESS_MAX: Final = 1 << 17  # of one request: a day and a half of one a second; who says more does nothing else
SAID_BY_PEER: Final = "the other machine said so"
_TEXT_CHARACTERS_MAX: Final = 64 << 10
_VALUES_MAX: Final = 64  # of a FAILURE
_OUTSTANDING_MAX: Final = 1024  # requests without an answer; more than that is nobody's pipeline


# -- what is said ------------------------------------------------------------------------------------------------------

Natural = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Time = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Text = Annotated[str, Meta(max_length=_TEXT_CHARACTERS_MAX)]
Name = Annotated[str, Meta(max_length=255)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digest0 = Annotated[bytes, Meta(max_length=32)]
"""A digest, or empty."""
Prefix = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""The first 16 bytes of a digest: enough to tell one that was computed here from every other."""
Prefix0 = Annotated[bytes, Meta(max_length=16)]
"""The first 16 bytes of a snapshot's id, or empty."""
HashPrefix = Annotated[bytes, Meta(min_length=8, max_length=8)]
"""The first 8 bytes of a journal entry's hash: with its seq, what a client remembers of a position."""
Path = Annotated[bytes, Meta(max_length=64 << 10)]
Lines = Annotated[list[Annotated[bytes, Meta(max_length=4096)]], Meta(max_length=4096)]
Snapshot0 = Annotated[bytes, Meta(max_length=64 << 10)]
"""The bytes of a snapshot, or empty."""
Segment = Annotated[int, Meta(ge=1, lt=1 << 38)]
Segment0 = Annotated[int, Meta(ge=0, lt=1 << 38)]
Head = Annotated[int, Meta(ge=0, le=SEGMENT_BYTES)]
Kind: TypeAlias = Literal["file", "directory", "symlink", "fifo", "char-device", "block-device"]
Scalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = str | int | float | bool | list[Scalar] | None
Values = Annotated[dict[str, Value], Meta(max_length=_VALUES_MAX)]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """A body that is one array."""


class State(_Message, frozen=True, array_like=True):
    """A ref names this snapshot."""

    seq: Natural = 0
    """The journal entry that moved the ref there."""
    id: Digest0 = b""
    """Empty: there is no such ref."""
    snapshot: Snapshot0 = b""
    """Empty: it is the one of which the client gave the id."""

    def __post_init__(self) -> None:
        _empty_or(32, self.id)


class Leased(_Message, frozen=True, array_like=True):
    """A segment that the client may fill from `head` on, until the session ends."""

    segment: Segment
    head: Head


class Hello(_Message, frozen=True, array_like=True):
    """Who speaks, to which volume, what for. The one body whose fields are the same in every version, for ever."""

    protocol: Natural
    software: Name
    """The version of PacketFS, for people."""
    volume: Annotated[bytes, Meta(max_length=4096)]
    """Path of the volume on the origin, or its name there, exactly as it was typed. After a NUL: of a directory (at a
    server `EXPORT:/DIR`), for which the origin keeps a volume of its own."""
    intent: Literal["read", "write"]
    create: bool = False
    """Make the volume if there is none."""
    ref: Name = ""
    """The ref that it will be about; its state comes with WELCOME. Empty: none, or a WANT that goes along names it."""
    known: Prefix0 = b""
    """Beginning of the id of the snapshot of `ref` that the client holds."""
    known_seq: Natural = 0
    """The journal's position when the client last saw it, and the beginning of its hash: does the history go on?"""
    known_hash: Annotated[bytes, Meta(max_length=8)] = b""

    def __post_init__(self) -> None:
        _empty_or(16, self.known)
        _empty_or(8, self.known_hash)
        if self.ref:
            _ref(self.ref)
        if self.create and self.intent != "write":
            raise ValueError("it would make a volume to read from")


class Pair(_Message, frozen=True, array_like=True):
    """Let the machine whose key this channel was opened with in, by this token. Said once, instead of HELLO."""

    protocol: Natural
    software: Name
    secret: Annotated[bytes, Meta(min_length=16, max_length=16)]
    """Of a token; nobody else has it."""
    name: Name = ""
    """What the machine would like to be called."""


class Paired(_Message, frozen=True, array_like=True):
    """It is let in."""

    server: Name
    """What the server calls itself."""
    name: Name
    """What it calls the client."""
    role: Literal["read", "write", "admin"]
    volume: Name
    """What the token is for; `*` is every volume."""


class Check(_Message, frozen=True, array_like=True):
    """Does `ref` still name the snapshot whose id begins with `id`?"""

    ref: Name
    id: Prefix0 = b""

    def __post_init__(self) -> None:
        _empty_or(16, self.id)
        _ref(self.ref)


class Resolve(_Message, frozen=True, array_like=True):
    """Which snapshot of `ref` does `when` mean?"""

    ref: Name
    when: Name = "latest"
    """As in a location, with a zone where it is a time."""

    def __post_init__(self) -> None:
        _ref(self.ref)


class Ask(_Message, frozen=True, array_like=True):
    """Which of these chunks do you hold? Tags as u64 little-endian."""

    tags: Annotated[bytes, Meta(max_length=ASK_TAGS_MAX * TAG_BYTES)]

    def __post_init__(self) -> None:
        _multiple(TAG_BYTES, self.tags)


class Known(_Message, frozen=True, array_like=True):
    """For each tag in order where it is: address u64 (0: nowhere), length u32, digest."""

    records: Annotated[bytes, Meta(max_length=ASK_TAGS_MAX * RECORD_BYTES)]

    def __post_init__(self) -> None:
        _multiple(RECORD_BYTES, self.records)


class Lease(_Message, frozen=True, array_like=True):
    """Give me a segment to fill. The one before it is done with."""


class Commit(_Message, frozen=True, array_like=True):
    """Everything has been said: let `ref` name the tree that was sent, if it still names the base of BEGIN.

    Without a base the ref has to be new. `host`, `user` and `paths` that are None are those of the base.
    """

    ref: Name
    root_digest: Prefix
    host: Text | None = None
    user: Text | None = None
    paths: list[Path] | None = None
    statistics: Annotated[list[Natural], Meta(max_length=64)] = []
    """The fields of `format.snapshot.Statistics`, in their order."""
    message: Text = ""
    root_is_source: bool = False
    tags: Annotated[list[Name], Meta(max_length=64)] = []
    source_time_ns: Time | None = None

    def __post_init__(self) -> None:
        _ref(self.ref)


class Committed(_Message, frozen=True, array_like=True):
    """Durable, and the ref is there. From `time_ns` and its own COMMIT the client can make the snapshot's bytes."""

    seq: Natural
    time_ns: Time
    hash: HashPrefix
    """Of journal entry `seq`: with it, the position."""
    id: Prefix
    leased_segment: Segment0 = 0
    """The lease goes on, from `leased_head`; 0: it is over."""
    leased_head: Head = 0
    cpu_ms: Natural = 0
    """What the session has used at the origin so far."""
    anonymous_kib: Natural = 0
    """The most anonymous memory that was seen there."""


class Want(_Message, frozen=True, array_like=True):
    """Send me a snapshot, as far as I cannot make it from what I hold."""

    ref: Name
    when: Name = "latest"
    path: Path = b""
    """Only the content beneath it is wanted, as a path inside the snapshot; empty: all."""
    base: Prefix0 = b""
    """Beginning of the id of the snapshot whose tree and data the client holds; empty: none."""
    data: bool = True
    """False: the tree only."""

    def __post_init__(self) -> None:
        _empty_or(16, self.base)
        _ref(self.ref)


class Planned(_Message, frozen=True, array_like=True):
    """This is the snapshot; TREE and LITERALS follow, then DONE.

    From the tree and what is said here the client makes the snapshot's bytes; that they have the id proves both. Where
    that cannot be (a snapshot of a later version) the bytes are in `snapshot`. `host`, `user` and `paths` that are None
    are those of the base.
    """

    seq: Natural
    id: Prefix0 = b""
    """Empty: it is the client's base, and nothing follows."""
    base: Prefix0 = b""
    """The base that is used: the client's, or none because it is not known here any more."""
    snapshot: Snapshot0 = b""
    time_ns: Time = 0
    parent: Digest0 | None = None
    """None: the base."""
    host: Text | None = None
    user: Text | None = None
    paths: list[Path] | None = None
    statistics: Annotated[list[Natural], Meta(max_length=64)] = []
    message: Text = ""
    root_is_source: bool = False

    def __post_init__(self) -> None:
        _empty_or(16, self.id)
        _empty_or(16, self.base)
        _empty_or(32, self.parent or b"")


class Fetch(_Message, frozen=True, array_like=True):
    """Send me these extents: address u64, length u64, little-endian."""

    extents: Annotated[bytes, Meta(max_length=FETCH_EXTENTS_MAX * EXTENT_BYTES)]

    def __post_init__(self) -> None:
        _multiple(EXTENT_BYTES, self.extents)


class Done(_Message, frozen=True, array_like=True):
    """Everything that was asked for has been sent."""

    literal_bytes: Natural = 0
    delta_bytes: Natural = 0
    """Those of them that were coded against a base."""
    coded_bytes: Natural = 0
    pointer_count: Natural = 0
    cpu_ms: Natural = 0
    """What the session has used at the origin so far."""
    anonymous_kib: Natural = 0
    """The most anonymous memory that was seen there."""


class Literals(NamedTuple):
    """A body of literals (docs/formats/literals.md), as it is."""

    body: "Buffer"
    rest: "Buffer" = b""
    """What follows `body`, where it lies apart; what was received is whole."""


class Begin(_Message, frozen=True, array_like=True):
    """The literals have been sent; the tree that follows is made from that of the snapshot `base`, or from nothing."""

    base: Prefix0 = b""

    def __post_init__(self) -> None:
        _empty_or(16, self.base)


class Tree(NamedTuple):
    """A part of a tree script (docs/formats/tree-script.md), as it is."""

    body: "Buffer"


class Ack(_Message, frozen=True, array_like=True):
    """That many raw bytes of the literals of this session are durable."""

    durable_bytes: Natural


class RefState(_Message, frozen=True, array_like=True):
    """A ref and what it names."""

    name: Name
    seq: Natural
    visited_ns: Time
    id: Digest
    snapshot: Snapshot0

    def __post_init__(self) -> None:
        _ref(self.name)


class Refs(_Message, frozen=True, array_like=True):
    """Which refs are there, by name, after `after`?"""

    after: Name = ""

    def __post_init__(self) -> None:
        if self.after:
            _ref(self.after)


class RefList(_Message, frozen=True, array_like=True):
    """Refs by name; with `more`, ask again after the last."""

    refs: list[RefState]
    more: bool = False


class Log(_Message, frozen=True, array_like=True):
    """The snapshots of `ref` before journal entry `before_seq`, newest first."""

    ref: Name
    before_seq: Natural = (1 << 63) - 1

    def __post_init__(self) -> None:
        _ref(self.ref)


class LogPage(_Message, frozen=True, array_like=True):
    """Some of them; with `more`, ask again before the last."""

    states: list[State]
    more: bool = False


class Status(_Message, frozen=True, array_like=True):
    """How large is the volume, and where does its journal stand?"""


class StatusReply(_Message, frozen=True, array_like=True):
    """The fields of `volume.status.Status` by name; bytes as hex, a position as a list."""

    fields: Values


class Reclaimed(_Message, frozen=True, array_like=True):
    """What is gone of a segment: start and end of each range as u32, little-endian."""

    segment: Segment
    ranges: Annotated[bytes, Meta(max_length=RECLAIMED_BYTES_MAX)]

    def __post_init__(self) -> None:
        _multiple(RANGE_BYTES, self.ranges)


class Welcome(_Message, frozen=True, array_like=True):
    """Whom one speaks to, and what is needed to work on the volume."""

    protocol: Natural
    software: Name
    volume_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    chunks: Annotated[list[Annotated[int, Meta(ge=0, lt=1 << 32)]], Meta(min_length=4, max_length=4)]
    """min, avg, max, normalisation."""
    keys: Annotated[bytes, Meta(max_length=64)]
    """Digest key, and for who may write the cut key: `Space.peer_keys`."""
    seq: Natural
    hash: HashPrefix
    unique_bytes: Natural = 0
    created: bool = False
    created_ns: Time = 0
    state: State | None = None
    """Of HELLO's ref; None when it named none."""
    leased: Leased | None = None
    """A first lease, for who wants to write."""
    continues: bool = True
    """Whether the journal goes on from the position that the client knew. If not, the origin went back in time."""
    reclaimed: Annotated[list[Reclaimed], Meta(max_length=1 << 16)] | None = []
    """What is gone of segments of which anything was reclaimed since then; None: too much to tell."""


class Ingest(_Message, frozen=True, array_like=True):
    """Let `found` name what the directory of HELLO holds now."""

    exclude: Lines = []
    """What is not looked at: lines as in .gitignore."""
    checksum: bool = False
    """Read every file."""
    may_be_missing: bool = False
    """No such directory is as good as an empty one; without, it is an error."""


class Missed(_Message, frozen=True, array_like=True):
    """A name with which something did not work, as `events.Problem`."""

    path: Path
    kind: ProblemKind
    errno: Natural = 0


class Ingested(_Message, frozen=True, array_like=True):
    """`found` names it, unless it is missing."""

    unique_bytes: Natural
    """What the volume holds now."""
    missing: bool = False
    """There is no such directory."""
    unread: Natural = 0
    """Names that `found` lacks because they could not be read."""
    problems: Annotated[list[Missed], Meta(max_length=64)] = []
    """The first of what went wrong."""
    disk_bytes: Natural = 0
    """What the volume takes at the origin."""


class Checkout(_Message, frozen=True, array_like=True):
    """Make the directory of HELLO hold this snapshot, as a pull would."""

    id: Prefix0
    """Empty: the one that this session has committed last. It may be asked for before that is answered."""
    exclude: Lines = []
    """What is neither written nor deleted nor touched: lines as in .gitignore."""
    delete: bool = False
    delete_max: Natural | None = None
    backup: Annotated[bytes, Meta(max_length=4096)] | None = None
    """Where what is replaced or deleted is moved, as it was typed; a relative path begins in the directory."""
    checksum: bool = False
    owners: bool = True
    """Whether owners are set."""
    numeric: bool = False
    check_space: bool = True
    tell: bool = False
    """Whether CHANGES are wanted."""

    def __post_init__(self) -> None:
        _empty_or(16, self.id)


class Changed(_Message, frozen=True, array_like=True):
    """What was done to one name, as `events.Change`."""

    path: Path
    action: Literal["created", "replaced", "metadata", "deleted"]
    kind: Kind
    size: Natural
    letters: Annotated[str, Meta(max_length=16, pattern=r"\A[ -~]*\Z")]


class Changes(_Message, frozen=True, array_like=True):
    """What was done since the last of these."""

    changes: Annotated[list[Changed], Meta(max_length=CHANGES_MAX)]


class Progress(_Message, frozen=True, array_like=True):
    """The origin is at work, and how far: said now and then, so that a long silence means that it is gone."""

    files: Natural
    bytes: Natural
    files_total: Natural | None = None
    bytes_total: Natural | None = None


class CheckedOut(_Message, frozen=True, array_like=True):
    """The directory holds it, but for what is counted here."""

    created: Natural
    replaced: Natural
    metadata: Natural
    deleted: Natural
    unchanged: Natural
    not_deleted: Natural = 0
    unsupported: Natural = 0
    owner_not_set: Natural = 0
    attributes_not_set: Natural = 0
    missed: Annotated[list[Missed], Meta(max_length=64)] = []
    """The first of what could not be set."""
    written_bytes: Natural = 0
    disk_bytes: Natural = 0
    """What the volume takes at the origin."""
    cpu_ms: Natural = 0
    """What the session has used at the origin so far."""
    anonymous_kib: Natural = 0


class Join(_Message, frozen=True, array_like=True):
    """I am to be a full replica: what do I need besides what WELCOME says?"""


class Joined(_Message, frozen=True, array_like=True):
    """What makes a full holder of the volume."""

    secret: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """The volume's own."""
    number: Annotated[int, Meta(ge=0, lt=64)] = 0
    """Of the epochs that the copy may come to begin: no other copy was given it here."""


class Follow(_Message, frozen=True, array_like=True):
    """I am at this position, durably: send me what came after it."""

    seq: Natural
    hash: Digest
    waits: bool = False
    """If there is nothing, answer when there is."""
    arrived: Annotated[bytes, Meta(max_length=ARRIVED_MAX * 8)] = b""
    """Seqs of commits after the position whose snapshots I hold whole, u64 little-endian."""
    proof: Annotated[bytes, Meta(max_length=64 << 10)] = b""
    """The entry that began the newest epoch I know, with its MAC; empty: I know only the first."""

    def __post_init__(self) -> None:
        _multiple(8, self.arrived)


class Entry(_Message, frozen=True, array_like=True):
    """An entry of the journal. Of a commit that `carries` its snapshot LITERALS and TREE follow."""

    address: Annotated[int, Meta(ge=0)]  # of 64 bits, as all that MessagePack has
    """Where it rests."""
    data: Annotated[bytes, Meta(max_length=64 << 10)]
    carries: bool = False
    base: Natural = 0
    """The entry whose snapshot it is coded against; 0: none."""
    ends: bool = True
    """Whether all that came up to here can be entered once this has: no snapshot is named that is not sent."""


class Followed(_Message, frozen=True, array_like=True):
    """That is all for now."""

    seq: Natural
    """The last entry there is."""
    hash: Digest
    bytes: Natural = 0
    """Content of commits after what was sent."""
    oldest_ns: Time = 0
    """Journal time of the first entry after what was sent; 0: there is none."""
    now_ns: Time = 0
    """The origin's clock."""


class At(_Message, frozen=True, array_like=True):
    """What is entry `seq` of the journal?"""

    seq: Natural


class Fence(_Message, frozen=True, array_like=True):
    """A later epoch began elsewhere: here is the entry that began it, with its MAC, which only full holders make."""

    proof: Annotated[bytes, Meta(max_length=64 << 10)]
    origin: Name = ""
    """Where, for people."""


class Fenced(_Message, frozen=True, array_like=True):
    """Nothing is written here any more."""

    epoch: Natural


class Adopt(_Message, frozen=True, array_like=True):
    """What follows is of an earlier epoch, committed there by an origin that did not know that it was none any more.

    From here on the session may fill segments of earlier epochs, and a COMMIT continues what its ref names.
    """


class Adopted(_Message, frozen=True, array_like=True):
    """It may."""


class Bye(_Message, frozen=True, array_like=True):
    """That was all."""


class Failure(_Message, frozen=True, array_like=True):
    """It did not work; the class says who can act on it."""

    kind: Name
    """Name of a class of `errors.py`."""
    code: Name
    message: Text
    hint: Text = ""
    values: Values = {}

    @classmethod
    def of(cls, error: PacketFSError) -> "Failure":
        """What to say of `error`. Text is cut where it is too long; bytes become hex, what is not simple text."""
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _CLASSES)
        values = {_text(name)[:255]: _value(value) for name, value in list(error.values.items())[:_VALUES_MAX]}
        return cls(kind, error.code[:255], _short(error.message), _short(error.hint), values)

    def error(self) -> PacketFSError:
        """The error to raise where it is heard, with a note that the peer said it.

        A class, code or value that cannot be is replaced, never believed; text comes as it is, and is escaped by
        whoever shows it.
        """
        kind = _CLASSES.get(self.kind, PacketFSError)
        code = self.code if _CODE.fullmatch(self.code) else kind.default_code
        values = {name: value for name, value in self.values.items() if name not in _TAKEN}
        error = kind(self.message, code=code, hint=self.hint, **cast("dict[str, object]", values))
        error.add_note(SAID_BY_PEER)
        return error


def said_by_peer(error: BaseException) -> bool:
    """Whether it is the peer that failed, and told us."""
    return SAID_BY_PEER in getattr(error, "__notes__", ())


Request: TypeAlias = (
    Hello | Pair | Check | Resolve | Ask | Lease | Commit | Want | Fetch | Refs | Log | Status | Ingest | Checkout
    | Join | Follow | At | Fence | Adopt
)  # fmt: skip
Answer: TypeAlias = (
    Welcome | Paired | State | Known | Leased | Committed | Planned | Done | RefList | LogPage | StatusReply | Ingested
    | CheckedOut | Joined | Entry | Followed | Fenced | Adopted
)  # fmt: skip
Message: TypeAlias = Request | Answer | Literals | Begin | Tree | Ack | Changes | Progress | Bye | Failure


class Event(NamedTuple):
    """What was heard, and which request it is or answers (0: neither)."""

    request: int
    message: Message


# -- bodies ------------------------------------------------------------------------------------------------------------

_STRUCTS: Final[dict[FrameType, type[_Message]]] = {
    FrameType.HELLO: Hello,
    FrameType.CHECK: Check,
    FrameType.RESOLVE: Resolve,
    FrameType.ASK: Ask,
    FrameType.LEASE: Lease,
    FrameType.COMMIT: Commit,
    FrameType.WANT: Want,
    FrameType.FETCH: Fetch,
    FrameType.REFS: Refs,
    FrameType.LOG: Log,
    FrameType.STATUS: Status,
    FrameType.BYE: Bye,
    FrameType.PAIR: Pair,
    FrameType.BEGIN: Begin,
    FrameType.WELCOME: Welcome,
    FrameType.STATE: State,
    FrameType.KNOWN: Known,
    FrameType.LEASED: Leased,
    FrameType.ACK: Ack,
    FrameType.COMMITTED: Committed,
    FrameType.PLANNED: Planned,
    FrameType.DONE: Done,
    FrameType.REF_LIST: RefList,
    FrameType.LOG_PAGE: LogPage,
    FrameType.STATUS_REPLY: StatusReply,
    FrameType.FAILURE: Failure,
    FrameType.INGEST: Ingest,
    FrameType.CHECKOUT: Checkout,
    FrameType.INGESTED: Ingested,
    FrameType.CHANGES: Changes,
    FrameType.CHECKED_OUT: CheckedOut,
    FrameType.PROGRESS: Progress,
    FrameType.PAIRED: Paired,
    FrameType.JOIN: Join,
    FrameType.FOLLOW: Follow,
    FrameType.AT: At,
    FrameType.FENCE: Fence,
    FrameType.ADOPT: Adopt,
    FrameType.JOINED: Joined,
    FrameType.ENTRY: Entry,
    FrameType.FOLLOWED: Followed,
    FrameType.FENCED: Fenced,
    FrameType.ADOPTED: Adopted,
}
_TYPES: Final[dict[type, FrameType]] = {struct: kind for kind, struct in _STRUCTS.items()} | {
    Literals: FrameType.LITERALS,
    Tree: FrameType.TREE,
}
# Fields that came later: behind which field, and what they are where nothing is said. Then they are left out, and the
# body is what it was before.
_LATER: Final[dict[type, tuple[int, tuple[object, ...]]]] = {
    Commit: (8, ([], None)),
    Welcome: (13, ([],)),
    Joined: (1, (0,)),
}
_encoder = msgspec.msgpack.Encoder()
_decoders = {kind: msgspec.msgpack.Decoder(struct) for kind, struct in _STRUCTS.items()}


def decode(frame: Frame) -> Message:
    """What the body of `frame` says; InvalidError "bad-frame" when it cannot be what the type claims."""
    if frame.type is FrameType.LITERALS:
        return Literals(frame.body)
    if frame.type is FrameType.TREE:
        return Tree(frame.body)
    try:
        return cast("Message", _decoders[frame.type].decode(frame.body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidError(
            f"the body of a {frame.type.name} cannot be read: {error}", code="bad-frame", type=int(frame.type)
        ) from None


def _frame(message: Message, request: int) -> Buffers:
    match message:
        case Literals():
            return encode(FrameType.LITERALS, request, message.body, message.rest)
        case Tree():
            return encode(FrameType.TREE, request, message.body)
        case _:
            return encode(_TYPES[type(message)], request, _encoder.encode(_without_later(message)))


def _without_later(message: _Message) -> object:
    first, nothing = _LATER.get(type(message), (0, ()))
    fields = msgspec.structs.astuple(message) if first else ()
    return fields[:first] if first and fields[first:] == nothing else message


def _empty_or(length: int, data: bytes) -> None:
    if len(data) not in (0, length):
        raise ValueError(f"{len(data)} bytes where there are {length} or none")


def _multiple(length: int, data: bytes) -> None:
    if len(data) % length:
        raise ValueError(f"{len(data)} bytes are no multiple of {length}")


def _ref(name: str) -> None:
    try:
        check_ref(name)
    except UsageError as error:
        raise ValueError(error.message) from None


def _text(text: str) -> str:
    """Text that is valid UTF-8, as snapshots have it: what came as surrogates becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _short(text: str) -> str:
    """The same for what people read, cut; names in it stay recognisable."""
    return text[:_TEXT_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode("utf-8")[: _TEXT_CHARACTERS_MAX // 8]


def _value(value: object) -> Value:
    if isinstance(value, list | tuple):
        return [_scalar(item) for item in value[:_VALUES_MAX]]
    return _scalar(value)


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, bytes):
        return value[:2048].hex()
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return _short(str(value))[:4096]


_CLASSES: Final[Mapping[str, type[PacketFSError]]] = {
    name: kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, PacketFSError)
}
_CODE: Final = re.compile(r"[a-z0-9-]{1,64}")
_TAKEN: Final = frozenset({"self", "message", "code", "hint"})  # what the constructor calls its own arguments


# -- when it may be said -----------------------------------------------------------------------------------------------


class Phase(Enum):
    """Where a session is. Both sides have the same; the client's is ahead by what is on its way."""

    NEW = "nothing has been said"
    GREETING = "HELLO has been said and not answered"
    PAIRING = "PAIR has been said and not answered"
    READY = "anything may be asked"
    SENDING = "literals or a tree have been sent that no commit has claimed"
    WAITING = "a commit has been asked for"
    CLOSED = "it is over"


_READING: Final = frozenset(
    {FrameType.CHECK, FrameType.RESOLVE, FrameType.ASK, FrameType.WANT, FrameType.FETCH, FrameType.REFS, FrameType.LOG,
     FrameType.STATUS}
)  # fmt: skip
_WRITING: Final = frozenset({FrameType.LEASE, FrameType.LITERALS, FrameType.BEGIN, FrameType.TREE, FrameType.COMMIT})
_OF_DIRECTORY: Final = frozenset({FrameType.INGEST, FrameType.CHECKOUT})
_OF_COPIES: Final = frozenset({FrameType.JOIN, FrameType.FOLLOW, FrameType.AT, FrameType.FENCE, FrameType.ADOPT})

SPOKEN: Final[Mapping[Phase, frozenset[FrameType]]] = {
    Phase.NEW: frozenset({FrameType.HELLO, FrameType.PAIR}),
    Phase.PAIRING: frozenset({FrameType.BYE}),
    # A question may follow HELLO at once, so that it costs no round trip of its own. What needs a lease may not.
    Phase.GREETING: _READING | {FrameType.INGEST, FrameType.BYE},
    Phase.READY: _READING | _WRITING | _OF_DIRECTORY | _OF_COPIES | {FrameType.BYE},
    # No WANT or FETCH, which stream: literals are on their way already.
    Phase.SENDING: _WRITING | {FrameType.ASK, FrameType.CHECK, FrameType.BYE},
    # What is being committed may be checked out at once, so that it costs no round trip of its own.
    Phase.WAITING: frozenset({FrameType.CHECKOUT, FrameType.BYE}),
    Phase.CLOSED: frozenset(),
}
"""What the client may say in each phase; of it, only a session of intent "write" the frames that write."""

_CLAIMED: Final = frozenset({FrameType.LITERALS, FrameType.BEGIN, FrameType.TREE, FrameType.COMMIT})
_UNANSWERED: Final = frozenset({FrameType.LITERALS, FrameType.BEGIN, FrameType.TREE, FrameType.BYE})
_ANSWERS: Final[Mapping[FrameType, FrameType]] = {
    FrameType.HELLO: FrameType.WELCOME,
    FrameType.PAIR: FrameType.PAIRED,
    FrameType.CHECK: FrameType.STATE,
    FrameType.RESOLVE: FrameType.STATE,
    FrameType.ASK: FrameType.KNOWN,
    FrameType.LEASE: FrameType.LEASED,
    FrameType.COMMIT: FrameType.COMMITTED,
    FrameType.WANT: FrameType.DONE,
    FrameType.FETCH: FrameType.DONE,
    FrameType.REFS: FrameType.REF_LIST,
    FrameType.LOG: FrameType.LOG_PAGE,
    FrameType.STATUS: FrameType.STATUS_REPLY,
    FrameType.INGEST: FrameType.INGESTED,
    FrameType.CHECKOUT: FrameType.CHECKED_OUT,
    FrameType.JOIN: FrameType.JOINED,
    FrameType.FOLLOW: FrameType.FOLLOWED,
    FrameType.AT: FrameType.ENTRY,
    FrameType.FENCE: FrameType.FENCED,
    FrameType.ADOPT: FrameType.ADOPTED,
}
_STREAMED: Final[Mapping[FrameType, frozenset[FrameType]]] = {
    FrameType.WANT: frozenset({FrameType.LITERALS, FrameType.TREE}),
    FrameType.FETCH: frozenset({FrameType.LITERALS}),
    FrameType.INGEST: frozenset({FrameType.PROGRESS}),
    FrameType.CHECKOUT: frozenset({FrameType.PROGRESS, FrameType.CHANGES}),
    FrameType.FOLLOW: frozenset({FrameType.ENTRY, FrameType.LITERALS, FrameType.TREE, FrameType.PROGRESS}),
}
_FROM_ORIGIN: Final = frozenset(_ANSWERS.values()) | {
    FrameType.PLANNED, FrameType.ACK, FrameType.FAILURE, FrameType.PROGRESS, FrameType.CHANGES
}  # fmt: skip


class _Pending:
    """A request that has not been answered in full."""

    __slots__ = ("message", "number", "planned", "told", "type")

    def __init__(self, number: int, message: Message) -> None:
        self.number = number
        self.message = message
        self.type = _TYPES[type(message)]
        self.planned = self.type is not FrameType.WANT  # whether what streams may begin
        self.told = 0  # PROGRESS

    def expects(self, kind: FrameType) -> bool:
        """Whether an answer of that type may come next."""
        if not self.planned:
            return kind is FrameType.PLANNED
        if kind is FrameType.PROGRESS and self.told >= PROGRESS_MAX:
            return False
        return kind is _ANSWERS[self.type] or kind in _STREAMED.get(self.type, ())


class _Side:
    """The rules, which are the same on both sides: in what order requests and answers go, and what they change."""

    def __init__(self, software: str) -> None:
        """`software` is the version of PacketFS here, to be named when the two do not fit."""
        self.software = software
        self.phase = Phase.NEW
        self.intent: Literal["read", "write"] = "read"
        self._pending: deque[_Pending] = deque()
        self._last = 0

    @property
    def request(self) -> int:
        """The number of the last request: which answer to wait for, after having said one."""
        return self._last

    @property
    def outstanding(self) -> int:
        """How many requests have not been answered in full."""
        return len(self._pending)

    def _may_ask(self, kind: FrameType) -> bool:
        if kind in _WRITING | _OF_DIRECTORY | {FrameType.ADOPT} and self.intent != "write":
            return False
        # Two streams at once, neither of them read, would stand still for ever; and a commit waits for its ingest.
        if kind in _CLAIMED and any(pending.type in _STREAMED for pending in self._pending):
            return False
        return kind in SPOKEN[self.phase] and (kind in _UNANSWERED or len(self._pending) < _OUTSTANDING_MAX)

    def _asked(self, message: Message) -> int:
        """The client said `message`; its number."""
        match message:
            case Hello():
                self.phase = Phase.GREETING
                self.intent = message.intent
            case Pair():
                self.phase = Phase.PAIRING
            case Literals() | Begin() | Tree():
                self.phase = Phase.SENDING
                return 0
            case Commit():
                self.phase = Phase.WAITING
            case Bye():
                self.phase = Phase.CLOSED
                return 0
        self._last += 1
        self._pending.append(_Pending(self._last, message))
        return self._last

    def _may_answer(self, kind: FrameType) -> bool:
        if self.phase in (Phase.NEW, Phase.CLOSED):
            return False
        if kind is FrameType.ACK:
            return self.phase not in (Phase.GREETING, Phase.PAIRING) and self.intent == "write"
        return bool(self._pending) and self._pending[0].expects(kind)

    def _answered(self, message: Message) -> int:
        """The origin said `message`; the number of the request that it answers."""
        if isinstance(message, Ack):
            return 0
        pending = self._pending[0]
        if isinstance(message, Planned):
            pending.planned = True
        elif isinstance(message, Progress):
            pending.told += 1
        elif _TYPES[type(message)] is _ANSWERS[pending.type]:
            self._pending.popleft()
            if isinstance(message, Welcome | Committed):
                self.phase = Phase.READY
            elif isinstance(message, Paired):
                self.phase = Phase.CLOSED
        return pending.number

    def _failed(self, request: int) -> None:
        """The origin said FAILURE, of the oldest request or of none."""
        pending = self._pending.popleft() if request else None
        if pending is None or pending.type in (FrameType.HELLO, FrameType.PAIR):
            self.phase = Phase.CLOSED
            self._pending.clear()
        elif pending.type is FrameType.COMMIT:
            self.phase = Phase.READY

    def _violation(self, frame: Frame, why: str = "") -> NoReturn:
        waiting = self._pending[0].type.name if self._pending else "no request"
        phase = self.phase
        self.phase = Phase.CLOSED
        self._pending.clear()
        why = why or f"{waiting} is the oldest without an answer"
        raise InvalidError(
            f"the peer said {frame.type.name} when {phase.value}; {why}",
            code="protocol-violation",
            hint="the versions of PacketFS on the two machines do not fit, or the peer is none",
            phase=phase.name,
            type=frame.type.name,
            request=frame.request,
        )


class Client(_Side):
    """The side that asks. `say` gives the frame to write; `receive` tells what an incoming frame says."""

    def receive(self, frame: Frame) -> Event:
        """What the origin said. A FAILURE is raised as the error that it names; `said_by_peer` tells it from ours.

        InvalidError "bad-frame" or "protocol-violation" ends the session, and so does RefusedError "version-skew".
        After any other error of the peer the session goes on, unless `phase` is CLOSED.
        """
        if frame.type is FrameType.FAILURE:
            self._fail(frame)
        if frame.type not in _FROM_ORIGIN and frame.type not in (FrameType.LITERALS, FrameType.TREE):
            self._violation(frame, "only a client says that")
        if not self._may_answer(frame.type):
            self._violation(frame)
        if frame.request != (0 if frame.type is FrameType.ACK else self._pending[0].number):
            self._violation(frame, f"it answers request {frame.request} out of turn")
        message = self._decoded(frame)
        asked = self._pending[0].message if self._pending else None
        match message, asked:
            case Known(records), Ask(tags) if len(records) // RECORD_BYTES != len(tags) // TAG_BYTES:
                self._violation(frame, "it has more or fewer records than there were tags")
            case Planned(), Want(base=base) if message.base not in (b"", base):
                self._violation(frame, "it names a base that was not offered")
            case Welcome(protocol=protocol, software=software), _ if protocol != PROTOCOL:
                self.phase = Phase.CLOSED
                raise _skew(self.software, software, protocol)
        return Event(self._answered(message), message)

    def say(self, message: Message) -> Buffers:
        """Ask or send something. InvalidError if it is longer than a frame may be; then nothing was said."""
        kind = _TYPES[type(message)]
        assert self._may_ask(kind), f"{kind.name} is said when {self.phase.value}"
        # Encoded first: a body that is too long is refused before anything has changed.
        numbered = self._last + 1 if kind not in _UNANSWERED else 0
        buffers = _frame(message, numbered)
        self._asked(message)
        return buffers

    def _fail(self, frame: Frame) -> NoReturn:
        known = frame.request == 0 or (bool(self._pending) and frame.request == self._pending[0].number)
        if self.phase in (Phase.NEW, Phase.CLOSED) or not known:
            self._violation(frame)
        failure = self._decoded(frame)
        assert isinstance(failure, Failure)
        self._failed(frame.request)
        raise failure.error()

    def _decoded(self, frame: Frame) -> Message:
        try:
            return decode(frame)
        except InvalidError:
            self.phase = Phase.CLOSED
            raise


class Origin(_Side):
    """The side that answers. `receive` tells what was asked, in order; `say` gives the frame that answers."""

    def receive(self, frame: Frame) -> Event:
        """What the client said.

        InvalidError "bad-frame" or "protocol-violation", and RefusedError "version-skew", end the session: say
        `fail(error)` so that the client knows, and close.
        """
        if frame.type in _FROM_ORIGIN:
            self._violation(frame, "only an origin says that")
        if not self._may_ask(frame.type):
            self._violation(frame)
        if frame.request != (0 if frame.type in _UNANSWERED else self._last + 1):
            self._violation(frame, f"it is numbered {frame.request} after request {self._last}")
        message = decode(frame)
        number = self._asked(message)
        if isinstance(message, Hello | Pair) and message.protocol != PROTOCOL:
            raise _skew(self.software, message.software, message.protocol)
        return Event(number, message)

    @property
    def asked(self) -> int:
        """The number of the request that the next answer is for; 0 when there is none."""
        return self._pending[0].number if self._pending else 0

    def failure(self, error: PacketFSError) -> Buffers:
        """Answer the oldest request with an error; without one (literals, a tree) this is `fail`."""
        number = self.asked
        self._failed(number)
        return _frame(Failure.of(error), number)

    def fail(self, error: PacketFSError) -> Buffers:
        """Tell why the session ends, whatever is outstanding."""
        self._failed(0)
        return _frame(Failure.of(error), 0)

    def say(self, message: Message) -> Buffers:
        """Answer the oldest request, or go on answering it. InvalidError as for `Client.say`."""
        kind = _TYPES[type(message)]
        assert self._may_answer(kind), f"{kind.name} is said when {self.phase.value}"
        buffers = _frame(message, 0 if kind is FrameType.ACK else self.asked)
        self._answered(message)
        return buffers


def _skew(software: str, peer_software: str, peer_protocol: int) -> RefusedError:
    """The error, as it is true on both machines."""
    older = software if peer_protocol > PROTOCOL else peer_software
    return RefusedError(
        f"packetfs {software} speaks protocol {PROTOCOL}, packetfs {peer_software} of the peer {peer_protocol}",
        code="version-skew",
        hint=f"upgrade packetfs {older}",
        software=software,
        protocol=PROTOCOL,
        peer_software=peer_software,
        peer_protocol=peer_protocol,
    )
