"""One message of every type, and two small sessions as bytes; `python -m tests.wire.talk` explains the first."""

import struct
from collections.abc import Iterator

import msgspec

from packetfs.format.snapshot import Statistics
from packetfs.wire.frames import HEADER_BYTES, Buffers, Decoder, Frame, FrameType
from packetfs.wire.protocol import (
    PROTOCOL,
    Ack,
    Adopt,
    Adopted,
    Ask,
    At,
    Begin,
    Bye,
    Changed,
    Changes,
    Check,
    CheckedOut,
    Checkout,
    Client,
    Commit,
    Committed,
    Done,
    Entry,
    Failure,
    Fence,
    Fenced,
    Fetch,
    Follow,
    Followed,
    Hello,
    Ingest,
    Ingested,
    Join,
    Joined,
    Known,
    Lease,
    Leased,
    Literals,
    Log,
    LogPage,
    Message,
    Missed,
    Origin,
    Pair,
    Paired,
    Planned,
    Progress,
    RefList,
    Refs,
    RefState,
    Resolve,
    State,
    Status,
    StatusReply,
    Tree,
    Want,
    Welcome,
)

VERSION = "0.1.0"
ID = bytes(range(32))
NEW_ID = bytes(range(32, 64))
HASH = bytes(range(64, 96))
TIME_NS = 1_795_349_107_123_456_789

HELLO = Hello(
    PROTOCOL, VERSION, b"/srv/volumes/home", "read", ref="main", known=ID[:16], known_seq=7, known_hash=HASH[:8]
)
WELCOME = Welcome(
    PROTOCOL,
    VERSION,
    volume_id=bytes(range(16)),
    chunks=[8192, 32768, 131072, 2],
    keys=bytes(range(128, 192)),
    seq=7,
    hash=HASH[:8],
    unique_bytes=1_000_000,
    created_ns=TIME_NS,
    state=State(7, ID),
)
COMMIT = Commit(
    "main",
    root_digest=NEW_ID[:16],
    host="host.example",
    user="ann",
    paths=[b"/home/ann"],
    statistics=list(msgspec.structs.astuple(Statistics(files=3, logical_bytes=4096))),
)
INGEST = Ingest([b"*.o"], may_be_missing=True)
INGESTED = Ingested(1_000_000, unread=1, problems=[Missed(b"locked", "unreadable", 13)], disk_bytes=1_200_000)
CHECKOUT = Checkout(NEW_ID[:16], [b"*.o"], delete=True, delete_max=100, backup=b"before", tell=True)
CHANGES = Changes(
    [Changed(b"a/b", "replaced", "file", 4096, ">f.st......"), Changed(b"c", "deleted", "file", 0, "*deleting  ")]
)
CHECKED_OUT = CheckedOut(0, 1, 0, 1, 40, missed=[Missed(b"a/b", "owner-not-set")], owner_not_set=1, written_bytes=4096)
FOLLOW = Follow(7, HASH, waits=True, arrived=(9).to_bytes(8, "little"), proof=b"entry and MAC")
ENTRY = Entry((1 << 26) + 8192, b"entry", carries=True, base=7)
FOLLOWED = Followed(9, NEW_ID, bytes=4096, oldest_ns=TIME_NS, now_ns=TIME_NS + 1000)
COMMITTED = Committed(8, TIME_NS, HASH[:8], NEW_ID[:16], leased_segment=5, leased_head=8192)

