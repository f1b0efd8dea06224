"""A sync between a client and an origin in one process: what it promises, and what a far side that lies can do."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from packetfs.env import SYSTEM
from packetfs.errors import BusyError, InvalidError, PacketFSError, RefusedError
from packetfs.events import Change, Progress
from packetfs.sync import mirror
from packetfs.sync.checkout import NO_CARE
from packetfs.sync.directory import FOUND, directory_of, in_turn, ingest, named
from packetfs.sync.serve import serve
from packetfs.sync.session import Session
from packetfs.volume import Volume
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from tests.end_to_end.trees import difference, facts
from tests.sync.conftest import Origin
from tests.sync.test_hostile_origin import Lie, each, escaping, failing, instead, lying, with_
from tests.volume.conftest import grown


class Far:
    """A directory on the far side."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.path = origin.path

    def session(self, *, may_be_missing: bool = True, serve: Callable[[Connection], None] | None = None) -> Session:
        ask = mirror.question(NO_CARE, may_be_missing=may_be_missing)
        return self.origin.connect(ref="sent", ingest=ask, serve=serve)

    def volume(self) -> Volume:
        meant = directory_of(os.fsencode(named(str(self.path))), os.environ)
        assert meant is not None
        return Volume.open(meant.volume)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    origin = Origin(tmp_path / "there", tmp_path / "replicas")
    yield Far(origin)
    origin.close()


def test_nothing_is_committed_for_what_has_not_changed(far: Far, source: Path) -> None:
    for _ in range(3):
        with far.session() as session:
            mirror.send(session, str(source), delete=True)

    with far.volume() as volume:
        # `found` in the first two: what the first one wrote had not been ingested there.
        assert volume.status().snapshots <= 3
        assert volume.resolve(FOUND).root_digest == volume.resolve("sent").root_digest
    assert difference(facts(source), facts(far.path)) == []


def test_both_sides_look_at_their_directories_at_the_same_time(far: Far, source: Path) -> None:
    """What is here has been read before the answer to the question of what is there is awaited."""
    with far.session() as session:
        mirror.send(session, str(source))
    grown(source, {"new": b"new"})
    is_awaited_yet: list[bool] = []

    with far.session() as session:
        mirror.send(session, str(source), progress=lambda _: is_awaited_yet.append(session.ingesting == 0))

    assert is_awaited_yet[:1] == [False]
    assert difference(facts(source), facts(far.path)) == []


def test_the_changes_there_are_told_here_as_they_are_in_a_pull(far: Far, source: Path) -> None:
    told: list[Change] = []
    with far.session() as session:
        done = mirror.send(session, str(source), report=told.extend)

    created = {change.path for change in told if change.action == "created"}
    assert {os.fsencode(path.relative_to(source)) for path in source.rglob("*")} <= created
    assert done.created == len(created)


def test_ten_thousand_changes_are_told_in_pages(far: Far, tmp_path: Path) -> None:
    tree: dict[str, bytes | None] = {f"d{number % 3}/{'n' * 100}{number}": b"" for number in range(10_000)}
    source = grown(tmp_path / "many", tree)
    told: list[Change] = []
    with far.session() as session:
        mirror.send(session, str(source), report=told.extend)

    assert len({change.path for change in told}) >= 10_003


def test_a_directory_that_is_missing_there_is_no_source(far: Far, tmp_path: Path) -> None:
    with far.session(may_be_missing=False) as session, pytest.raises(PacketFSError) as caught:
        mirror.fetch(session, str(tmp_path / "target"))

    assert caught.value.code == "file-not-found"
    assert not (tmp_path / "target").exists()


def test_an_origin_of_before_there_was_sync_is_told_of(far: Far) -> None:
    def refuse(_: Iterator[protocol.Message]) -> Iterator[protocol.Message]:
        raise InvalidError("a volume's path has no NUL byte", code="bad-location")

    with pytest.raises(RefusedError) as caught:
        far.session(serve=lying(protocol.Hello, refuse))

    assert caught.value.code == "version-skew"
    assert "upgrade" in caught.value.hint


def test_what_a_checkout_of_somebody_else_is_at_is_waited_for_and_told_of(far: Far, source: Path) -> None:
    """A client that was killed leaves a checkout behind that goes on for a while."""
    with far.session() as session:
        mirror.send(session, str(source))
    meant = directory_of(os.fsencode(named(str(far.path))), os.environ)
    assert meant is not None
    grown(source, {"new": b"new"})

    for writes in (True, False):
        with (
            in_turn(meant, writes=writes, wait_s=0, env=SYSTEM),
            far.session(serve=impatient) as session,
            pytest.raises(BusyError) as caught,
        ):
            mirror.send(session, str(source))
        assert "another sync" in caught.value.message
    assert not (far.path / "new").exists()


