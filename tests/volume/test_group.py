"""Commits that come at the same time are one transaction: all of them or none, each told what became of it."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from packetfs.errors import ConflictError, DamagedError, RefusedError, UnavailableError
from packetfs.format.address import segment_of
from packetfs.volume import Volume, sources_of
from packetfs.volume.journal import Journal
from packetfs.volume.rebuild import rebuild
from packetfs.volume.space import Durable
from tests.volume.conftest import grown, stored


class First:
    """Holds the turn until it is told to give it up."""

    def __init__(self) -> None:
        self.turn = threading.Event()
        self.is_over = False
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def commit(self, _: "First", __: Sequence[object]) -> None:
        self.has_begun.set()
        self.may_end.wait()
        self.is_over = True


@contextmanager
def gathered(volume: Volume, count: int) -> Iterator[None]:
    """Within the block commits only wait; it ends when `count` of them do, and then they go on together."""
    first, queue = First(), volume.journal.queue
    thread = threading.Thread(target=queue.join, args=(first, first.commit))
    thread.start()
    first.has_begun.wait()
    try:
        yield
        while len(queue._waiting) < count:
            os.sched_yield()
    finally:
        first.may_end.set()
        thread.join()


def push_all(path: Path, refs: Sequence[str], place: Path) -> dict[str, BaseException | None]:
    """One session each, as on a server: all of their commits in one group. What became of each push, by its source."""
    ended: dict[str, BaseException | None] = {}

    def push(volume: Volume, number: int) -> None:
        source = grown(place / f"{number}", {"file": b"content %d" % number * 900})
        try:
            volume.push(sources_of([source]), refs[number])
            ended[source.name] = None
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            ended[source.name] = error

    place.mkdir(exist_ok=True)
    volumes = [Volume.open(path) for _ in refs]
    threads = [threading.Thread(target=push, args=(volume, number)) for number, volume in enumerate(volumes)]
    with gathered(volumes[0], len(threads)):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    for volume in volumes:
        volume.close()
    return ended


def heads(path: Path) -> dict[str, object]:
    with Volume.open(path) as volume:
        volume.check_journal()
        return {ref.name: stored(volume, ref.snapshot) for ref in volume.refs()}


def entries(path: Path) -> list[tuple[int, int]]:
    """(seq, segment) of each entry of the journal."""
    with Volume.open(path) as volume, volume.journal.reading() as db:
        return [(seq, segment_of(address)) for seq, address in db.execute("SELECT seq, address FROM journal")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Volume.create(tmp_path / "volume") as volume:
        volume.push(sources_of([grown(tmp_path / "before", {"file": b"before"})]), "before")
    return tmp_path / "volume"


def test_those_who_wait_are_committed_in_one_transaction(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve refs move with one sync of the journal: a thirteenth and a fourteenth would be those of the leases."""
    commits: list[int] = []
    committed = Journal._commit

    def counted(journal: Journal) -> None:
        commits.append(journal._db.execute("SELECT count(*) FROM journal").get)
        committed(journal)

    monkeypatch.setattr(Journal, "_commit", counted)

    ended = push_all(path, [f"r{number}" for number in range(12)], tmp_path / "sources")

    assert list(ended.values()) == [None] * 12
    assert [now for now in commits if now > 1] == [13]
    assert len({segment for seq, segment in entries(path) if seq > 1}) == 1
    found = heads(path)
    assert {f"r{number}": found[f"r{number}"] for number in range(12)} == {
        f"r{number}": {"file": b"content %d" % number * 900} for number in range(12)
    }


def test_what_fails_after_the_commit_concerns_the_one_who_did_it_and_lets_nobody_commit_twice(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"ref-{number}" for number in range(6)]
    admit, failed = Volume.admit, threading.Event()

    def failing(volume: Volume, durable: Sequence[Durable]) -> None:
        with volume.journal.reading() as db:
            is_committed = db.execute("SELECT count(*) FROM refs").get == 1 + len(names)
        if is_committed and not failed.is_set():
            failed.set()
            raise UnavailableError("no more memory to map a segment")
        admit(volume, durable)

    monkeypatch.setattr(Volume, "admit", failing)
    ended = push_all(path, names, tmp_path / "sources")

    assert [type(error) for error in ended.values() if error is not None] == [UnavailableError]
    assert set(heads(path)) == {"before", *names}
    assert len(entries(path)) == 1 + len(names)