SAMPLES: dict[FrameType, Message] = {
    FrameType.HELLO: HELLO,
    FrameType.CHECK: Check("main", ID[:16]),
    FrameType.RESOLVE: Resolve("main", "~1"),
    FrameType.ASK: Ask(bytes(16)),
    FrameType.LEASE: Lease(),
    FrameType.COMMIT: COMMIT,
    FrameType.WANT: Want("main", base=ID[:16]),
    FrameType.FETCH: Fetch(bytes(32)),
    FrameType.REFS: Refs(),
    FrameType.LOG: Log("main"),
    FrameType.STATUS: Status(),
    FrameType.BYE: Bye(),
    FrameType.PAIR: Pair(PROTOCOL, VERSION, bytes(16), "laptop"),
    FrameType.LITERALS: Literals(b"literals"),
    FrameType.TREE: Tree(b"tree"),
    FrameType.BEGIN: Begin(ID[:16]),
    FrameType.WELCOME: WELCOME,
    FrameType.STATE: State(7, ID, b"snapshot"),
    FrameType.KNOWN: Known(bytes(88)),
    FrameType.LEASED: Leased(5, 4096),
    FrameType.ACK: Ack(8 << 20),
    FrameType.COMMITTED: COMMITTED,
    FrameType.PLANNED: Planned(8, NEW_ID[:16], ID[:16], time_ns=TIME_NS, statistics=[3], message="why"),
    FrameType.DONE: Done(100, 50, 20, 7, cpu_ms=30, anonymous_kib=9000),
    FrameType.REF_LIST: RefList([RefState("main", 7, TIME_NS, ID, b"snapshot")], more=True),
    FrameType.LOG_PAGE: LogPage([State(7, ID, b"snapshot")]),
    FrameType.STATUS_REPLY: StatusReply({"segments": 3, "position": [7, "ab"]}),
    FrameType.FAILURE: Failure("ConflictError", "ref-moved", "it moved", "push again", {"ref": "main", "found": None}),
    FrameType.INGEST: INGEST,
    FrameType.CHECKOUT: CHECKOUT,
    FrameType.INGESTED: INGESTED,
    FrameType.CHANGES: CHANGES,
    FrameType.CHECKED_OUT: CHECKED_OUT,
    FrameType.PROGRESS: Progress(7, 1 << 20, files_total=40),
    FrameType.PAIRED: Paired("nas", "laptop", "write", "photos"),
    FrameType.JOIN: Join(),
    FrameType.FOLLOW: FOLLOW,
    FrameType.AT: At(7),
    FrameType.FENCE: Fence(b"entry and MAC", "pfs://nas/photos"),
    FrameType.ADOPT: Adopt(),
    FrameType.JOINED: Joined(bytes(range(32)), 17),
    FrameType.ENTRY: ENTRY,
    FrameType.FOLLOWED: FOLLOWED,
    FrameType.FENCED: Fenced(5),
    FrameType.ADOPTED: Adopted(),
}


def frames_of(data: bytes) -> Iterator[Frame]:
    """The frames of a whole stream."""
    decoder = Decoder()
    decoder.feed(data)
    while (frame := decoder.next()) is not None:
        yield frame
    assert not decoder.pending


def joined(*frames: Buffers) -> bytes:
    return b"".join(bytes(buffer) for frame in frames for buffer in frame)


def frame_of(buffers: Buffers) -> Frame:
    (frame,) = frames_of(joined(buffers))
    return frame


class Talk:
    """A client and an origin that hear each other at once; keeps the bytes."""

    def __init__(self) -> None:
        self.client = Client(VERSION)
        self.origin = Origin(VERSION)
        self.said: list[bytes] = []

    def ask(self, buffers: Buffers) -> Message:
        self.said.append(joined(buffers))
        return self.origin.receive(frame_of(buffers)).message

    def answer(self, buffers: Buffers) -> Message:
        self.said.append(joined(buffers))
        return self.client.receive(frame_of(buffers)).message


def session_noop() -> list[bytes]:
    """Is there anything new? No."""
    talk = Talk()
    talk.ask(talk.client.say(HELLO))
    talk.answer(talk.origin.say(WELCOME))
    talk.ask(talk.client.say(Check("main", ID[:16])))
    talk.answer(talk.origin.say(State(7, ID)))
    talk.ask(talk.client.say(Bye()))
    return talk.said


def session_push_small() -> list[bytes]:
    """A little is new, and is committed."""
    talk = Talk()
    talk.ask(talk.client.say(msgspec.structs.replace(HELLO, intent="write")))
    talk.answer(talk.origin.say(msgspec.structs.replace(WELCOME, leased=Leased(5, 4096))))
    talk.ask(talk.client.say(Literals(b"literals")))
    talk.ask(talk.client.say(Begin(ID[:16])))
    talk.ask(talk.client.say(Tree(b"tree")))
    talk.ask(talk.client.say(COMMIT))
    talk.answer(talk.origin.say(COMMITTED))
    talk.ask(talk.client.say(Bye()))
    return talk.said


