"""A journal.db with flipped bits: the truth or a DamagedError, never anything else."""

import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from packetfs.errors import DamagedError, PacketFSError
from packetfs.format.when import Back
from packetfs.volume import Volume, sources_of
from tests.volume.conftest import TurnedEnv


@pytest.fixture
def closed(tmp_path: Path, source: Path, env: TurnedEnv) -> Path:
    """A volume with five snapshots of two refs, closed, so that all of its journal is in journal.db."""
    with Volume.create(tmp_path / "volume", env=env) as volume:
        for number in range(5):
            (source / "a/hello").write_text(f"version {number}")
            volume.push(sources_of([source]), f"ref-{number % 2}")
    assert not (tmp_path / "volume/journal.db-wal").exists()
    return tmp_path / "volume"


def everything(path: Path) -> object:
    """All that is read from the journal."""
    with Volume.open(path) as volume:
        return (
            volume.position,
            [(ref.name, ref.snapshot, ref.seq) for ref in volume.refs()],
            list(volume.snapshots()),
            [list(volume.log(ref.name)) for ref in volume.refs()],
            volume.resolve("ref-0", Back(1)),
            volume.segments(),
        )


def checked(path: Path) -> object:
    with Volume.open(path) as volume:
        return volume.check_journal()


@pytest.mark.slow
def test_a_flipped_bit_in_the_journal_gives_the_truth_or_an_error(
    closed: Path, many: Callable[[int, int], int]
) -> None:
    """Whatever SQLite lets through is caught by hashes, ids and row checks."""
    chance = random.Random(20)
    sound = (closed / "journal.db").read_bytes()
    truth, position = everything(closed), checked(closed)
    codes = set()
    for _ in range(many(300, 20_000)):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        (closed / "journal.db").write_bytes(damaged)
        (closed / "journal.db-wal").unlink(missing_ok=True)
        (closed / "journal.db-shm").unlink(missing_ok=True)
        for ask, answer in ((everything, truth), (checked, position)):
            try:
                assert ask(closed) == answer
            except PacketFSError as error:
                codes.add(error.exit_code)

    assert 5 in codes
    assert codes <= {5, 7, 8}  # damaged; no longer a database that can be opened; of a version that is not known


def test_an_index_that_lost_an_entry_hides_no_segment_and_is_found_by_the_check(closed: Path) -> None:
    """One bit: the place of the only entry becomes one in the page's empty middle, which SQLite reads as no stamp."""
    truth = everything(closed)
    db = apsw.Connection(str(closed / "journal.db"))
    root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'segments_by_stamp'").get
    db.close()
    damaged = bytearray((closed / "journal.db").read_bytes())
    start = (root - 1) * 4096
    assert damaged[start : start + 5] == b"\x0a\x00\x00\x00\x01"  # a leaf with one entry
    damaged[start + 9] ^= 0x80
    (closed / "journal.db").write_bytes(damaged)

    assert everything(closed) == truth
    with pytest.raises(DamagedError):
        checked(closed)


@pytest.mark.parametrize("keep", [0, 1, 100, 511, 512, 4095, 4096, 5000, 20_000])
def test_a_truncated_journal_is_damaged(keep: int, closed: Path) -> None:
    data = (closed / "journal.db").read_bytes()
    (closed / "journal.db").write_bytes(data[:keep])

    with pytest.raises(DamagedError) as caught:
        everything(closed)

    assert caught.value.exit_code == 5
    assert caught.value.hint


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE refs SET snapshot = (SELECT snapshot FROM refs WHERE name = 'ref-1') WHERE name = 'ref-0'",
        "UPDATE refs SET seq = 1 WHERE name = 'ref-0'",
        "DELETE FROM refs WHERE name = 'ref-0'",
        "INSERT INTO refs SELECT 'new', seq, snapshot FROM refs WHERE name = 'ref-0'",
        "DELETE FROM journal WHERE seq = 2",
        "DELETE FROM journal WHERE seq = 5",
        "DELETE FROM moves WHERE seq = 2",
        "UPDATE moves SET snapshot = zeroblob(32) WHERE seq = 2",
        "INSERT INTO moves SELECT ref, 9, time_ns, snapshot, 0, 0 FROM moves WHERE seq = 1",
        "UPDATE journal SET hash = zeroblob(32) WHERE seq = 3",
        "UPDATE journal SET entry = (SELECT entry FROM journal WHERE seq = 4) WHERE seq = 3",
        "UPDATE journal SET entry = substr(entry, 1, 80) WHERE seq = 3",
        "DROP TABLE moves",
    ],
)
def test_a_journal_that_was_tampered_with_does_not_pass_the_check(statement: str, closed: Path) -> None:
    db = apsw.Connection(str(closed / "journal.db"))
    db.execute(statement)
    db.close()

    with pytest.raises(DamagedError):
        checked(closed)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE segments SET head = head - 1",
        "UPDATE segments SET table_bytes = table_bytes - 49",
        "UPDATE segments SET head = -1",
        "UPDATE epochs SET counter = 0",
        "UPDATE epochs SET counter = 1000",
        "DELETE FROM epochs",
    ],
)
def test_a_row_that_would_let_committed_bytes_be_overwritten_stops_every_write(
    statement: str, closed: Path, source: Path
) -> None:
    db = apsw.Connection(str(closed / "journal.db"))
    db.execute(statement)
    db.close()
    (source / "more").write_bytes(b"more")
    before = {file: file.read_bytes() for file in (closed / "segments").iterdir()}

    with pytest.raises(DamagedError), Volume.open(closed) as volume:
        volume.push(sources_of([source]), "ref-0")

    assert {file: file.read_bytes() for file in (closed / "segments").iterdir()} == before