def test_of_those_who_want_one_ref_one_gets_it_and_the_others_are_told(path: Path, tmp_path: Path) -> None:
    ended = push_all(path, ["main", "main", "main", "own"], tmp_path / "sources")

    assert ended["3"] is None
    lost = [error for error in ended.values() if error is not None]
    assert [error.code for error in lost if isinstance(error, ConflictError)] == ["ref-moved"] * 2
    assert len(entries(path)) == 3
    assert heads(path)["own"] == {"file": b"content 3" * 900}


def test_when_the_sync_of_the_journal_fails_all_are_told_and_none_goes_on_writing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = heads(path)
    failing = Journal._commit

    def fail(journal: Journal) -> None:
        if journal._db.execute("SELECT count(*) FROM journal").get > 1:
            error = UnavailableError("the disk failed", code="disk-failed")
            journal.poison(error)
            raise error
        failing(journal)

    monkeypatch.setattr(Journal, "_commit", fail)
    ended = push_all(path, ["a", "b", "c"], tmp_path / "sources")
    monkeypatch.undo()

    assert [type(error) for error in ended.values()] == [UnavailableError] * 3
    assert heads(path) == before
    assert list(push_all(path, ["a", "b", "c"], tmp_path / "sources").values()) == [None] * 3


KILLED = """
import os, sys
from pathlib import Path
from packetfs.volume.journal import Journal
from tests.volume.test_group import push_all

committed = Journal._commit

def kill(journal):
    if journal._db.execute("SELECT count(*) FROM journal").get > 2:
        os._exit(9)  # the entries are synced, the transaction is not
    committed(journal)

Journal._commit = kill
push_all(Path(sys.argv[1]), [f"killed{number}" for number in range(5)], Path(sys.argv[2]))
"""


@pytest.fixture
def killed(path: Path, tmp_path: Path) -> Path:
    """A volume in which the entries of five commits lie in a segment, and were never committed."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, path, tmp_path / "killed"], cwd=root, check=False)
    assert done.returncode == 9
    return path


def test_a_group_that_was_killed_before_its_commit_leaves_nothing_and_is_in_nobodys_way(
    killed: Path, tmp_path: Path
) -> None:
    assert set(heads(killed)) == {"before"}
    with pytest.raises(RefusedError):
        rebuild(killed)  # its journal is sound

    ended = push_all(killed, ["a", "b"], tmp_path / "sources")

    assert list(ended.values()) == [None] * 2
    assert set(heads(killed)) == {"before", "a", "b"}


def test_a_rebuild_prefers_one_commit_that_was_told_to_five_that_were_killed_together(
    killed: Path, tmp_path: Path
) -> None:
    """The killed ones have the longer chain, but they are one step of it."""
    with ExitStack() as stack, Volume.open(killed) as volume:
        for table in (killed / "segments").glob("*.chunks"):
            held = stack.enter_context(table.open("rb"))
            fcntl.flock(held, fcntl.LOCK_EX)  # the killed ones' segments are not cut
        volume.push(sources_of([grown(tmp_path / "told", {"file": b"told"})]), "told")
    told = heads(killed)
    (killed / "journal.db").unlink()

    rebuild(killed)

    assert heads(killed) == told


def test_a_copy_of_the_journal_that_is_older_than_a_group_and_one_more_is_found_out(path: Path, tmp_path: Path) -> None:
    shutil.copy(path / "journal.db", tmp_path / "old.db")
    push_all(path, ["a", "b", "c"], tmp_path / "sources")
    push_all(path, ["d", "e"], tmp_path / "more")
    for file in path.glob("journal.db*"):
        file.unlink()
    shutil.copy(tmp_path / "old.db", path / "journal.db")

    with Volume.open(path) as volume, pytest.raises(DamagedError) as caught:
        volume.push(sources_of([grown(tmp_path / "late", {"file": b"late"})]), "late")

    assert caught.value.code == "journal-stale"