def session_sync() -> list[bytes]:
    """A directory there is ingested, something is sent for it, and it is made to hold that."""
    talk = Talk()
    hello = msgspec.structs.replace(HELLO, volume=b"\0/srv/www", intent="write", create=True, ref="sent")
    talk.ask(talk.client.say(hello))
    talk.ask(talk.client.say(INGEST))
    talk.answer(talk.origin.say(msgspec.structs.replace(WELCOME, leased=Leased(5, 4096))))
    talk.answer(talk.origin.say(Progress(7, 1 << 20)))
    talk.answer(talk.origin.say(INGESTED))
    talk.ask(talk.client.say(Begin(ID[:16])))
    talk.ask(talk.client.say(Tree(b"tree")))
    talk.ask(talk.client.say(msgspec.structs.replace(COMMIT, ref="sent")))
    talk.answer(talk.origin.say(COMMITTED))
    talk.ask(talk.client.say(CHECKOUT))
    talk.answer(talk.origin.say(CHANGES))
    talk.answer(talk.origin.say(CHECKED_OUT))
    talk.ask(talk.client.say(Bye()))
    return talk.said


def session_follow() -> list[bytes]:
    """A full replica is made, and follows."""
    talk = Talk()
    talk.ask(talk.client.say(msgspec.structs.replace(HELLO, ref="", known=b"", known_seq=0, known_hash=b"")))
    talk.answer(talk.origin.say(msgspec.structs.replace(WELCOME, state=None)))
    talk.ask(talk.client.say(Join()))
    talk.answer(talk.origin.say(Joined(bytes(range(32)))))
    talk.ask(talk.client.say(At(7)))
    talk.answer(talk.origin.say(ENTRY))
    talk.ask(talk.client.say(FOLLOW))
    talk.answer(talk.origin.say(Progress(0, 0)))
    talk.answer(talk.origin.say(ENTRY))
    talk.answer(talk.origin.say(Literals(b"literals")))
    talk.answer(talk.origin.say(Tree(b"tree")))
    talk.answer(talk.origin.say(msgspec.structs.replace(ENTRY, carries=False, base=0, ends=False)))
    talk.answer(talk.origin.say(FOLLOWED))
    talk.ask(talk.client.say(SAMPLES[FrameType.FENCE]))
    talk.answer(talk.origin.say(Fenced(5)))
    talk.ask(talk.client.say(Bye()))
    return talk.said


def explained(said: list[bytes]) -> str:
    """Every byte of a session and what it is."""
    return "\n".join(line for data in said for line in _frame_lines(data))


def _frame_lines(data: bytes) -> Iterator[str]:
    (frame,) = frames_of(data)
    length, request = struct.unpack_from("<II", data, 4)
    message = SAMPLES[frame.type]
    who = "client" if frame.type < FrameType.WELCOME else "origin"
    yield f"{frame.type.name}, said by the {who}: {len(data)} bytes"
    yield _line(data[0:2], "magic")
    yield _line(data[2:3], "version")
    yield _line(data[3:4], f"type {int(frame.type)}")
    yield _line(data[4:8], f"length of the body: {length}")
    yield _line(data[8:12], f"request {request}")
    yield _line(data[12:16], "CRC-32C")
    body = data[HEADER_BYTES:]
    if isinstance(message, msgspec.Struct):
        values = msgspec.msgpack.decode(body)
        names = type(message).__struct_fields__
        fields = [msgspec.msgpack.encode(value) for value in values]
        head = body[: len(body) - sum(map(len, fields))]
        assert head + b"".join(fields) == body
        yield _line(head, f"array of {len(values)}")
        for name, field in zip(names, fields, strict=False):  # what came later is left out where it says nothing
            for index in range(0, len(field), 16):
                yield _line(field[index : index + 16], "" if index else name)
    else:
        yield _line(body, "body")
    yield ""


def _line(data: bytes, what: str) -> str:
    return f"    {data.hex(' '):<48}{what}".rstrip()


if __name__ == "__main__":
    print(explained(session_noop()))
