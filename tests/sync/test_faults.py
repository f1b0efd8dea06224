"""Push and pull over a network that cuts, stalls and damages: they end with an error of ours, and run again they work.

The places are those of an undisturbed run: within the header and within the body of a frame of each type, both ways.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from packetfs.errors import PacketFSError
from packetfs.events import Change
from packetfs.sync import mirror, scrub, serve
from packetfs.sync.checkout import NO_CARE
from packetfs.sync.directory import SENT
from packetfs.sync.session import Session
from packetfs.testing.faults import CLEAR, Damage, Faults, Faulty
from packetfs.volume import Volume, sources_of
from packetfs.wire import protocol
from packetfs.wire.frames import HEADER_BYTES, Decoder, FrameType
from packetfs.wire.transports import Transport
from tests.end_to_end.trees import Facts, difference, facts
from tests.sync.conftest import Origin

if TYPE_CHECKING:
    from typing_extensions import Buffer

Many = Callable[[int, int], int]
Story = Callable[[Session, Path], None]

# A stall costs a test this long; where the machine is too slow for it, the operation fails all the same.
IMPATIENCE_S = 0.25
PATIENCE_S = 60.0
BYE_BYTES = HEADER_BYTES + 1


def push_story(session: Session, source: Path) -> None:
    """All that a client says that writes."""
    session.leased = session.link.ask(protocol.Lease(), protocol.Leased)
    session.push(sources_of([source]), "main")
    session.push(sources_of([source]), "main")


def pull_story(session: Session, target: Path) -> None:
    """All that a client says that reads: the tree first, then what it holds, by address."""
    session.refs()
    session.status()
    list(session.log("main"))
    session.resolve("main")
    session.pull("main", os.fsencode(target), delete=True)


def sync_story(session: Session, source: Path) -> None:
    """All that a client says about a directory; `question` went with the greeting."""
    told: list[Change] = []
    mirror.send(session, os.fsencode(source), delete=True, report=told.extend)


QUESTION = mirror.question(NO_CARE, may_be_missing=True)


class Recorded(Faulty):
    """A clear line that remembers what passed."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, CLEAR)
        self.up = bytearray()
        self.down = bytearray()

    def send(self, buffers: "Sequence[Buffer]") -> None:
        for buffer in buffers:
            self.up += buffer
        super().send(buffers)

    def receive(self, patience_s: float | None = None) -> bytes:
        data = super().receive(patience_s)
        self.down += data
        return data


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere in a frame of one direction."""

    type: FrameType
    offset: int


def places(stream: bytes, number: int) -> list[Place]:
    """For each type of frame: within a header and within a body in turns; with a large `number` so many of all."""
    decoder = Decoder()
    decoder.feed(stream)
    found: dict[FrameType, list[list[Place]]] = {}
    start = 0
    while (frame := decoder.next()) is not None:
        end = start + HEADER_BYTES + len(frame.body)
        offsets = [start + 6, start + HEADER_BYTES + len(frame.body) // 2, start, end - 1, start + HEADER_BYTES]
        found.setdefault(frame.type, []).append([Place(frame.type, offset) for offset in offsets])
        start = end
    assert start == len(stream)
    first = [frames[0][index % 2] for index, frames in enumerate(found.values())]
    rest = [place for frames in found.values() for five in frames for place in five if place not in first]
    return first + rest[: max(0, number - len(first))]


@dataclass(frozen=True, slots=True)
class Stage:
    """A volume with a snapshot that one machine made, and a newer state of its source."""

    path: Path
    old: bytes
    new: bytes
    facts: dict[bytes, Facts]
    up: dict[str, bytes]
    down: dict[str, bytes]

    @property
    def volume(self) -> Path:
        return self.path / "volume"

    @property
    def source(self) -> Path:
        return self.path / "source"

    def digest(self, volume: Path) -> bytes:
        """What `main` names; the volume is sound."""
        with Volume.open(volume) as opened:
            assert scrub.verify(opened, restart=True).sound
            return opened.resolve("main").root_digest


@contextmanager
def chatty(data: Path) -> Iterator[None]:
    """The far side keeps what it has seen of a directory in `data`, and tells at every occasion that it is at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        patch.setattr(serve, "_TELL_S", 0.0)
        yield


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Each story told once, undisturbed."""
    import random

    path = tmp_path_factory.mktemp("stage")
    dice = random.Random(11)
    source = path / "source"
    for number in range(24):
        file = source / f"d{number % 3}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(dice.randbytes(dice.choice([10, 3000, 20_000])))
    (source / "large").write_bytes(dice.randbytes(1_500_000))
    with Volume.create(path / "volume") as volume:
        volume.push(sources_of([source]), "main")
        old = volume.resolve("main").root_digest
    up, down = {}, {}

    def tell(name: str, volume: Path, story: Story, where: Path) -> None:
        lines: list[Recorded] = []

        def record(transport: Transport) -> Transport:
            lines.append(Recorded(transport))
            return lines[0]

        origin = Origin(volume, path / f"replicas-{name}")
        ingest, ref = (QUESTION, SENT) if name == "sync" else (None, "main")
        with origin.connect(writes=name != "pull", wrap=record, ref=ref, ingest=ingest) as session:
            story(session, where)
        origin.close()
        up[name], down[name] = bytes(lines[0].up), bytes(lines[0].down)

    tell("pull", path / "volume", pull_story, path / "target")
    shutil.copytree(source, path / "directory", symlinks=True)
    (source / "d1" / "new").write_bytes(dice.randbytes(70_000))
    with open(source / "large", "r+b") as file_:
        file_.seek(700_000)
        file_.write(dice.randbytes(30))
    shutil.copytree(path / "volume", path / "pushed")
    tell("push", path / "pushed", push_story, source)
    shutil.copytree(path / "directory", path / "synced", symlinks=True)
    with chatty(path / "data"):
        tell("sync", path / "synced", sync_story, source)
    with Volume.open(path / "pushed") as volume:
        new = volume.resolve("main").root_digest
    return Stage(path, old, new, facts(path / "target"), up, down)


def test_the_stories_say_all_that_can_be_said(stage: Stage) -> None:
    said = {
        place.type for streams in (stage.up, stage.down) for stream in streams.values() for place in places(stream, 0)
    }

    pairing = {FrameType.PAIR, FrameType.PAIRED}  # a session of its own, over TLS, which lets no damage through
    copying = {kind for kind in FrameType if 20 <= kind <= 24 or 52 <= kind <= 56}  # see test_replicate.py
    assert said == set(FrameType) - {FrameType.RESOLVE, FrameType.ACK, FrameType.FAILURE} - pairing - copying


FAULTS: dict[str, tuple[str, Callable[[int], Faults]]] = {
    "cut up": ("up", lambda at: Faults(up=Damage(cut=at))),
    "cut down": ("down", lambda at: Faults(down=Damage(cut=at))),
    "corrupt up": ("up", lambda at: Faults(up=Damage(corrupt=at))),
    "corrupt down": ("down", lambda at: Faults(down=Damage(corrupt=at))),
    "stall up, then cut": ("up", lambda at: Faults(up=Damage(stall=at, cut=at + 40))),
    "stall up": ("up", lambda at: Faults(up=Damage(stall=at))),
    "stall down": ("down", lambda at: Faults(down=Damage(stall=at))),
    "half-open": ("up", lambda at: Faults(half_open=at)),
}


def cases(stage: Stage, story: str, fault: str, many: Many) -> Iterator[tuple[Place, Faults]]:
    way, make = FAULTS[fault]
    found = places((stage.up if way == "up" else stage.down)[story], many(0, 400))
    if many(0, 1) == 0 and ("stall" in fault or fault == "half-open"):
        found = found[sorted(FAULTS).index(fault) % 4 :: 4]  # each waits for its patience
    return ((place, make(place.offset)) for place in found)


def attempt(
    origin: Origin,
    faults: Faults,
    story: Story,
    where: Path,
    *,
    writes: bool,
    ref: str = "main",
    ingest: protocol.Ingest | None = None,
) -> tuple[Faulty, bool]:
    """Tell a story over a bad line; the line, and whether it came to its end. Only errors of ours may stop it."""
    lines: list[Faulty] = []

    def wrap(transport: Transport) -> Transport:
        lines.append(Faulty(transport, faults))
        return lines[0]

    only_cut = faults in (Faults(up=Damage(cut=faults.up.cut)), Faults(down=Damage(cut=faults.down.cut)))
    try:
        patience_s = PATIENCE_S if only_cut else IMPATIENCE_S
        create = ingest is not None
        with origin.connect(
            writes=writes, create=create, wrap=wrap, patience_s=patience_s, ref=ref, ingest=ingest
        ) as session:
            story(session, where)
    except PacketFSError:
        return lines[0], False
    return lines[0], True


def check_detected(line: Faulty, faults: Faults, *, done: bool) -> None:
    """A damaged byte that was needed has stopped it. Nobody needs the last word, which is BYE."""
    if done and faults.up.corrupt is not None:
        assert line._up.offset - BYE_BYTES <= faults.up.corrupt
    if done and faults.down.corrupt is not None:
        assert line._down.offset <= faults.down.corrupt


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_push_over_a_bad_line_leaves_old_or_new_and_is_finished_by_running_it_again(
    fault: str, stage: Stage, tmp_path: Path, many: Many
) -> None:
    for place, faults in cases(stage, "push", fault, many):
        here = tmp_path / f"{place.type.name}-{place.offset}"
        shutil.copytree(stage.volume, here / "volume")
        origin = Origin(here / "volume", here / "replicas")

        line, done = attempt(origin, faults, push_story, stage.source, writes=True)
        origin.settle()
        found = stage.digest(here / "volume")
        with origin.connect(create=False) as session:
            push_story(session, stage.source)
        origin.close()

        check_detected(line, faults, done=done)
        assert found == stage.new if done else found in (stage.old, stage.new)
        assert stage.digest(here / "volume") == stage.new
        shutil.rmtree(here)


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_pull_over_a_bad_line_shows_nothing_wrong_and_is_finished_by_running_it_again(
    fault: str, stage: Stage, tmp_path: Path, many: Many
) -> None:
    for place, faults in cases(stage, "pull", fault, many):
        here = tmp_path / f"{place.type.name}-{place.offset}"
        origin = Origin(stage.volume, here / "replicas")

        line, done = attempt(origin, faults, pull_story, here / "target", writes=False)
        shown = facts(here / "target") if (here / "target").exists() else {}
        with origin.connect(writes=False) as session:
            pull_story(session, here / "target")
        origin.close()

        check_detected(line, faults, done=done)
        for path, fact in shown.items():
            assert fact.content == stage.facts[path].content
        assert difference(stage.facts, facts(here / "target")) == []
        shutil.rmtree(here)
    assert stage.digest(stage.volume) == stage.old


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_sync_over_a_bad_line_leaves_each_name_old_or_new_and_is_finished_by_running_it_again(
    fault: str, stage: Stage, tmp_path: Path, many: Many
) -> None:
    before, after = facts(stage.path / "directory"), facts(stage.source)
    for place, faults in cases(stage, "sync", fault, many):
        here = tmp_path / f"{place.type.name}-{place.offset}"
        shutil.copytree(stage.path / "directory", here / "directory", symlinks=True)
        origin = Origin(here / "directory", here / "replicas")

        with chatty(here / "data"):
            line, done = attempt(origin, faults, sync_story, stage.source, writes=True, ref=SENT, ingest=QUESTION)
            origin.settle()
            found = facts(here / "directory")
            with origin.connect(ref=SENT, ingest=QUESTION) as session:
                sync_story(session, stage.source)
            origin.close()

        check_detected(line, faults, done=done)
        for path, fact in found.items():
            assert fact.content in {state[path].content for state in (before, after) if path in state}, (place, path)
        if done:
            assert difference(after, found) == []
        assert difference(after, facts(here / "directory")) == []
        shutil.rmtree(here)