def test_what_was_found_is_not_believed_when_somebody_has_written_meanwhile(far: Far, source: Path) -> None:
    with far.session() as session:
        mirror.send(session, str(source))
    other = far.origin.connect("other", ref="sent", ingest=mirror.question(NO_CARE, may_be_missing=True))
    before = facts(source)
    with far.session() as session:
        session.status()  # the greeting and INGEST are over
        grown(source, {"of the other": b"x"})
        mirror.send(other, str(source))
        (source / "of the other").unlink()
        os.utime(source, ns=(0, before[b""].mtime_ns))
        done = mirror.send(session, str(source), delete=True)

    assert done.deleted == 1
    assert difference(before, facts(far.path)) == []


def test_who_loses_a_race_for_what_was_found_looks_again(far: Far, source: Path) -> None:
    """While the one stores what the directory holds, the other has stored what it holds by then."""
    with far.session() as session:
        mirror.send(session, str(source))
    meant = directory_of(os.fsencode(named(str(far.path))), os.environ)
    assert meant is not None
    others: list[protocol.Ingested] = []

    def meanwhile(_: Progress) -> None:
        if not others:
            grown(far.path, {"later": b"later"})
            with far.volume() as other:
                others.append(ingest(other, meant, protocol.Ingest(), 0, lambda _: None)[0])

    grown(far.path, {"sooner": b"sooner"})
    with far.volume() as volume:
        ingest(volume, meant, protocol.Ingest(), 0, meanwhile)
        names = {entry.name for entry in volume.entries(volume.root(volume.resolve(FOUND)))}

    assert others
    assert {b"sooner", b"later"} <= names


def test_two_that_sync_into_one_directory_at_once_both_succeed_and_the_last_one_decides(
    far: Far, source: Path, tmp_path: Path
) -> None:
    other_source = grown(tmp_path / "other", {"of the other": b"x" * 5000})
    one = far.session()
    other = far.origin.connect("other", ref="sent", ingest=mirror.question(NO_CARE, may_be_missing=True))

    def first(_: Progress) -> None:
        if not done:
            done.append(mirror.send(other, str(other_source), delete=True))

    done: list[mirror.Synced] = []
    with one, other:
        mirror.send(one, str(source), delete=True, progress=first)

    assert done
    assert difference(facts(source), facts(far.path)) == []


def test_sent_again_on_the_same_session_a_change_is_one_round_trip(far: Far, source: Path) -> None:
    with far.session() as session:
        first = mirror.send(session, str(source), delete=True)
        nothing = mirror.send(session, str(source), delete=True)
        (source / "large").write_bytes(b"small now")
        (source / "d1" / "f1").unlink()
        done = mirror.send(session, str(source), delete=True)
        found = facts(far.path)
        grown(source, {"new/est": b"x" * 100_000})
        last = mirror.send(session, str(source), delete=True)

    assert first.traffic.round_trips <= 3
    assert (nothing.traffic.round_trips, nothing.changed) == (1, False)
    assert (done.traffic.round_trips, done.deleted) == (1, 1)
    assert (found[b"large"].content, b"d1/f1" in found) == (facts(source)[b"large"].content, False)
    assert (last.traffic.round_trips, last.created) == (1, 2)
    assert last.traffic.sent_bytes < 5000
    assert difference(facts(source), facts(far.path)) == []


def test_who_is_overtaken_between_two_changes_still_sends_its_own(far: Far, source: Path, tmp_path: Path) -> None:
    """The commit is refused, and so is the checkout that had been asked for with it; then all of it is said again."""
    other_source = grown(tmp_path / "other", {"of the other": b"x"})
    with far.session() as session:
        mirror.send(session, str(source), delete=True)
        with far.origin.connect("other", ref="sent", ingest=mirror.question(NO_CARE, may_be_missing=True)) as other:
            mirror.send(other, str(other_source), delete=True)
        grown(source, {"new": b"new"})
        mirror.send(session, str(source), delete=True)
        between = facts(far.path)
        grown(source, {"newer": b"newer"})
        last = mirror.send(session, str(source), delete=True)

    assert b"new" in between
    assert b"of the other" not in between
    assert last.traffic.round_trips == 1
    assert difference(facts(source), facts(far.path)) == []


