"""Push and pull between two machines: what arrives is what was there, and what both hold does not travel."""

import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from packetfs.errors import ConflictError, NotFoundError, PacketFSError, RefusedError, UsageError
from packetfs.format.when import LATEST
from packetfs.sync import scrub
from packetfs.volume import Volume, sources_of
from tests.end_to_end.trees import difference, facts
from tests.sync.conftest import Origin
from tests.volume.conftest import rested

pytestmark = pytest.mark.usefixtures("over")


def push(origin: Origin, source: Path, client: str = "client", ref: str = "main"):  # type: ignore[no-untyped-def]
    with origin.connect(client, ref=ref) as session:
        return session.push(sources_of([source]), ref)


def pull(origin: Origin, target: Path, client: str = "client", place: str = "main"):  # type: ignore[no-untyped-def]
    with origin.connect(client, ref=place.partition("@")[0], writes=False, create=False) as session:
        return session.pull(place, os.fsencode(target), delete=True)


def is_sound(origin: Origin) -> bool:
    with Volume.open(origin.path) as volume:
        return scrub.verify(volume, restart=True).sound


def test_what_one_machine_pushes_another_pulls(origin: Origin, source: Path, tmp_path: Path) -> None:
    pushed = push(origin, source, "one")
    pulled = pull(origin, tmp_path / "target", "two")

    assert pushed.report.changed
    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert pulled.report.snapshot == pushed.report.snapshot
    assert is_sound(origin)


