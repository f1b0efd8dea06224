"""A client that lies: whatever it says, the origin refuses it with a reason, moves no ref and works for the next one.

It speaks the protocol by the rules of `wire.protocol.Client` or by frames of its own, or it is an honest session in
which one message is replaced.
"""

import gc
import os
import random
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from packetfs import kernel
from packetfs.errors import DamagedError, InvalidError, PacketFSError, RefusedError, UnavailableError
from packetfs.format.address import OFFSET_BITS
from packetfs.sync import scrub
from packetfs.sync.session import Session
from packetfs.volume import Volume, sources_of
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.frames import CONTROL_BYTES_MAX, FrameType, encode
from packetfs.wire.transports import Transport
from tests.end_to_end.trees import difference, facts
from tests.sync import channel
from tests.sync.conftest import Origin, answer_honestly
from tests.volume.conftest import grown

pytestmark = pytest.mark.usefixtures("over")

Message = protocol.Message
ADDRESS = (1 << OFFSET_BITS) + 4096
MEMORY_KIB = 96 << 10  # a body decoded, its window and its base


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def zigzag(number: int) -> bytes:
    number = (number + (1 << 63)) % (1 << 64) - (1 << 63)
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return number, at


def literals(
    *lengths: int,
    address: int = ADDRESS,
    coding: int = 0,
    coded: bytes = b"",
    bases: tuple[tuple[int, int], ...] = (),
    check: bytes = bytes(8),
) -> bytes:
    """A body of one run, by default with a wrong check."""
    assert len(bases) < 3
    head = bytes([coding]) + varint(1) + zigzag(address) + varint(len(lengths) << 3 | len(bases))
    said, end = b"".join(map(varint, lengths)), 0
    for index, (base, length) in enumerate(bases):
        said += zigzag(base - end) + (zigzag(length - sum(lengths)) if index == 0 else varint(length))
        end = base + length
    return head + said + check + coded


def moved(body: bytes, to: Callable[[int], int]) -> bytes:
    """A sound body of literals whose first run lies elsewhere."""
    count, at = read_varint(body, 1)
    number, end = read_varint(body, at)
    address = number >> 1 if number & 1 == 0 else -((number + 1) >> 1)
    return body[:1] + varint(count) + zigzag(to(address)) + body[end:]


def script(**columns: bytes) -> bytes:
    """A body with one part of a tree script, as it is."""
    names = [
        *("ops", "counts", "shared", "lengths", "text", "fields", "classes", "seconds", "nanos", "growths", "sizes"),
        *("ways", "pointers", "extent_lengths", "places"),
    ]
    said = [(index, columns[name]) for index, name in enumerate(names) if columns.get(name)]
    part = varint(sum(1 << index for index, _ in said))
    part += b"".join(varint(len(column)) for _, column in said[:-1]) + b"".join(column for _, column in said)
    return b"\0" + varint(len(part)) + part


NEW_OWNER = b"\xff" + bytes(2) + b"\0\0"  # uid 0, gid 0, no names


def file_at(address: int, length: int, *, name: bytes = b"f", place: int = ADDRESS) -> bytes:
    """A tree of one file whose bytes are said to be there. Ops: enter new, add, leave."""
    return script(
        ops=bytes([6, 3, 7]),
        shared=bytes(2),
        lengths=bytes([0, len(name)]),
        text=name,
        fields=bytes([2 | 4 | 8, 2]),
        classes=b"\xff\x00" + struct.pack("<H", 0o644) + NEW_OWNER + b"\xff\x01" + struct.pack("<H", 0o755) + b"\0",
        sizes=varint(length),
        ways=bytes([4 | 3]),
        pointers=zigzag(address),
        places=zigzag(place),
    )


def directory_at(address: int, length: int, *, place: int = ADDRESS) -> bytes:
    """A tree whose one directory is said to be stored there."""
    return script(
        ops=bytes([6, 3, 7]),
        shared=bytes(2),
        lengths=bytes([0, 1]),
        text=b"d",
        fields=bytes([2 | 8, 2]),
        classes=b"\xff\x01" + struct.pack("<H", 0o755) + NEW_OWNER + b"\0",
        pointers=zigzag(address),
        extent_lengths=varint(length),
        places=zigzag(place),
    )


