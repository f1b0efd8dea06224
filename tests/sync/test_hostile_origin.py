"""An origin that lies: the client ends with an error of ours, shows nothing wrong, and with an honest origin goes on.

It is the real one in which the answer to one kind of request is replaced.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path
from typing import TypeAlias

import pytest
from msgspec import structs

from packetfs import kernel
from packetfs.env import SYSTEM
from packetfs.errors import NotFoundError, PacketFSError
from packetfs.format.address import OFFSET_BITS
from packetfs.sync import scrub
from packetfs.sync.serve import _Serving
from packetfs.sync.session import Session
from packetfs.volume import Volume, sources_of
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from tests.end_to_end.trees import Facts, difference, facts
from tests.sync.conftest import Origin
from tests.sync.test_hostile_client import file_at, literals, moved
from tests.volume.conftest import grown

pytestmark = pytest.mark.usefixtures("over")

Message: TypeAlias = protocol.Message
Lie: TypeAlias = Callable[[Iterator[Message]], Iterator[Message]]


def lying(request: type, lie: Lie) -> Callable[[Connection], None]:
    """An origin that answers requests of one type with what `lie` makes of the truth."""

    def serve(connection: Connection) -> None:
        with ExitStack() as stack:
            serving = _Serving(connection, 5, SYSTEM, stack)
            truth = serving._answers[request]
            serving._answers[request] = lambda message: lie(truth(message))
            try:
                serving.run()
            finally:
                serving.end()

    return serve


def each(kind: type, change: Callable[..., Message]) -> Lie:
    """Replace each answer of a type."""
    return lambda truth: (change(message) if isinstance(message, kind) else message for message in truth)


def leasing(segment: int, head: int) -> tuple[type, Lie]:
    """A greeting with this lease."""
    leased = protocol.Leased(segment, head)
    return protocol.Hello, each(protocol.Welcome, lambda message: structs.replace(message, leased=leased))


def known(change: Callable[[bytes], bytes]) -> tuple[type, Lie]:
    """Other records than those of the origin, one by one."""

    def changed(message: protocol.Known) -> Message:
        step = protocol.RECORD_BYTES
        return protocol.Known(
            b"".join(change(message.records[at : at + step]) for at in range(0, len(message.records), step))
        )

    return protocol.Ask, each(protocol.Known, changed)


def twice(truth: Iterator[Message]) -> Iterator[Message]:
    """Each part of the tree comes again."""
    for message in truth:
        yield message
        if isinstance(message, protocol.Tree):
            yield message


def with_(kind: type, **values: object) -> Lie:
    return each(kind, lambda message: structs.replace(message, **values))


def without(kind: type) -> Lie:
    return lambda truth: (message for message in truth if not isinstance(message, kind))


def instead(kind: type, *messages: Message) -> Lie:
    """Say something else in place of the first message of a type and leave the others out."""

    def lie(truth: Iterator[Message]) -> Iterator[Message]:
        left = list(messages)
        for message in truth:
            if isinstance(message, kind):
                yield from left
                left = []
            else:
                yield message

    return lie


def endless(kind: type) -> Lie:
    """Say the first message of a type for ever."""

    def lie(truth: Iterator[Message]) -> Iterator[Message]:
        for message in truth:
            yield message
            if isinstance(message, kind):
                yield from repeat(message)

    return lie


def endless_noise(truth: Iterator[Message]) -> Iterator[Message]:
    """Sound literals without end, each further on."""
    for message in truth:
        yield message
        if isinstance(message, protocol.Literals):
            yield from (
                protocol.Literals(moved(b"".join(message), lambda _: 1 << OFFSET_BITS + 3)) for _ in range(1 << 40)
            )


def failing(kind: type) -> Lie:
    def lie(truth: Iterator[Message]) -> Iterator[Message]:
        for message in truth:
            if isinstance(message, kind):
                raise NotFoundError("it has changed its mind", code="x\n", values="y", path="/etc")
            yield message

    return lie


class Stage:
    """A volume with two snapshots, honest."""

    def __init__(self, path: Path) -> None:
        dice = random.Random(2)
        self.path = path
        tree: dict[str, bytes | None] = {f"d{number % 3}/f{number}": dice.randbytes(9000) for number in range(20)}
        source = grown(path / "source", tree)
        with Volume.create(path / "volume") as volume:
            volume.push(sources_of([source]), "main")
            self.old = volume.resolve("main")
            self.old_facts = facts(source)
            grown(source, {"d1/new": dice.randbytes(50_000), "d2/f2": dice.randbytes(8000)})
            volume.push(sources_of([source]), "main")
            self.new = volume.resolve("main")
        self.facts: dict[bytes, Facts] = facts(source)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("lying"))


def pull(session: Session, target: Path, place: str = "main") -> None:
    session.pull(place, os.fsencode(target), delete=True)


def escaping(name: bytes) -> protocol.Tree:
    return protocol.Tree(file_at(0, 100, name=name))


SMALL = literals(100, coded=b"x" * 100)
PULL_LIES: dict[str, tuple[type, Lie]] = {
    "another id": (protocol.Want, with_(protocol.Planned, id=bytes(16))),
    "another snapshot": (protocol.Want, with_(protocol.Planned, snapshot=b"PFSN\1\x80")),
    "no snapshot": (protocol.Want, with_(protocol.Planned, snapshot=b"")),
    "no tree": (protocol.Want, without(protocol.Tree)),
    "no literals": (protocol.Want, without(protocol.Literals)),
    "what was named, which was not": (protocol.Want, lambda _: iter([protocol.Planned(1), protocol.Done()])),
    "a tree twice": (protocol.Want, twice),
    "a tree of noise": (protocol.Want, instead(protocol.Tree, protocol.Tree(b"\0\5abcde"))),
    "a name that escapes": (protocol.Want, instead(protocol.Tree, escaping(b"../../escaped"))),
    "a name that is the parent": (protocol.Want, instead(protocol.Tree, escaping(b".."))),
    "literals of noise": (protocol.Want, instead(protocol.Literals, protocol.Literals(b"\1\1noise"))),
    "literals that are not those": (protocol.Want, instead(protocol.Literals, protocol.Literals(SMALL))),
    "literals elsewhere": (
        protocol.Want,
        each(protocol.Literals, lambda m: protocol.Literals(moved(b"".join(m), lambda at: at + (9 << OFFSET_BITS)))),
    ),
    "literals a little aside": (
        protocol.Want,
        each(protocol.Literals, lambda m: protocol.Literals(moved(b"".join(m), lambda at: at + 1))),
    ),
    "literals in an absurd place": (
        protocol.Want,
        each(protocol.Literals, lambda m: protocol.Literals(moved(b"".join(m), lambda _: (1 << 64) - 100_000))),
    ),
    "literals without end": (protocol.Want, endless(protocol.Literals)),
    "sound literals without end": (protocol.Want, endless_noise),
    "a tree without end": (protocol.Want, endless(protocol.Tree)),
    "a failure at once": (protocol.Want, failing(protocol.Planned)),
    "a failure midway": (protocol.Want, failing(protocol.Tree)),
    "a failure at the end": (protocol.Want, failing(protocol.Done)),
    "a greeting with other chunks": (protocol.Hello, with_(protocol.Welcome, chunks=[0, (1 << 63) - 1, 1, 99])),
    "a greeting with huge chunks": (protocol.Hello, with_(protocol.Welcome, chunks=[1 << 40, 1 << 41, 1 << 42, 2])),
    "a greeting with chunks that are none": (protocol.Hello, with_(protocol.Welcome, chunks=[8192, 32768, 100, 2])),
    "a greeting without keys": (protocol.Hello, with_(protocol.Welcome, keys=b"")),
    "a greeting with other keys": (protocol.Hello, with_(protocol.Welcome, keys=b"k" * 64)),
    "a state of another snapshot": (
        protocol.Hello,
        each(protocol.Welcome, lambda m: structs.replace(m, state=protocol.State(1, bytes(32), b"PFSN\1\x80"))),
    ),
    "a state that was not named": (
        protocol.Hello,
        each(protocol.Welcome, lambda m: structs.replace(m, state=protocol.State(1, bytes(32), b""))),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("holds", "wants"),
    [
        ("nothing", None),
        ("the old one", ("main", "latest", b"")),
    ],
)
@pytest.mark.parametrize("lie", PULL_LIES.values(), ids=PULL_LIES)
def test_a_pull_from_an_origin_that_lies_shows_nothing_wrong_and_an_honest_one_puts_it_right(
    lie: tuple[type, Lie], holds: str, wants: tuple[str, str, bytes] | None, stage: Stage, tmp_path: Path
) -> None:
    origin = Origin(stage.path / "volume", tmp_path / "replicas")
    target = tmp_path / "x" / "y" / "target"
    target.parent.mkdir(parents=True)
    if holds != "nothing":
        with origin.connect(writes=False) as session:
            pull(session, target, "main@~1")
    before = facts(target) if target.exists() else {}

    try:
        with origin.connect(writes=False, wants=wants, serve=lying(*lie)) as session:
            pull(session, target)
    except PacketFSError:
        found = facts(target) if target.exists() else {}
        assert found == before
    else:  # no lie about what this client lacks; or an older state, which an origin may go back to
        assert facts(target).keys() in (stage.facts.keys(), stage.old_facts.keys())
    with origin.connect(writes=False, wants=wants) as session:
        pull(session, target)
    origin.close()

    assert difference(stage.facts, facts(target)) == []
    assert [path.name for path in (tmp_path / "x").rglob("*escaped*")] == []


FETCH_LIES: dict[str, Lie] = {
    "nothing": without(protocol.Literals),
    "noise": instead(protocol.Literals, protocol.Literals(SMALL)),
    "elsewhere": each(
        protocol.Literals, lambda m: protocol.Literals(moved(b"".join(m), lambda at: at + (9 << OFFSET_BITS)))
    ),
    "aside": each(protocol.Literals, lambda m: protocol.Literals(moved(b"".join(m), lambda at: at + 1))),
    "further on": each(protocol.Literals, lambda m: protocol.Literals(moved(b"".join(m), lambda at: at + 20_000))),
    "without end": endless(protocol.Literals),
    "sound without end": endless_noise,
    "failing": failing(protocol.Literals),
}


@pytest.mark.parametrize("lie", FETCH_LIES.values(), ids=FETCH_LIES)
def test_ranges_that_are_not_those_that_were_asked_for_show_nothing_wrong(
    lie: Lie, stage: Stage, tmp_path: Path
) -> None:
    origin = Origin(stage.path / "volume", tmp_path / "replicas")
    with origin.connect(writes=False) as session:
        session.resolve("main")  # the tree; what it holds is fetched by address

    # A replica to which the origin does not send what it lacks is emptied, and all of it asked for again.
    with origin.connect(writes=False, serve=lying(protocol.Fetch, lie)) as session, suppress(PacketFSError):
        pull(session, tmp_path / "target")
    shown = facts(tmp_path / "target") if (tmp_path / "target").exists() else {}
    with origin.connect(writes=False) as session:
        pull(session, tmp_path / "target")
    origin.close()

    assert shown == {} or difference(stage.facts, shown) == []
    assert difference(stage.facts, facts(tmp_path / "target")) == []


PUSH_LIES: dict[str, tuple[type, Lie]] = {
    "known nowhere": known(lambda record: b"\xff" * 12 + bytes(32)),
    "known with other digests": known(lambda record: record[:12] + bytes(32)),
    "known elsewhere": known(lambda record: bytes([record[0] ^ 1]) + record[1:]),
    "known in another length": known(lambda record: record[:8] + bytes([record[8] ^ 1]) + record[9:]),
    "known nothing": known(lambda record: bytes(44)),
    "too few known": (protocol.Ask, with_(protocol.Known, records=b"")),
    "a lease where the replica has bytes": leasing(1, 0),
    "a lease of the end": leasing(5, 64 << 20),
    "a lease of nothing": leasing((1 << 38) - 1, 7),
    "a lease of no segment": leasing(1 << 26, 7),
    "committed another": (protocol.Commit, with_(protocol.Committed, id=bytes(16))),
    "committed at another time": (protocol.Commit, with_(protocol.Committed, time_ns=5)),
    "committed before all time": (protocol.Commit, with_(protocol.Committed, time_ns=-(1 << 63))),
    "a failure to commit": (protocol.Commit, failing(protocol.Committed)),
}  # fmt: skip


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("lie", PUSH_LIES.values(), ids=PUSH_LIES)
def test_a_push_to_an_origin_that_lies_fails_or_is_right_and_an_honest_one_puts_it_right(
    lie: tuple[type, Lie], holds: bool, stage: Stage, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    source = tmp_path / "source"
    shutil.copytree(stage.path / "volume", volume)
    shutil.copytree(stage.path / "source", source)
    with Volume.open(volume) as opened:  # so much that the client asks
        noise = random.Random(4).randbytes(1_400_000)
        opened.push(sources_of([grown(tmp_path / "noise", {"noise": noise})]), "noise")
    grown(source, {"noise": noise, "own": random.Random(6).randbytes(90_000)})
    origin = Origin(volume, tmp_path / "replicas")
    if holds:
        with origin.connect(ref="noise", writes=False) as session:
            session.pull("noise", os.fsencode(tmp_path / "pulled"))

    try:
        with origin.connect(serve=lying(*lie)) as session:
            session.push(sources_of([source]), "main")
    except PacketFSError:
        pass
    with origin.connect() as session:
        session.push(sources_of([source]), "main")
        pull(session, tmp_path / "target")
    with origin.connect("other", writes=False) as session:
        pull(session, tmp_path / "other")
    origin.close()

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert difference(facts(source), facts(tmp_path / "other")) == []
    with Volume.open(volume) as opened:
        assert scrub.verify(opened, restart=True).sound


def test_lists_that_never_end_are_refused(stage: Stage, tmp_path: Path) -> None:
    origin = Origin(stage.path / "volume", tmp_path / "replicas")
    refs: dict[int, Message] = {}
    log: dict[int, Message] = {}

    def first(kept: dict[int, Message]) -> Lie:
        return lambda truth: (kept.setdefault(0, structs.replace(message, more=True)) for message in truth)  # type: ignore[type-var]

    with origin.connect(writes=False, serve=lying(protocol.Refs, first(refs))) as session, pytest.raises(PacketFSError):
        session.refs()
    with origin.connect(writes=False, serve=lying(protocol.Log, first(log))) as session, pytest.raises(PacketFSError):
        list(session.log("main"))
    origin.close()


@pytest.mark.parametrize("fields", [{}, {"volume_id": 5}, {"position_seq": "x"}, {"seq": None}])
def test_a_status_of_no_volume_is_refused(fields: dict[str, protocol.Value], stage: Stage, tmp_path: Path) -> None:
    origin = Origin(stage.path / "volume", tmp_path / "replicas")
    lie = lying(protocol.Status, lambda _: iter([protocol.StatusReply(fields)]))
    with origin.connect(writes=False, serve=lie) as session, pytest.raises(PacketFSError):
        session.status()
    origin.close()


def sound_literals(volume: Volume, address: int, data: bytes) -> protocol.Literals:
    """Bytes of one chunk that have their digest, though nobody stored them."""
    key = volume.space.peer_keys[:32]
    check = kernel.keyed_digest(key, kernel.keyed_digest(key, data))[:8]
    return protocol.Literals(literals(len(data), address=address, coded=data, check=check))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["wanted", "head", "beyond"])
def test_sound_bytes_that_nobody_stored_are_not_shown_and_do_not_stand_in_the_way(
    place: str, stage: Stage, tmp_path: Path
) -> None:
    """The head of a segment is where the next push of anybody puts something else."""
    shutil.copytree(stage.path / "volume", tmp_path / "volume")
    shutil.copytree(stage.path / "source", tmp_path / "source")
    origin = Origin(tmp_path / "volume", tmp_path / "replicas")
    with Volume.open(tmp_path / "volume") as volume:
        segment, head, _ = volume.segments()[-1]
        wanted = min(volume.space.extents(volume.entry(stage.new, b"d1/new")))
        made_up = {"wanted": wanted[0], "head": segment << OFFSET_BITS | head, "beyond": segment + 1 << OFFSET_BITS}
        body = sound_literals(volume, made_up[place], b"x" * 5000)

    def lie(truth: Iterator[Message]) -> Iterator[Message]:
        yield body
        for index, message in enumerate(truth):
            if index == 0 and isinstance(message, protocol.Literals):  # its place is said from the end of the last body
                message = protocol.Literals(moved(b"".join(message), lambda at: at - made_up[place] - 5000))
            yield message

    with origin.connect(writes=False) as session:
        session.resolve("main")
    try:
        with origin.connect(writes=False, serve=lying(protocol.Fetch, lie)) as session:
            pull(session, tmp_path / "target")
    except PacketFSError:
        assert not (tmp_path / "target").exists()
    grown(tmp_path / "source", {"later": random.Random(7).randbytes(70 << 20)})
    with origin.connect("other") as session:
        session.push(sources_of([tmp_path / "source"]), "main")
    with origin.connect(writes=False) as session:
        pull(session, tmp_path / "target")
    with origin.connect() as session:
        session.push(sources_of([tmp_path / "source"]), "again")
    origin.close()

    assert difference(facts(tmp_path / "source"), facts(tmp_path / "target")) == []
    with Volume.open(tmp_path / "volume") as volume:
        assert scrub.verify(volume, restart=True).sound
