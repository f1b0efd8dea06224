"""Verify: names what is damaged and whom it touches, and goes on where it was stopped."""

from pathlib import Path

import apsw
import pytest

import packetfs
from packetfs.events import Progress
from packetfs.sync import scrub
from tests.cli.conftest import Cli

pytestmark = pytest.mark.slow


@pytest.fixture
def volume(cli: Cli) -> Path:
    """A volume with two snapshots; `good` is in both, `bad` in the second only."""
    source = cli.home / "source"
    source.mkdir()
    (source / "good").write_bytes(b"good" * 50_000)
    cli("push", source, "volume::main")
    (source / "bad").write_bytes(bytes(range(255)) * 500)
    cli("push", source, "volume::main")
    return cli.home / "volume"


def damage(volume: Path, content: bytes) -> None:
    """Flip one bit where `content` rests."""
    for file in (volume / "segments").glob("*.data"):
        data = bytearray(file.read_bytes())
        found = data.find(content)
        if found >= 0:
            data[found + 10] ^= 1
            file.write_bytes(data)
            return
    raise AssertionError("the content is in no segment")


def test_a_sound_volume_is_sound(cli: Cli, volume: Path) -> None:
    done = cli("verify", "volume", "--json").event("verify")

    assert (done["damaged_ranges"], done["damaged_paths"], done["journal"]) == (0, 0, "")
    assert done["checked_bytes"] == cli("status", "volume", "--json").event("status")["stored_bytes"]


def test_damage_is_named_with_the_files_and_snapshots_that_need_it(cli: Cli, volume: Path) -> None:
    damage(volume, bytes(range(255)))

    done = cli("verify", "volume", code=5)
    events = cli("verify", "volume", "--json", code=5)

    newest = cli("log", "volume::main", "--json").events[0]["snapshot"]
    assert done.out == b""
    assert f"damaged: bad in main@{newest[:12]}" in done.err
    assert "good" not in done.err
    assert events.event("damage")["length"] > 0
    assert Path(events.event("damage")["file"]).exists()
    assert events.event("damaged-path")["path"] == "bad"
    assert events.event("damaged-path")["snapshots"] == [{"ref": "main", "snapshot": newest}]
    assert events.events[-1]["exit"] == 5


def test_damaged_bytes_are_never_shown(cli: Cli, volume: Path) -> None:
    damage(volume, bytes(range(255)))

    failed = cli("cat", "volume::main:/bad", code=5)
    assert bytes(range(255)) not in failed.out
    assert cli("cat", "volume::main:/good").out == b"good" * 50_000


def test_a_segment_that_is_gone_is_damage_to_its_end(cli: Cli, volume: Path) -> None:
    for file in (volume / "segments").glob("*.data"):
        file.unlink()

    assert cli("verify", "volume", "--json", code=5).events[-1]["code"] == "damaged"


class StoppedError(Exception):
    """The user's patience ends."""


def test_a_stopped_run_is_continued_and_a_finished_one_is_not(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "STEP_BYTES", 64 << 10)
    monkeypatch.setattr(scrub, "MARK_EVERY_BYTES", 1)

    def stop(progress: Progress) -> None:
        if progress.bytes > 100_000:
            raise StoppedError

    with packetfs.open(volume) as opened:
        with pytest.raises(StoppedError):
            scrub.verify(opened, progress=stop)
        continued = scrub.verify(opened)
        with pytest.raises(StoppedError):
            scrub.verify(opened, progress=stop)
        restarted = scrub.verify(opened, restart=True)
        total = opened.status().stored_bytes

    assert continued.resumed_bytes > 0
    assert continued.resumed_bytes + continued.checked_bytes == total
    assert (restarted.resumed_bytes, restarted.checked_bytes) == (0, total)


def test_damage_seen_by_a_stopped_run_is_seen_by_the_next(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "STEP_BYTES", 64 << 10)
    monkeypatch.setattr(scrub, "MARK_EVERY_BYTES", 1)
    damage(volume, b"good")

    def stop(progress: Progress) -> None:
        if progress.bytes > 100_000:
            raise StoppedError

    with packetfs.open(volume) as opened:
        with pytest.raises(StoppedError):
            scrub.verify(opened, progress=stop)

        assert [path.path for path in scrub.verify(opened).paths] == [b"good"]


def test_a_snapshot_whose_bytes_the_journal_does_not_know_is_damage_with_names(cli: Cli, volume: Path) -> None:
    """Every byte that is known is sound, and yet the files cannot be read."""
    database = apsw.Connection(str(volume / "journal.db"))
    database.execute("DELETE FROM segments")
    database.close()

    failed = cli("verify", "volume", "--json", code=5)

    assert failed.events[-1]["code"] == "journal-damaged"
    assert failed.event("verify")["damaged_ranges"] == 0
    assert failed.event("damaged-path")["path"] == "./"
    cli("rebuild", "volume")
    cli("verify", "volume")


def test_marks_that_cannot_be_read_are_as_good_as_none(volume: Path) -> None:
    (volume / "cache.db").write_bytes(b"no database" * 1000)

    with packetfs.open(volume) as opened:
        assert scrub.verify(opened).sound
    assert apsw.Connection(str(volume / "cache.db")).execute("PRAGMA integrity_check").get == "ok"


@pytest.mark.parametrize("loss", ["missing", "overwritten"])
def test_a_lost_journal_is_recovered_with_all_its_snapshots(cli: Cli, volume: Path, loss: str) -> None:
    log = cli("log", "volume::main").out
    if loss == "missing":
        (volume / "journal.db").unlink()
    else:
        (volume / "journal.db").write_bytes(b"nothing" * 1000)
    assert cli("log", "volume::main", "--json", code=5).event("error")["code"].startswith("journal-")

    done = cli("rebuild", "volume", "--json").event("rebuild")

    assert (done["recovered_seq"], done["epoch"]) == (2, 1)
    assert cli("log", "volume::main").out == log
    cli("verify", "volume")
    assert cli("rebuild", "volume", code=8).err.startswith("packetfs: ")