def test_the_origin_holds_the_same_snapshot_as_a_local_push_would_make(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    """The tree's digest covers no addresses, so who stored it where makes no difference."""
    pushed = push(origin, source)

    with Volume.open(origin.path) as volume:
        snapshot = volume.resolve("main")
        again = volume.push(sources_of([source]), "main")

    assert snapshot == pushed.report.snapshot
    assert not again.changed


def test_a_push_that_has_nothing_to_push_costs_one_round_trip(origin: Origin, source: Path) -> None:
    with origin.connect() as session:
        session.push(sources_of([rested(source)]), "main")

        again = session.push(sources_of([source]), "main")

    assert not again.report.changed
    assert again.traffic.round_trips == 1
    assert again.report.statistics.unchanged_files == 301


def test_a_pull_that_has_nothing_to_pull_costs_one_round_trip(origin: Origin, source: Path, tmp_path: Path) -> None:
    push(origin, source, "one")
    with origin.connect("two", writes=False) as session:
        session.pull("main", os.fsencode(tmp_path / "target"))

        again = session.pull("main", os.fsencode(tmp_path / "target"))

    assert again.report.unchanged > 300
    assert again.traffic.round_trips == 1


def test_a_small_change_is_one_round_trip_and_little_more_than_what_is_new(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    dice = random.Random(3)
    with origin.connect("one") as one, origin.connect("two", writes=False) as two:
        one.push(sources_of([source]), "main")
        two.pull("main", os.fsencode(tmp_path / "target"))
        for number in range(0, 300, 30):
            with open(next(source.glob(f"*/f{number}")), "ab") as file:
                file.write(dice.randbytes(28))

        pushed = one.push(sources_of([source]), "main")
        pulled = two.pull("main", os.fsencode(tmp_path / "target"))

    assert (pushed.traffic.round_trips, pulled.traffic.round_trips) == (1, 1)
    assert pushed.traffic.sent_bytes < 10 * 28 + 900
    assert pulled.traffic.received_bytes < 10 * 28 + 1200
    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin)


def test_an_edit_of_a_large_file_travels_as_a_delta(origin: Origin, source: Path, tmp_path: Path) -> None:
    push(origin, source)
    with open(source / "large", "r+b") as file:
        file.seek(1_500_000)
        file.write(b"sixteen new byte")

    pushed = push(origin, source)
    pull(origin, tmp_path / "target", "two")

    assert 0 < pushed.traffic.delta_bytes == pushed.traffic.literal_bytes
    assert pushed.traffic.coded_bytes < 400
    assert difference(facts(source), facts(tmp_path / "target")) == []


def test_a_renamed_directory_costs_its_new_name(origin: Origin, source: Path, tmp_path: Path) -> None:
    with origin.connect() as session:
        session.push(sources_of([source]), "main")
        (source / "d3").rename(source / "renamed")

        pushed = session.push(sources_of([source]), "main")

    assert pushed.traffic.literal_bytes == 0
    pull(origin, tmp_path / "target", "two")
    assert difference(facts(source), facts(tmp_path / "target")) == []


def test_what_the_origin_has_from_elsewhere_is_asked_for_and_pointed_at(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    """Another machine with the same files: its first push sends pointers."""
    push(origin, source, "one")
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)

    pushed = push(origin, copy, "two", ref="other")

    assert pushed.traffic.literal_bytes < 10_000
    assert pushed.traffic.sent_bytes < 40_000
    pull(origin, tmp_path / "target", "three", "other")
    assert difference(facts(copy), facts(tmp_path / "target")) == []
    assert is_sound(origin)


def test_a_push_onto_a_ref_that_another_machine_made_builds_on_it(origin: Origin, source: Path, tmp_path: Path) -> None:
    push(origin, source, "one")
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    (copy / "d1" / "new").write_bytes(b"new")

    pushed = push(origin, copy, "two")

    assert pushed.report.changed
    assert pushed.traffic.literal_bytes < 10_000
    with Volume.open(origin.path) as volume:
        newest, oldest = volume.log("main")
    assert newest.parent == oldest.id
    pull(origin, tmp_path / "target", "one")
    assert difference(facts(copy), facts(tmp_path / "target")) == []


def test_of_two_that_push_to_one_ref_at_once_one_is_told_so_and_nothing_is_lost(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    push(origin, source, "one")
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    (source / "mine").write_bytes(b"mine")
    (copy / "theirs").write_bytes(b"theirs")
    one, two = origin.connect("one"), origin.connect("two")
    two.push(sources_of([copy]), "main")

    with pytest.raises(ConflictError) as refused:
        one.push(sources_of([source]), "main")

    assert refused.value.code == "ref-moved"
    pushed = one.push(sources_of([source]), "main")  # run again, it wins: the ref is known now
    assert pushed.report.changed
    with Volume.open(origin.path) as volume:
        assert len(list(volume.log("main"))) == 3
    assert is_sound(origin)


def test_a_session_that_was_open_while_another_pushed_does_not_lose_for_that(origin: Origin, source: Path) -> None:
    """What it knew of the ref was old before its push began: nobody was first during it."""
    with origin.connect("one") as one:
        one.push(sources_of([source]), "main")
        (source / "more").write_bytes(b"more")
        push(origin, source, "two")
        (source / "most").write_bytes(b"most")

        pushed = one.push(sources_of([source]), "main")

    assert pushed.report.changed


def test_a_part_of_an_older_snapshot_can_be_pulled(origin: Origin, source: Path, tmp_path: Path) -> None:
    push(origin, source)
    before = facts(source / "d5")
    shutil.rmtree(source / "d5")
    push(origin, source)

    pulled = pull(origin, tmp_path / "target", "two", "main@~1:/d5")

    assert difference(before, facts(tmp_path / "target")) == []
    assert pulled.traffic.literal_bytes < 700_000  # not the large file beside it


def test_a_replica_that_may_hold_little_holds_little_and_still_serves(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    with origin.connect("small", cache_bytes=100_000) as session:
        session.push(sources_of([source]), "main")
        assert session.replica.disk_bytes() <= 100_000
        (source / "d1" / "new").write_bytes(b"n" * 50_000)

        pushed = session.push(sources_of([source]), "main")
        session.pull("main", os.fsencode(tmp_path / "target"))

    assert pushed.report.changed
    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin)


@pytest.mark.parametrize("lost", ["replica.db", "segments", "index", "cache", "secret"])
def test_whatever_is_lost_of_a_replica_the_next_transfer_is_right(
    lost: str, origin: Origin, source: Path, tmp_path: Path
) -> None:
    push(origin, source)
    gone = origin.replicas / "client" / lost
    if gone.is_dir():
        shutil.rmtree(gone)
        gone.mkdir()
    else:
        gone.unlink()
    (source / "d2" / "new").write_bytes(b"new")

    push(origin, source)
    pull(origin, tmp_path / "target")

    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin)


def test_a_push_that_was_committed_and_not_written_down_here_does_no_harm(
    origin: Origin, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the origin's commit and our own record. The next push finds nothing to commit, and keeps nothing
    that points into a lease which nobody has (found by the 27th of 250 kills).
    """
    with origin.connect() as session:
        session.push(sources_of([rested(source)]), "main")
    (source / "d1" / "new").write_bytes(random.Random(4).randbytes(100_000))
    rested(source)
    with monkeypatch.context() as patch, origin.connect() as session:
        patch.setattr(session.replica, "record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            session.push(sources_of([source]), "main")

    same = push(origin, source)
    (source / "d2" / "newer").write_bytes(b"newer")
    pushed = push(origin, source)

    assert (same.report.changed, pushed.report.changed) == (False, True)
    pull(origin, tmp_path / "target", "two")
    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert is_sound(origin)


def test_an_origin_restored_from_an_old_backup_is_noticed(origin: Origin, source: Path, tmp_path: Path) -> None:
    """Addresses that the replica has bytes for are granted again there, to other bytes."""
    push(origin, source)
    origin.settle()
    backup = tmp_path / "backup"
    shutil.copytree(origin.path, backup)
    (source / "d1" / "lost").write_bytes(random.Random(1).randbytes(100_000))
    push(origin, source)
    origin.settle()
    shutil.rmtree(origin.path)
    backup.rename(origin.path)
    (source / "d1" / "lost").write_bytes(random.Random(2).randbytes(100_000))

    push(origin, source)
    pull(origin, tmp_path / "one")
    pull(origin, tmp_path / "two", "other")

    assert difference(facts(source), facts(tmp_path / "one")) == []
    assert difference(facts(source), facts(tmp_path / "two")) == []
    assert is_sound(origin)


def test_a_reader_cannot_push_and_what_is_not_there_is_said(origin: Origin, source: Path, tmp_path: Path) -> None:
    push(origin, source)
    with origin.connect(writes=False) as session:
        with pytest.raises(RefusedError):
            session.push(sources_of([source]), "main")
        with pytest.raises(NotFoundError):
            session.pull("nothing", os.fsencode(tmp_path / "target"))
        with pytest.raises(NotFoundError):
            session.pull("main:/nowhere", os.fsencode(tmp_path / "target"))
        session.pull("main", os.fsencode(tmp_path / "target"))  # the session lives on

    assert difference(facts(source), facts(tmp_path / "target")) == []
    with pytest.raises(NotFoundError):
        Origin(tmp_path / "no volume", tmp_path / "r").connect(create=False)


def test_a_stream_is_pushed(origin: Origin, tmp_path: Path) -> None:
    from packetfs.sync.transfer import Stream

    content = random.Random(5).randbytes(2_000_000)
    (tmp_path / "stream").write_bytes(content)
    with origin.connect(ref="dumps") as session, open(tmp_path / "stream", "rb") as file:
        session.push(Stream(file.fileno(), b"db.sql"), "dumps")

    pull(origin, tmp_path / "target", "two", "dumps")
    assert (tmp_path / "target" / "db.sql").read_bytes() == content


def test_a_session_reads_like_a_volume(origin: Origin, source: Path) -> None:
    push(origin, source)
    with origin.connect("reader", writes=False) as session:
        snapshot = session.resolve("main", LATEST)
        entry = session.entry(snapshot, b"large")
        assert b"".join(session.read(entry)) == (source / "large").read_bytes()
        assert [found.name for found in session.refs()] == ["main"]
        assert [found.id for found in session.log("main")] == [snapshot.id]
        assert session.status().snapshots == 1


def test_many_segments_travel_while_the_rest_is_read(origin: Origin, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"f{number}").write_bytes(random.Random(number).randbytes(60_000_000))

    pushed = push(origin, source)
    pull(origin, tmp_path / "target", "two")

    assert pushed.traffic.sent_bytes < 180_000_000 * 1.003
    assert difference(facts(source), facts(tmp_path / "target")) == []


@pytest.mark.parametrize("writers", [2, 5])
def test_several_machines_push_to_refs_of_their_own_at_once(
    writers: int, origin: Origin, source: Path, tmp_path: Path
) -> None:
    push(origin, source)
    failures: list[PacketFSError] = []

    def work(number: int) -> None:
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(source, copy)
        (copy / "own").write_bytes(random.Random(number).randbytes(300_000))
        try:
            push(origin, copy, f"client-{number}", f"ref-{number}")
        except PacketFSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    for number in range(writers):
        pull(origin, tmp_path / "target", "reader", f"ref-{number}")
        assert difference(facts(tmp_path / f"copy-{number}"), facts(tmp_path / "target")) == []
    assert is_sound(origin)


def test_what_a_user_says_of_a_push_is_stored_or_refused_before_anything_is_sent(
    origin: Origin, source: Path, tmp_path: Path
) -> None:
    with origin.connect("one") as session:
        with pytest.raises(UsageError):
            session.push(sources_of([source]), "main", message="x" * 100_000)
        session.push(sources_of([source]), "main", message="not \udcff UTF-8 \x1b[31m")
        (snapshot,) = session.log("main")
    pull(origin, tmp_path / "target", "two")

    assert snapshot.message == "not \ufffd UTF-8 \x1b[31m"
    assert difference(facts(source), facts(tmp_path / "target")) == []