def test_nothing_is_checked_out_of_a_session_that_has_committed_nothing(far: Far) -> None:
    far.path.mkdir()
    with far.session() as session, pytest.raises(PacketFSError) as caught:
        session.link.ask(protocol.Checkout(b""), protocol.CheckedOut)

    assert caught.value.code == "snapshot-not-found"
    assert list(far.path.iterdir()) == []


def impatient(connection: Connection) -> None:
    serve(connection, lock_wait_s=1)


ROW = protocol.Changed(b"\x1b[31m/../x", "created", "file", 1, ">f")
DONE = protocol.CheckedOut(1, 0, 0, 0, 0)
INGEST_LIES: dict[str, tuple[type, Lie]] = {
    "a failure": (protocol.Ingest, failing(protocol.Ingested)),
    "an absurd size": (protocol.Ingest, with_(protocol.Ingested, unique_bytes=(1 << 63) - 1)),
    "a negative size": (protocol.Ingest, with_(protocol.Ingested, unique_bytes=-1)),
    "it is missing": (protocol.Ingest, with_(protocol.Ingested, missing=True)),
}
CHECKOUT_LIES: dict[str, tuple[type, Lie]] = {
    "a failure at the end": (protocol.Checkout, failing(protocol.CheckedOut)),
    "absurd counts": (protocol.Checkout, with_(protocol.CheckedOut, created=(1 << 63) - 1)),
    "more than a page": (
        protocol.Checkout,
        instead(protocol.CheckedOut, protocol.Changes([ROW] * (protocol.CHANGES_MAX + 1)), DONE),
    ),
}


@pytest.mark.parametrize("lie", [*INGEST_LIES.values(), *CHECKOUT_LIES.values()], ids=[*INGEST_LIES, *CHECKOUT_LIES])
def test_a_sync_to_a_far_side_that_lies_ends_in_an_error_of_ours_and_an_honest_one_puts_it_right(
    lie: tuple[type, Lie], far: Far, source: Path
) -> None:
    before = facts(source)
    try:
        with far.session(serve=lying(*lie)) as session:
            mirror.send(session, str(source), delete=True)
    except PacketFSError:
        pass
    with far.session() as session:
        mirror.send(session, str(source), delete=True)

    assert difference(before, facts(far.path)) == []
    assert difference(before, facts(source)) == []


@pytest.mark.parametrize("lie", INGEST_LIES.values(), ids=INGEST_LIES)
def test_a_sync_from_a_far_side_that_lies_shows_nothing_wrong_and_an_honest_one_puts_it_right(
    lie: tuple[type, Lie], far: Far, source: Path, tmp_path: Path
) -> None:
    os.rename(source, far.path)
    target = grown(tmp_path / "target", {"old": b"old"})
    before = facts(target)
    try:
        with far.session(serve=lying(*lie)) as session:
            mirror.fetch(session, str(target), delete=True)
    except PacketFSError:
        assert facts(target) == before
    with far.session() as session:
        mirror.fetch(session, str(target), delete=True)

    assert difference(facts(far.path), facts(target)) == []


def test_a_tree_that_escapes_is_not_written_here(far: Far, source: Path, tmp_path: Path) -> None:
    """The far side sends names that lead out of the target: those of a pull that lies, and the same end."""
    os.rename(source, far.path)
    target = tmp_path / "x" / "y" / "target"
    target.parent.mkdir(parents=True)
    for name in (b"../../escaped", b"..", b"/escaped"):
        lie = lying(protocol.Want, instead(protocol.Tree, escaping(name)))
        with far.session(serve=lie) as session, pytest.raises(PacketFSError):
            mirror.fetch(session, str(target))
    assert list((tmp_path / "x").rglob("*")) == [tmp_path / "x" / "y"]


def test_what_a_far_side_could_not_read_is_not_deleted_here(far: Far, source: Path, tmp_path: Path) -> None:
    os.rename(source, far.path)
    target = grown(tmp_path / "target", {"only here": b"kept"})
    missed = [protocol.Missed(b"only here", "unreadable", 13)]
    lie = each(protocol.Ingested, lambda message: structs.replace(message, unread=1, problems=missed))

    with far.session(serve=lying(protocol.Ingest, lie)) as session:
        done = mirror.fetch(session, str(target), delete=True)

    assert done.unread == 1
    assert (target / "only here").read_bytes() == b"kept"