def zstd_bomb() -> bytes:
    """64 MiB of zeros in some kilobytes: a frame without magic, its window 16 MiB, of blocks of one byte repeated."""
    block = (128 << 10) << 3 | 1 << 1
    return b"\0\x70" + (block.to_bytes(3, "little") + b"\0") * 512


def anonymous_kib() -> int:
    """Anonymous memory of this process, where the origin is, too."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


class Hostile:
    """A client that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        near, far = channel.current.pair()
        self.connection = Connection(near, patience_s=60)
        self.client = protocol.Client(software="hostile")
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, args=(far,), daemon=True)
        self._thread.start()

    def _serve(self, far: Transport) -> None:
        connection = Connection(far)
        try:
            answer_honestly(connection, self.path)
        except BaseException as error:  # noqa: BLE001 - the test fails by it, in `__exit__`
            self.failures.append(error)
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.failures == []

    def greet(self, intent: str = "write") -> protocol.Welcome:
        welcome = self.ask(protocol.Hello(1, "hostile", os.fsencode(self.path), intent, ref="main"))  # type: ignore[arg-type]
        assert isinstance(welcome, protocol.Welcome)
        return welcome

    def say(self, *messages: Message) -> None:
        self.connection.send(*(self.client.say(message) for message in messages))

    def raw(self, kind: FrameType, request: int, body: bytes = b"") -> None:
        self.connection.send(encode(kind, request, body))

    def hear(self) -> Message:
        return self.client.receive(self.connection.receive()).message

    def ask(self, message: Message) -> Message:
        self.say(message)
        return self.hear()

    def refused(self, *messages: Message) -> PacketFSError:
        """The error that the origin answers with."""
        with suppress(UnavailableError):  # it may have hung up before it was told all of it
            self.say(*messages)
        with pytest.raises(PacketFSError) as refused:
            self.hear()
        check_said(refused.value)
        return refused.value


def check_said(error: PacketFSError) -> None:
    assert protocol.said_by_peer(error), error


@dataclass(frozen=True, slots=True)
class Stage:
    """A volume, and where something is in it."""

    path: Path
    page: tuple[int, int]
    """The page of a directory."""
    lookalike: tuple[int, int]
    """The same bytes, as the content of a file."""
    file: tuple[int, int]

    @property
    def volume(self) -> Path:
        return self.path / "volume"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    path = tmp_path_factory.mktemp("hostile")
    dice = random.Random(5)
    with Volume.create(path / "volume") as volume:
        tree: dict[str, bytes | None] = {"a/hello": b"hello" * 10, "b/large": dice.randbytes(300_000)}
        source = grown(path / "source", tree)
        volume.push(sources_of([source]), "main")
        page = volume.entry(volume.resolve("main"), b"a").page
        assert page is not None
        where = (page[0], page[1])
        grown(source, {"page": b"".join(volume.space.read(*where))})
        volume.push(sources_of([source]), "main")
        snapshot = volume.resolve("main")
        (lookalike,) = volume.space.extents(volume.entry(snapshot, b"page"))
        (file,) = volume.space.extents(volume.entry(snapshot, b"a/hello"))
    return Stage(path, where, lookalike, file)


@pytest.fixture
def stage(template: Stage, tmp_path: Path) -> Iterator[Stage]:
    """A copy. Whatever was said: no ref has moved, the volume is sound, and the next session works."""
    shutil.copytree(template.path, tmp_path / "stage")
    here = replace(template, path=tmp_path / "stage")
    with Volume.open(here.volume) as volume:
        before = volume.position
    yield here
    with Volume.open(here.volume) as volume:
        assert volume.position == before
        assert scrub.verify(volume, restart=True).sound
    origin = Origin(here.volume, tmp_path / "replicas")
    with origin.connect(ref="main") as session:
        grown(here.path / "source", {"after": b"after"})
        session.push(sources_of([here.path / "source"]), "main")
        session.pull("main", os.fsencode(tmp_path / "target"))
    origin.close()
    assert difference(facts(here.path / "source"), facts(tmp_path / "target")) == []


