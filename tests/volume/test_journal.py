"""journal.db: exclusive writing, consistent reading, waiting for others, and nothing after a failed sync."""

from pathlib import Path

import apsw
import pytest

from packetfs.errors import BusyError, UnavailableError
from packetfs.volume import Volume
from packetfs.volume.group import Queue
from tests.volume.conftest import TurnedEnv


def visit(db: apsw.Connection, ref: str) -> None:
    db.execute("INSERT INTO visits VALUES (?, 1)", (ref,))


def fail(volume: Volume) -> None:
    with volume.journal.writing() as db:
        visit(db, "gone")
        raise ZeroDivisionError


def as_in_another_process(volume: Volume) -> None:
    """Its writers do not know of those of the same file in this process."""
    volume.journal.queue = Queue()


def visits(volume: Volume) -> list[str]:
    with volume.journal.reading() as db:
        return [name for (name,) in db.execute("SELECT ref FROM visits ORDER BY ref")]


def test_what_a_block_writes_is_there_when_it_ends_and_not_when_it_raises(volume: Volume) -> None:
    with volume.journal.writing() as db:
        visit(db, "kept")
    with pytest.raises(ZeroDivisionError):
        fail(volume)

    assert visits(volume) == ["kept"]


def test_every_commit_is_synced(volume: Volume) -> None:
    """FULL, in numbers 2: less, and a commit could vanish with the power although it was reported."""
    with volume.journal.reading() as db:
        assert db.execute("PRAGMA synchronous").get == 2
        assert db.execute("PRAGMA journal_mode").get == "wal"


def test_a_reader_stays_with_the_state_it_began_with(volume: Volume) -> None:
    with Volume.open(volume.path) as other, other.journal.reading() as db:
        before = db.execute("SELECT count(*) FROM visits").get
        with volume.journal.writing() as writer:
            visit(writer, "new")

        assert db.execute("SELECT count(*) FROM visits").get == before == 0
    assert visits(volume) == ["new"]


def test_a_writer_that_waits_too_long_is_told_who_to_ask(volume: Volume, env: TurnedEnv) -> None:
    """It waits as long as it was told, looking every few milliseconds, then leaves everything as it was."""
    as_in_another_process(volume)
    with (
        Volume.open(volume.path, lock_wait_s=2.5, env=env) as other,
        volume.journal.writing(),
        pytest.raises(BusyError) as caught,
        other.journal.writing(),
    ):
        pass

    assert "2.5 s" in caught.value.message
    assert "--lock-wait" in caught.value.hint
    assert sum(env.slept_s) == pytest.approx(2.5)
    assert max(env.slept_s) <= 0.025


def test_a_writer_goes_on_as_soon_as_the_other_has_committed(volume: Volume, env: TurnedEnv) -> None:
    as_in_another_process(volume)
    with Volume.open(volume.path, env=env) as other:
        holding = volume.journal.writing()
        visit(holding.__enter__(), "first")
        env.on_sleep = lambda: len(env.slept_s) == 3 and holding.__exit__(None, None, None)  # type: ignore[assignment]

        with other.journal.writing() as db:
            visit(db, "second")

    assert len(env.slept_s) == 3
    assert visits(volume) == ["first", "second"]


def test_a_thread_that_waits_too_long_for_another_is_told_so(volume: Volume, env: TurnedEnv) -> None:
    with (
        Volume.open(volume.path, lock_wait_s=0.05, env=env) as other,
        volume.journal.writing(),
        pytest.raises(BusyError) as caught,
        other.journal.writing(),
    ):
        pass

    assert "of this process" in caught.value.message
    assert "--lock-wait" in caught.value.hint
    assert env.slept_s == []


def test_readers_never_wait(volume: Volume, env: TurnedEnv) -> None:
    with Volume.open(volume.path, env=env) as other, volume.journal.writing() as db:
        visit(db, "x")

        assert visits(other) == []
        assert other.refs() == []
    assert env.slept_s == []


def test_after_a_failed_sync_the_volume_is_read_but_not_written(volume: Volume, tmp_path: Path) -> None:
    """A second fsync would report success for pages the kernel has dropped; only opening anew tells what is there."""
    volume.journal.poison(OSError("input/output error"))

    with pytest.raises(UnavailableError) as caught, volume.journal.writing():
        pass

    assert caught.value.code == "volume-failed"
    assert visits(volume) == []
    with Volume.open(volume.path) as again, again.journal.writing() as db:
        visit(db, "again")
    assert visits(volume) == ["again"]


def test_a_sync_that_fails_while_a_block_runs_stops_its_commit(volume: Volume) -> None:
    holding = volume.journal.writing()
    visit(holding.__enter__(), "x")
    volume.journal.poison(OSError("input/output error"))

    with pytest.raises(UnavailableError):
        holding.__exit__(None, None, None)

    assert visits(volume) == []
