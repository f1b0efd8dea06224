"""What a session does after something failed in it, on a full disk, and when what it leant on is gone."""

import os
import random
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import structs

from packetfs.errors import BusyError, DamagedError, PacketFSError, UnavailableError
from packetfs.sync import scrub, transfer
from packetfs.sync.session import Session
from packetfs.volume import Volume, sources_of
from tests.end_to_end.disks import enlarge, small_disk
from tests.end_to_end.trees import difference, facts
from tests.sync.conftest import Origin
from tests.volume.conftest import grown

pytestmark = pytest.mark.usefixtures("over")

Many = Callable[[int, int], int]


def push(session: Session, source: Path) -> None:
    session.push(sources_of([source]), "main")


def pull(session: Session, target: Path) -> None:
    session.pull("main", os.fsencode(target), delete=True)


def is_sound(volume: Path) -> bool:
    with Volume.open(volume) as opened:
        return scrub.verify(opened, restart=True).sound


# -- after a push that failed here ---------------------------------------------------------------------------------


class StoppedError(Exception):
    """A caller's own."""


def stopped_before_commit(session: Session, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that has sent its literals and a part of its tree, and fails here."""

    def stop(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_wanted", stop)
        with pytest.raises(StoppedError):
            push(session, source)


def test_a_session_can_be_used_after_a_push_that_failed_while_it_was_sent(
    origin: Origin, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with origin.connect() as session:
        push(session, source)
        before = facts(source)
        grown(source, {"d1/new": b"new" * 50_000})
        stopped_before_commit(session, source, monkeypatch)
        pull(session, tmp_path / "old")
        stopped_before_commit(session, source, monkeypatch)
        assert [ref.name for ref in session.refs()] == ["main"]
        stopped_before_commit(session, source, monkeypatch)
        assert session.status().snapshots == 1
        stopped_before_commit(session, source, monkeypatch)

        push(session, source)
        pull(session, tmp_path / "new")

    assert difference(before, facts(tmp_path / "old")) == []
    assert difference(facts(source), facts(tmp_path / "new")) == []
    assert is_sound(origin.path)


def test_what_was_asked_for_with_the_greeting_is_let_go_when_something_else_is_done(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    with origin.connect("one") as session:
        push(session, source)
    wants = ("main", "latest", b"")
    with origin.connect("two", wants=wants) as session:
        assert [ref.name for ref in session.refs()] == ["main"]
        pull(session, tmp_path / "target")
    assert difference(facts(source), facts(tmp_path / "target")) == []
    grown(source, {"d1/new": b"new"})
    with origin.connect("three", wants=wants) as session:
        push(session, source)
        pull(session, tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin.path)


def test_a_push_that_finds_its_replica_damaged_while_it_sends_empties_it_and_goes_on(
    origin: Origin, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, failures = transfer._wanted, [DamagedError("a segment of the replica is damaged")]

    def find(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return wanted(*arguments)  # type: ignore[arg-type]

    with origin.connect() as session:
        push(session, source)
        grown(source, {"d1/new": b"new" * 50_000})
        monkeypatch.setattr(transfer, "_wanted", find)

        push(session, source)
        pull(session, tmp_path / "target")

    assert failures == []
    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin.path)


# -- on a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def large_source(tmp_path: Path) -> Path:
    dice = random.Random(8)
    tree: dict[str, bytes | None] = {f"f{number}": dice.randbytes(1 << 20) for number in range(12)}
    return grown(tmp_path / "large", tree)


def check_full(error: UnavailableError) -> None:
    assert error.code == "disk-full", error
    assert "space" in error.hint
    assert error.exit_code == 7


@pytest.mark.slow
@pytest.mark.parametrize("has_base", [False, True])
def test_a_push_to_a_full_disk_says_so_commits_nothing_and_works_when_there_is_space(
    has_base: bool, tmp_path: Path, large_source: Path, source: Path
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        origin = Origin(disk / "volume", tmp_path / "replicas")
        grown(source, {"large": b""})
        with origin.connect() as session:
            push(session, source)
        grown(large_source, {"marker": b"x"})
        ref = "main" if has_base else "other"

        with origin.connect(ref=ref) as session, pytest.raises(UnavailableError) as full:
            session.push(sources_of([large_source]), ref)
        origin.settle()
        check_full(full.value)
        with Volume.open(disk / "volume") as volume:
            assert len(list(volume.log("main"))) == 1
            assert len(volume.refs()) == 1
        enlarge(disk)
        assert is_sound(disk / "volume")
        with origin.connect(ref=ref) as session:
            session.push(sources_of([large_source]), ref)
            session.pull(ref, os.fsencode(tmp_path / "target"))
        origin.close()
        assert is_sound(disk / "volume")
    assert difference(facts(large_source), facts(tmp_path / "target")) == []


@pytest.mark.slow
def test_a_first_push_of_several_segments_to_a_full_disk_says_so(tmp_path: Path) -> None:
    """Its literals are sent by a thread while the rest is read."""
    source = tmp_path / "noise"
    source.mkdir()
    (source / "noise").write_bytes(random.Random(3).randbytes(140 << 20))
    with small_disk(tmp_path / "disk", 20) as disk:
        origin = Origin(disk / "volume", tmp_path / "replicas")
        with origin.connect() as session, pytest.raises(UnavailableError) as full:
            push(session, source)
        origin.close()
    check_full(full.value)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["replicas", "target"])
def test_a_pull_to_a_full_disk_says_so_and_works_when_there_is_space(
    what: str, tmp_path: Path, large_source: Path, source: Path
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        pushing = Origin(tmp_path / "volume", tmp_path / "pusher")
        with pushing.connect() as session:
            push(session, large_source)
        pushing.close()
        places = {"replicas": tmp_path / "replicas", "target": tmp_path / "target"} | {what: disk / what}
        origin = Origin(tmp_path / "volume", places["replicas"])

        with origin.connect(writes=False) as session:
            with pytest.raises(PacketFSError) as full:
                session.pull("main", os.fsencode(places["target"]), delete=True, check_space=False)
            enlarge(disk)
            pull(session, places["target"])  # the session lives on
        with origin.connect(writes=False) as session:
            pull(session, places["target"])
        origin.close()
        assert difference(facts(large_source), facts(places["target"])) == []
    assert full.value.exit_code == 7
    check_full(full.value)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_push_with_a_full_disk_here_says_so_and_works_when_there_is_space(tmp_path: Path, large_source: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        origin = Origin(tmp_path / "volume", disk / "replicas")
        with origin.connect() as session:
            with pytest.raises(UnavailableError) as full:
                push(session, large_source)
            enlarge(disk)
            push(session, large_source)
            pull(session, tmp_path / "target")
        origin.close()
        check_full(full.value)
    assert difference(facts(large_source), facts(tmp_path / "target")) == []
    assert is_sound(tmp_path / "volume")


# -- when what it leant on is gone -------------------------------------------------------------------------------------


def test_secrets_of_a_replica_are_for_its_owner_alone(origin: Origin, source: Path) -> None:
    with origin.connect() as session:
        push(session, source)
        place = Path(session.replica.path)
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        for name in ("replica.db", "replica.db-wal", "replica.db-shm", "secret", "lock"):
            assert stat.S_IMODE((place / name).stat().st_mode) == 0o600, name


@pytest.mark.slow
def test_of_two_sessions_with_one_replica_the_second_is_told_to_wait(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    with origin.connect() as session:
        push(session, source)
        with pytest.raises(BusyError) as busy:
            origin.connect(writes=False)
        pull(session, tmp_path / "target")
    with origin.connect(writes=False) as session:
        pull(session, tmp_path / "target")

    assert busy.value.exit_code == 6
    assert "--lock-wait" in busy.value.hint


def test_bases_that_are_evicted_between_operations_are_had_again(origin: Origin, source: Path, tmp_path: Path) -> None:
    dice = random.Random(12)
    with origin.connect(cache_bytes=1) as session:
        for number in range(4):
            grown(source, {f"d1/f{number}": dice.randbytes(70_000)})
            push(session, source)
            assert session.replica.newest() is None, "everything was evicted, and so no base is left"
            pull(session, tmp_path / "target")
            assert difference(facts(source), facts(tmp_path / "target")) == []
            pull(session, tmp_path / "old")

    assert is_sound(origin.path)


@pytest.mark.parametrize("operation", [push, pull])
def test_a_cache_that_is_cleared_during_a_session_costs_a_transfer_and_nothing_else(
    operation: Callable[[Session, Path], None], origin: Origin, source: Path, tmp_path: Path
) -> None:
    """As a user does who needs space: all of it, while it is open."""
    with origin.connect() as session:
        push(session, source)
        for name in ("segments", "index", "cache"):
            shutil.rmtree(Path(session.replica.path) / name)
        grown(source, {"d1/new": b"new"})

        with suppress(PacketFSError):
            operation(session, source if operation is push else tmp_path / "target")
    with origin.connect() as session:
        push(session, source)
        pull(session, tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin.path)


def test_a_session_can_be_used_after_its_origin_refused_a_tree(
    origin: Origin, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = transfer._wanted
    with origin.connect() as session:
        push(session, source)
        grown(source, {"d1/new": b"new" * 50_000})
        with monkeypatch.context() as patch:
            patch.setattr(transfer, "_wanted", lambda *said: structs.replace(wanted(*said), root_digest=bytes(16)))
            with pytest.raises(DamagedError):
                push(session, source)

        push(session, source)
        pull(session, tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin.path)