def test_the_scripts_of_these_tests_are_sound_where_they_do_not_lie(stage: Stage) -> None:
    """Otherwise what is refused below might be refused for something else."""
    with Hostile(stage.volume) as peer:
        leased = peer.greet().leased
        assert leased is not None
        place = leased.segment << OFFSET_BITS | leased.head
        for tree in (file_at(*stage.file, place=place), directory_at(*stage.page, place=place + 4096)):
            peer.say(protocol.Begin(), protocol.Tree(tree))
            assert peer.refused(protocol.Commit("main", bytes(16))).code == "transfer-damaged"


def test_of_a_peer_that_leaves_in_the_middle_nothing_stays(stage: Stage) -> None:
    """Its session is gone at once, and with it the files that it had open: a server sees many such peers."""

    def leave() -> None:
        with Hostile(stage.volume) as peer:
            leased = peer.greet().leased
            assert leased is not None
            place = leased.segment << OFFSET_BITS | leased.head
            peer.say(protocol.Literals(body_at(stage.volume, lambda _: place)))

    leave()  # what is made once is made
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(5):
            leave()
        assert len(os.listdir("/proc/self/fd")) <= len(before)
    finally:
        gc.enable()


# Literals


def body_at(volume: Path, to: Callable[[int], int]) -> bytes:
    """Literals as an honest client makes them, of a file that is in the volume; the first run said to be elsewhere."""
    with Volume.open(volume) as opened:
        entry = opened.entry(opened.resolve("main"), b"b/large")
        outgoing = kernel.Outgoing(opened.space)
        outgoing.add(opened.space.extents(entry), pages=False)
        body = outgoing.literals()
    assert body is not None
    return moved(b"".join(body), to)


@pytest.mark.parametrize(
    ("to", "code"),
    [
        (lambda leased: leased + (5 << OFFSET_BITS), "not-leased"),
        (lambda leased: ADDRESS + (9 << OFFSET_BITS + 26), "not-leased"),
        (lambda leased: leased - 1, "refused"),
        (lambda leased: leased >> OFFSET_BITS << OFFSET_BITS, "refused"),
        (lambda leased: (leased >> OFFSET_BITS) + 1 << OFFSET_BITS, "not-leased"),
        (lambda leased: ((leased >> OFFSET_BITS) + 1 << OFFSET_BITS) - 10, "invalid"),
        (lambda leased: 0, "invalid"),
        (lambda leased: 5, "invalid"),
        (lambda leased: (1 << 64) - 1, "invalid"),
    ],
)
def test_literals_go_nowhere_but_into_the_lease(to: Callable[[int], int], code: str, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        leased = peer.greet().leased
        assert leased is not None
        body = body_at(stage.volume, lambda _: to(leased.segment << OFFSET_BITS | leased.head))

        assert peer.refused(protocol.Literals(body)).code == code


@pytest.mark.parametrize("shift", [-1, 1, 1000, -200_000, 200_000])
def test_literals_that_overlap_what_was_sent_before_are_refused(shift: int, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        leased = peer.greet().leased
        assert leased is not None
        head = (leased.segment << OFFSET_BITS | leased.head) + 250_000
        first = body_at(stage.volume, lambda _: head)
        # The place of a run is said from the end of the one before.
        again = body_at(stage.volume, lambda _: shift - 300_000)

        assert isinstance(peer.refused(protocol.Literals(first), protocol.Literals(again)), RefusedError)


BOMB = zstd_bomb()
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no such coding": b"\x07",
    "ten to the nine runs": b"\0" + varint(10**9),
    "2^63 runs": b"\0" + varint(1 << 63),
    "ten to the nine chunks": b"\0\x01" + zigzag(ADDRESS) + varint(10**9 << 3),
    "2^60 chunks": b"\0\x01" + zigzag(ADDRESS) + varint(1 << 63),
    "two million chunks of a byte": literals(*[1] * (2 << 20)),
    "ten to the nine bases": b"\x02\x01" + zigzag(ADDRESS) + varint(1 << 3 | 3) + varint(10**9) + varint(5),
    "a chunk of 4 GiB": literals(1 << 32),
    "chunks of 4 GiB": literals(*[60 << 20] * 70),
    "claimed small, expanding": literals(100, coding=1, coded=BOMB),
    "claimed huge": literals(*[64 << 10] * 128, coding=1, coded=b"\0\x58\x01\0\0"),
    "claimed huge, expanding": literals(*[64 << 10] * 128, coding=1, coded=BOMB),
    "a window of 2 GiB": literals(100, coding=1, coded=b"\0\xa8" + BOMB[2:]),
    "one size, all of it said": literals(100, coding=1, coded=b"\xe0" + b"\xff" * 7 + b"\x0f" + BOMB[2:]),
    "a base in the hole": literals(100, coding=2, coded=BOMB, bases=((0, 100),)),
    "a base nowhere": literals(100, coding=2, coded=BOMB, bases=((ADDRESS + (77 << OFFSET_BITS), 100),)),
    "a base not committed": literals(100, coding=2, coded=BOMB, bases=(((1 << OFFSET_BITS) + (60 << 20), 100),)),
    "a base that is no chunk": literals(100, coding=2, coded=BOMB, bases=(((1 << OFFSET_BITS) + 1, 100),)),
    "a base of a segment": literals(100, coding=2, coded=BOMB, bases=((1 << OFFSET_BITS, 64 << 20),)),
    "bases together too long": literals(
        100, coding=2, coded=BOMB, bases=((1 << OFFSET_BITS, 16 << 20), (1 << OFFSET_BITS, 16 << 20))
    ),
    "as it is, but shorter": literals(100, coded=b"x" * 99),
    "as it is, but longer": literals(100, coded=b"x" * 101),
    "another check": literals(100, coded=b"x" * 100),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_literals_that_claim_what_is_not_are_refused_in_little_memory(body: bytes, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet()
        before_kib = anonymous_kib()

        error = peer.refused(protocol.Literals(body))

        assert isinstance(error, InvalidError | DamagedError | RefusedError)
        assert anonymous_kib() - before_kib < MEMORY_KIB
        assert peer.client.phase is protocol.Phase.CLOSED


# Trees

SCRIPTS: dict[str, Callable[[Stage], bytes]] = {
    "nothing": lambda _: b"",
    "a delta": lambda _: b"\2\1x",
    "a part of 10^9 bytes": lambda _: b"\1" + varint(10**9) + BOMB,
    "a part of 2 MiB that is a bomb": lambda _: b"\1" + varint(2 << 20) + BOMB,
    "claimed small, expanding": lambda _: b"\1" + varint(10) + BOMB,
    "ten to the nine kept": lambda _: script(ops=b"\xf8", counts=varint(10**9)),
    "2^64 skipped": lambda _: script(ops=b"\xf9", counts=varint((1 << 64) - 1)),
    "ten to the nine added": lambda _: script(ops=b"\xfb", counts=varint(10**9)),
    "many directories in each other": lambda _: script(
        ops=b"\6" * 500_000, shared=bytes(500_000), lengths=b"\0" + b"\1" * 499_999, text=b"d" * 499_999
    ),
    "left more than entered": lambda _: script(ops=b"\7"),
    "content nowhere": lambda _: file_at(ADDRESS + (77 << OFFSET_BITS), 100),
    "content beyond what is committed": lambda _: file_at((1 << OFFSET_BITS) + (60 << 20), 100),
    "content in another epoch": lambda _: file_at(ADDRESS | 5 << 52, 100),
    "content that is a part of a chunk": lambda stage: file_at(stage.file[0], stage.file[1] - 1),
    "content that is a part of two chunks": lambda stage: file_at(stage.file[0] + 1, stage.file[1]),
    "content longer than a segment": lambda stage: file_at(stage.file[0], 1 << 40),
    "content of no end": lambda stage: file_at(stage.file[0], (1 << 64) - 1),
    "content that is a page": lambda stage: file_at(*stage.page),
    "a directory nowhere": lambda _: directory_at(ADDRESS + (77 << OFFSET_BITS), 100),
    "a directory that is a file": lambda stage: directory_at(*stage.file),
    "a directory that is a file which looks like one": lambda stage: directory_at(*stage.lookalike),
    "a directory that is a part of a page": lambda stage: directory_at(stage.page[0], stage.page[1] - 1),
    "a directory of 4 GiB": lambda stage: directory_at(stage.page[0], (1 << 32) + stage.page[1]),
    "a name with a slash": lambda stage: file_at(*stage.file, name=b"a/b"),
    "the name of the parent": lambda stage: file_at(*stage.file, name=b".."),
    "no name": lambda stage: file_at(*stage.file, name=b""),
    "a name that ends": lambda stage: file_at(*stage.file, name=b"a\0b"),
    "a page nowhere": lambda stage: file_at(*stage.file, place=ADDRESS + (77 << OFFSET_BITS)),
    "a page on a file": lambda stage: file_at(*stage.file, place=stage.file[0]),
    "a page in the hole": lambda stage: file_at(*stage.file, place=0),
}


@pytest.mark.parametrize("make", SCRIPTS.values(), ids=SCRIPTS)
def test_a_tree_that_cannot_be_is_refused_in_little_memory(make: Callable[[Stage], bytes], stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet()
        before_kib = anonymous_kib()

        error = peer.refused(protocol.Begin(), protocol.Tree(make(stage)), protocol.Commit("main", bytes(16)))

        assert isinstance(error, InvalidError | DamagedError | RefusedError)
        assert error.code != "transfer-damaged", "it was taken for a tree"
        assert anonymous_kib() - before_kib < MEMORY_KIB


def test_a_tree_without_a_beginning_or_from_an_unknown_base_is_refused(stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet()
        assert isinstance(peer.refused(protocol.Tree(script(ops=b"\7"))), InvalidError)
    with Hostile(stage.volume) as peer:
        peer.greet()
        assert peer.refused(protocol.Begin(os.urandom(16))).code == "snapshot-not-found"
    with Hostile(stage.volume) as peer:
        peer.greet()
        assert isinstance(peer.refused(protocol.Commit("main", bytes(16))), InvalidError)
        assert isinstance(peer.ask(protocol.Check("main")), protocol.State)  # that was an answer: the session goes on


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FrameType.LITERALS, FrameType.TREE])
def test_whatever_bytes_a_body_has_it_is_refused(
    kind: FrameType, template: Stage, many: Callable[[int, int], int]
) -> None:
    sound = [literals(5, coded=b"hello"), file_at(*template.file), directory_at(*template.page), BOMB]
    bodies = st.binary(max_size=200) | st.builds(
        lambda body, at, byte: body[: at % len(body)] + byte + body[at % len(body) + 1 :],
        st.sampled_from(sound),
        st.integers(0, 1 << 16),
        st.binary(max_size=2),
    )

    @settings(max_examples=many(60, 20_000))
    @given(bodies)
    def refused(body: bytes) -> None:
        with Hostile(template.volume) as peer:
            peer.greet()
            message = protocol.Literals(body) if kind is FrameType.LITERALS else protocol.Tree(body)
            begin = [protocol.Begin()] if kind is FrameType.TREE else []
            peer.refused(*begin, message, protocol.Commit("main", bytes(16)))

    refused()


# Commits


def lie(session: Session, tell: Callable[[Message], list[Message]]) -> None:
    """Let an honest session say something else in place of each message."""
    say = session.link.say

    def said(message: Message, *, more: bool = False) -> int:
        told = [say(instead, more=more) for instead in tell(message)]
        return told[-1] if told else 0

    session.link.say = said  # type: ignore[method-assign]


def test_a_commit_that_promises_another_tree_is_refused(stage: Stage, tmp_path: Path) -> None:
    origin = Origin(stage.volume, tmp_path / "liar")
    grown(tmp_path / "other", {"x": b"x" * 1000})
    with origin.connect(ref="main") as session:
        lie(
            session,
            lambda message: (
                [structs.replace(message, root_digest=bytes(16))] if isinstance(message, protocol.Commit) else [message]
            ),
        )
        with pytest.raises(DamagedError) as refused:
            session.push(sources_of([tmp_path / "other"]), "main")
    assert refused.value.code == "transfer-damaged"
    origin.close()


@pytest.mark.parametrize("lost", [protocol.Literals, protocol.Tree, protocol.Begin])
def test_a_push_that_leaves_something_out_is_refused(lost: type, stage: Stage, tmp_path: Path) -> None:
    origin = Origin(stage.volume, tmp_path / "liar")
    grown(tmp_path / "other", {"x": random.Random(1).randbytes(1000)})
    with origin.connect(ref="main") as session:
        lie(session, lambda message: [] if isinstance(message, lost) else [message])
        with pytest.raises(PacketFSError) as refused:
            session.push(sources_of([tmp_path / "other"]), "main")
    assert protocol.said_by_peer(refused.value)
    origin.close()


@pytest.mark.parametrize("base", [b"", bytes(16)])
def test_a_tree_on_another_base_than_it_was_made_from_is_refused(base: bytes, stage: Stage, tmp_path: Path) -> None:
    origin = Origin(stage.volume, tmp_path / "liar")
    grown(tmp_path / "other", {"x": b"x" * 1000})
    with origin.connect(ref="main") as session:
        lie(
            session,
            lambda message: [structs.replace(message, base=base)] if isinstance(message, protocol.Begin) else [message],
        )
        with pytest.raises(PacketFSError) as refused:
            session.push(sources_of([tmp_path / "other"]), "main")
    assert protocol.said_by_peer(refused.value)
    origin.close()


@pytest.mark.parametrize(
    "values",
    [
        {"statistics": [(1 << 63) - 1] * 10},
        {"statistics": [1] * 64},
        {"message": "m" * 60_000},
        {"host": "\0" * 60_000, "user": "\u202e" * 60_000},
        {"paths": [b"p" * 1000] * 60},
        {"paths": [b""] * 60_000},
    ],
)
def test_a_commit_with_odd_values_is_refused_or_made_to_fit(
    values: dict[str, object], template: Stage, tmp_path: Path
) -> None:
    shutil.copytree(template.volume, tmp_path / "volume")
    origin = Origin(tmp_path / "volume", tmp_path / "liar")
    grown(tmp_path / "other", {"x": b"x" * 1000})
    try:
        with origin.connect(ref="main") as session:
            lie(
                session,
                lambda message: (
                    [structs.replace(message, **values)] if isinstance(message, protocol.Commit) else [message]
                ),
            )
            session.push(sources_of([tmp_path / "other"]), "main")
    except PacketFSError:
        pass
    origin.close()
    with Volume.open(tmp_path / "volume") as volume:
        assert scrub.verify(volume, restart=True).sound
        list(volume.log("main"))


# Questions


def extents(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


TOP = (1 << 64) - 1
QUESTIONS: dict[str, Message] = {
    "fetch nowhere": protocol.Fetch(extents(ADDRESS + (77 << OFFSET_BITS), 100)),
    "fetch the hole": protocol.Fetch(extents(0, 100)),
    "fetch almost the hole": protocol.Fetch(extents(5, 100)),
    "fetch everything": protocol.Fetch(extents(ADDRESS, TOP)),
    "fetch the end": protocol.Fetch(extents(TOP, TOP)),
    "fetch another epoch": protocol.Fetch(extents(1 << 63, 1)),
    "fetch no bytes": protocol.Fetch(extents(ADDRESS, 0)),
    "fetch nothing": protocol.Fetch(b""),
    "fetch one often": protocol.Fetch(extents(*[1 << OFFSET_BITS, 64 << 20] * protocol.FETCH_EXTENTS_MAX)),
    "log of nothing": protocol.Log("nothing"),
    "log before the beginning": protocol.Log("main", 0),
    "refs after all": protocol.Refs("zzz"),
    "resolve nothing": protocol.Resolve("nothing"),
    "resolve no time": protocol.Resolve("main", "9999-12-31T23:59:60"),
    "resolve the last year but one": protocol.Resolve("main", "9998-12-31"),
    "resolve the last day": protocol.Resolve("main", "9999-12-31"),
    "resolve the first day": protocol.Resolve("main", "0001-01-01"),
    "resolve far back": protocol.Resolve("main", "~999999999"),
    "resolve far further": protocol.Resolve("main", "~" + "9" * 200),
    "resolve odd digits": protocol.Resolve("main", "~٣"),
    "resolve no id": protocol.Resolve("main", "f" * 64),
    "resolve a NUL": protocol.Resolve("main", "\0"),
    "want nothing": protocol.Want("nothing"),
    "want nowhere": protocol.Want("main", path=b"no/where"),
    "want above": protocol.Want("main", path=b"../../etc"),
    "want slashes": protocol.Want("main", path=b"/" * 60_000),
    "want a NUL": protocol.Want("main", path=b"\0"),
    "want from an unknown base": protocol.Want("main", base=bytes(16)),
    "want without data": protocol.Want("main", data=False),
    "check nothing": protocol.Check("nothing", bytes(16)),
    "ask nothing": protocol.Ask(b""),
    "ask for all": protocol.Ask(os.urandom(8 * protocol.ASK_TAGS_MAX)),
    "status": protocol.Status(),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_an_odd_question_is_answered_or_refused_and_the_session_goes_on(question: Message, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet("read")
        before_kib = anonymous_kib()

        peer.say(question)
        try:
            while peer.client.outstanding:
                peer.hear()
        except PacketFSError as error:
            check_said(error)

        assert anonymous_kib() - before_kib < MEMORY_KIB
        assert isinstance(peer.ask(protocol.Check("main")), protocol.State)


# What may not be said at all


@pytest.mark.parametrize(
    "kind", [FrameType.LEASE, FrameType.LITERALS, FrameType.BEGIN, FrameType.TREE, FrameType.COMMIT]
)
def test_a_reader_writes_nothing(kind: FrameType, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet("read")
        unanswered = kind in (FrameType.LITERALS, FrameType.BEGIN, FrameType.TREE)

        peer.raw(kind, 0 if unanswered else 2, b"\x90")

        with pytest.raises(InvalidError) as refused:
            peer.hear()
        assert refused.value.code == "protocol-violation"


@pytest.mark.parametrize(
    ("kind", "request_", "body"),
    [
        (FrameType.CHECK, 7, b"\x90"),
        (FrameType.HELLO, 2, b"\x90"),
        (FrameType.WELCOME, 1, b"\x90"),
        (FrameType.FAILURE, 0, b"\x90"),
        (FrameType.CHECK, 2, b"\xdd" + b"\xff" * 4),
        (FrameType.LOG, 2, b"\x92\xa4main\xff"),
        (FrameType.REFS, 2, b"\x91" * 100_000),
        (FrameType.COMMIT, 2, b"\xdf\xff\xff\xff\xff"),
        (FrameType.ASK, 2, b"\x91\xc6\xff\xff\xff\xff"),
        (FrameType.FETCH, 2, b"\x91\xc4\x01x"),
        (FrameType.CHECK, 2, b"\x91\xa9../../etc"),
        (FrameType.STATUS, 2, b"\0" * CONTROL_BYTES_MAX),
    ],
)
def test_a_frame_out_of_turn_or_of_no_meaning_ends_the_session_with_a_reason(
    kind: FrameType, request_: int, body: bytes, stage: Stage
) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet()

        peer.raw(kind, request_, body)

        with pytest.raises(InvalidError) as refused:
            peer.hear()
        assert refused.value.code in ("protocol-violation", "bad-frame")
        assert protocol.said_by_peer(refused.value)


@pytest.mark.parametrize(
    "path", [b"", b"\0", b"/no/where", b"relative", b"~nobody/x", b"/etc/passwd", b"\xff" * 4096, b"/dev/null"]
)
def test_a_volume_that_is_none_is_refused(path: bytes, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        refused = peer.refused(protocol.Hello(1, "hostile", path, "read"))
        assert refused.message


@pytest.mark.parametrize("kind", sorted(set(FrameType) - {FrameType.BYE, FrameType.HELLO}))
def test_nothing_is_answered_before_the_greeting(kind: FrameType, stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.raw(kind, 1, b"\x90")

        frame = peer.connection.receive()

    assert frame.type is FrameType.FAILURE
    assert protocol.decode(frame).kind == "InvalidError"  # type: ignore[union-attr]


def test_leases_asked_for_without_end_take_no_more_than_a_session_may_have(stage: Stage) -> None:
    with Hostile(stage.volume) as peer:
        peer.greet()
        for _ in range(40):
            assert isinstance(peer.ask(protocol.Lease()), protocol.Leased)
    assert len(list((stage.volume / "segments").iterdir())) < 200
