"""A lost journal comes back from the segments, with every snapshot, and addresses are never given out twice."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from packetfs import kernel
from packetfs.errors import BusyError, DamagedError, RefusedError, UnavailableError
from packetfs.format.address import OFFSET_BITS, SEGMENT_BYTES, epoch_of, offset_of, segment_number, segment_of
from packetfs.volume import Volume, refs, sources_of
from packetfs.volume.journal import alone
from packetfs.volume.rebuild import _put_in_place, rebuild
from packetfs.volume.tables import HEADER_BYTES, table_shape
from tests.volume.conftest import LARGE, TurnedEnv, on_disk, stored


@pytest.fixture
def lost(tmp_path: Path, source: Path, env: TurnedEnv) -> Path:
    """A volume with three snapshots of two refs."""
    path = tmp_path / "volume"
    with Volume.create(path, env=env) as volume:
        for number, ref in enumerate(("main", "other", "main")):
            (source / "a/hello").write_text(f"version {number}")
            volume.push(sources_of([source]), ref, message=f"number {number}")
    return path


def history(path: Path) -> list[object]:
    with Volume.open(path) as volume:
        return [(ref, seq, snapshot, stored(volume, snapshot)) for ref, seq, snapshot in volume.snapshots()]


@pytest.mark.parametrize("loss", ["missing", "empty", "garbage", "cut"])
def test_every_snapshot_comes_back_in_a_new_epoch(loss: str, lost: Path, source: Path, env: TurnedEnv) -> None:
    before = history(lost)
    with Volume.open(lost) as volume:
        position = volume.position
    journal = lost / "journal.db"
    match loss:
        case "missing":
            journal.unlink()
        case "empty":
            os.truncate(journal, 0)
        case "garbage":
            journal.write_bytes(LARGE)
        case _:
            os.truncate(journal, 9000)

    rebuilt = rebuild(lost, env=env)

    assert history(lost) == before
    assert (rebuilt.recovered, rebuilt.position.seq, rebuilt.epoch) == (position, 4, 1)
    assert bool(rebuilt.kept) == (loss != "missing")
    with Volume.open(lost, env=env) as volume:
        assert volume.check_journal() == rebuilt.position
        (source / "new").write_bytes(LARGE[:5000])
        snapshot = volume.push(sources_of([source]), "main").snapshot
        assert snapshot is not None
        assert stored(volume, snapshot) == on_disk(source)
        new = [segment for segment, _, _ in volume.segments() if epoch_of(segment) == 1]
        assert len(new) == 1
        address, _ = volume.space.extents(volume.entry(snapshot, b"new"))[0]
        assert segment_of(address) in new


def test_a_journal_can_be_lost_again_and_again(lost: Path, source: Path) -> None:
    before = history(lost)
    for epoch in (1, 65, 129):  # those that no replica of it ever begins
        (lost / "journal.db").unlink()
        assert rebuild(lost).epoch == epoch
    assert history(lost) == before


def test_after_the_last_epoch_nothing_is_rebuilt_and_until_then_everything(lost: Path, source: Path) -> None:
    before = history(lost)
    for _ in range(64):
        (lost / "journal.db").unlink()
        rebuild(lost)
    with Volume.open(lost) as volume:
        assert volume.epoch == 4033
        (source / "new").write_bytes(b"at an address with all its bits")
        assert (snapshot := volume.push(sources_of([source]), "main").snapshot) is not None
        assert stored(volume, snapshot) == on_disk(source)
        segment, seq = segment_number(4033, 1), volume.position.seq
        with volume.journal.reading() as db:
            within = refs.entries_within(db, segment << OFFSET_BITS, SEGMENT_BYTES)
            ends = refs.entry_ends(db, volume.keys, (1 << 63) - 1)
            entry = refs.entry_at(db, volume.keys, seq - 1)
        assert entry is not None
        assert (entry[1], entry[0]) == within[0]
        assert segment_of(within[0][0]) == segment
        assert 0 < offset_of(within[0][0] + len(within[0][1])) < ends[segment]
    assert len(history(lost)) == len(before) + 1
    (lost / "journal.db").rename(lost / "kept")
    with pytest.raises(RefusedError, match="used up"):
        rebuild(lost)
    (lost / "kept").rename(lost / "journal.db")
    assert len(history(lost)) == len(before) + 1


def test_an_empty_volume_comes_back_empty(tmp_path: Path) -> None:
    Volume.create(tmp_path / "volume").close()
    (tmp_path / "volume/journal.db").unlink()

    rebuilt = rebuild(tmp_path / "volume")

    assert (rebuilt.recovered.seq, rebuilt.segments) == (0, 0)
    assert history(tmp_path / "volume") == []


def test_a_sound_journal_is_left_alone(lost: Path) -> None:
    before = (lost / "journal.db").read_bytes()

    with pytest.raises(RefusedError):
        rebuild(lost)

    assert (lost / "journal.db").read_bytes() == before


def test_an_old_copy_of_the_journal_is_replaced_by_what_the_segments_know(lost: Path, source: Path) -> None:
    old = (lost / "journal.db").read_bytes()
    for content in ("four", "five"):
        (source / "a/hello").write_text(content)
        with Volume.open(lost) as volume:
            volume.push(sources_of([source]), "main")
    before = history(lost)
    (lost / "journal.db").write_bytes(old)

    rebuilt = rebuild(lost)

    assert rebuilt.recovered.seq == 5
    assert history(lost) == before


def test_an_entry_that_is_missing_in_the_middle_is_not_papered_over(lost: Path) -> None:
    """Rather no journal than one that says less than was committed."""
    with Volume.open(lost) as volume, volume.journal.reading() as db:
        address = db.execute("SELECT address FROM journal WHERE seq = 2").get
        data = lost / "segments" / f"{volume.space.slot(segment_of(address))}.data"
    (lost / "journal.db").unlink()
    with open(data, "r+b") as file:
        file.seek(address % (1 << 26) + 70)
        file.write(b"\xff\xff\xff")

    with pytest.raises(DamagedError, match="entry 2 is not in the segments"):
        rebuild(lost)

    assert not (lost / "journal.db").exists()


def test_an_entry_of_a_push_that_was_killed_before_its_commit_gives_way(lost: Path, source: Path) -> None:
    """Two entries follow one: the chain that went on is the one."""
    journal = (lost / "journal.db").read_bytes()
    (source / "a/hello").write_text("killed")
    with Volume.open(lost) as volume:
        volume.push(sources_of([source]), "main")
    for name in ("journal.db-wal", "journal.db-shm"):
        (lost / name).unlink(missing_ok=True)
    (lost / "journal.db").write_bytes(journal)  # as if the transaction had never become durable
    (source / "a/hello").write_text("went on")
    with Volume.open(lost) as volume:
        with volume.filling() as elsewhere:  # the killed one's segment is not cut
            elsewhere.grant(None)
            volume.push(sources_of([source]), "main")
        volume.push(sources_of([source]), "main", always=True)
    before = history(lost)
    (lost / "journal.db").unlink()

    rebuild(lost)

    assert history(lost) == before


def test_a_torn_chunk_table_costs_no_more_than_what_was_torn(lost: Path) -> None:
    before = history(lost)
    (lost / "journal.db").unlink()
    for table in (lost / "segments").glob("*.chunks"):
        with open(table, "ab") as file:
            file.write(b"\0\0\0\0\2\0\0\0" + b"x" * 50)

    rebuild(lost)

    assert history(lost) == before


def test_a_chunk_table_that_lost_its_tail_costs_the_commits_whose_entries_were_in_it_and_no_more(
    lost: Path, tmp_path: Path
) -> None:
    """At every batch boundary and at bytes in between: what comes back is the beginning of the history, and exact."""
    before = history(lost)
    (lost / "journal.db").unlink()
    (table,) = (lost / "segments").glob("*.chunks")
    shape = table_shape(0, table.read_bytes(), HEADER_BYTES)
    cuts = sorted({0, 20, *(end + more for end in shape.ends for more in (0, 1, 30))} - {shape.ends[-1] + 1})
    pristine, found = tmp_path / "pristine", set()
    shutil.copytree(lost, pristine)
    for cut in cuts:
        if cut > shape.ends[-1]:
            continue
        os.truncate(table, cut)

        rebuilt = rebuild(lost)

        assert history(lost) == before[: rebuilt.recovered.seq]
        assert rebuilt.epoch == 1
        found.add(rebuilt.recovered.seq)
        shutil.rmtree(lost)
        shutil.copytree(pristine, lost)
    assert found == {0, 1, 2, 3}


def test_bytes_that_a_power_cut_took_are_never_pointed_to(lost: Path, source: Path, tmp_path: Path) -> None:
    """A chunk table may reach the disk before its bytes. What it promises beyond the last entry is checked."""
    with Volume.open(lost) as volume, volume.filling() as filling:
        lease = filling.grant(None)
        address = lease.append_journal(LARGE[:50_000])
        lease.sync()
        data = lost / "segments" / f"{volume.space.slot(segment_of(address))}.data"
    before = history(lost)
    (lost / "journal.db").unlink()
    with open(data, "r+b") as file:
        file.seek(address % (1 << 26))
        file.write(bytes(50_000))

    rebuild(lost)

    assert history(lost) == before
    with Volume.open(lost) as volume:
        for segment, head, _ in volume.segments():
            assert volume.space.verify(segment, 0, 1 << 30)[1:] == (head, [])


def test_the_entry_whose_segment_was_filled_further_is_the_committed_one_whatever_the_clock_said(
    lost: Path, source: Path, env: TurnedEnv
) -> None:
    """A push is killed before its commit, the clock set back, and another push commits."""
    journal = (lost / "journal.db").read_bytes()
    tables = sorted((lost / "segments").glob("*.chunks"))
    env.time_ns += 10**12
    (source / "a/hello").write_text("killed")
    with Volume.open(lost, env=env) as volume:
        volume.push(sources_of([source]), "main")
    for name in ("journal.db-wal", "journal.db-shm"):
        (lost / name).unlink(missing_ok=True)
    (lost / "journal.db").write_bytes(journal)  # as if the transaction had never become durable
    env.time_ns -= 10**12
    (source / "a/hello").write_text("committed")
    with Volume.open(lost, env=env) as volume, open(tables[0], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the killed one's segment is not cut
        volume.push(sources_of([source]), "main")
        with volume.filling() as filling:
            lease = filling.grant(None)
            lease.append_journal(LARGE[:50_000])
            filling.keep(lease)
    before = history(lost)
    (lost / "journal.db").unlink()

    rebuild(lost)

    assert len(tables) == 1
    assert history(lost) == before


def test_a_journal_that_has_forgotten_a_segment_is_rebuilt(lost: Path) -> None:
    """It is sound by itself, and its snapshots cannot be read."""
    before = history(lost)
    db = apsw.Connection(str(lost / "journal.db"))
    db.execute("DELETE FROM segments; DELETE FROM present")
    db.close()
    with pytest.raises(DamagedError):
        history(lost)

    rebuild(lost)

    assert history(lost) == before


def test_what_a_killed_push_left_is_no_reason_to_rebuild(lost: Path) -> None:
    with Volume.open(lost) as volume, volume.filling() as filling:
        lease = filling.grant(None)
        lease.append_journal(LARGE[:50_000])
        lease.sync()

    with pytest.raises(RefusedError):
        rebuild(lost)


def test_who_had_the_old_journal_open_cannot_write_to_it_any_more(lost: Path, source: Path) -> None:
    """What it committed there would be acknowledged and lost."""
    before = history(lost)
    with Volume.open(lost) as volume:
        (lost / "journal.db").rename(lost / "journal.db.moved")
        rebuild(lost)

        with pytest.raises(UnavailableError) as caught:
            volume.push(sources_of([source]), "late")
        with pytest.raises(UnavailableError):
            volume.push(sources_of([source]), "late")

    assert caught.value.code == "volume-failed"
    assert history(lost) == before
    with Volume.open(lost) as volume:
        assert volume.push(sources_of([source]), "late").changed


def test_two_rebuilds_or_a_rebuild_and_a_push_never_run_at_once(lost: Path, source: Path, env: TurnedEnv) -> None:
    with Volume.open(lost, lock_wait_s=1.0, env=env) as volume:
        with alone(str(lost / "volume.toml"), wait_s=0, env=env):
            with pytest.raises(BusyError):
                rebuild(lost, env=env)
            with pytest.raises(BusyError):
                volume.push(sources_of([source]), "new")
        with volume.journal.writing(), pytest.raises(BusyError):
            rebuild(lost, env=env)

        assert volume.push(sources_of([source]), "new").changed
    assert env.slept_s


def test_an_old_journal_is_never_without_its_wal_and_a_new_one_never_beside_an_old_wal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: TurnedEnv
) -> None:
    """Without it the old one would be an older state that opens as if it were sound."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (tmp_path / name).write_text("old")
    (tmp_path / "journal.db.new").write_text("new")
    seen: list[tuple[str, bool]] = []

    def look(_: str = "") -> None:
        content = (tmp_path / "journal.db").read_text() if (tmp_path / "journal.db").exists() else ""
        seen.append((content, (tmp_path / "journal.db-wal").exists()))

    monkeypatch.setattr(kernel, "fault_point", look)
    kept = _put_in_place(str(tmp_path), str(tmp_path / "journal.db.new"), env)
    look()

    assert set(seen) == {("old", True), ("", True), ("", False), ("new", False)}
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["journal.db", *(os.path.basename(kept) + suffix for suffix in ("", "-shm", "-wal"))]
    )


def test_what_an_earlier_rebuild_kept_is_kept(tmp_path: Path, env: TurnedEnv) -> None:
    for content in ("first", "second"):
        (tmp_path / "journal.db").write_text(content)
        (tmp_path / "journal.db.new").write_text("new")
        kept = _put_in_place(str(tmp_path), str(tmp_path / "journal.db.new"), env)
        assert Path(kept).read_text() == content

    assert len(list(tmp_path.glob("*.lost-*"))) == 2


REBUILD = """
import sys
from packetfs import kernel
from packetfs.volume.rebuild import rebuild
kernel.crash_at(int(sys.argv[2]))
rebuild(sys.argv[1])
"""


@pytest.mark.slow
def test_a_rebuild_that_is_killed_is_run_again(lost: Path, tmp_path: Path) -> None:
    before = history(lost)
    os.truncate(lost / "journal.db", 100)
    pristine = tmp_path / "pristine"
    shutil.copytree(lost, pristine)
    for point in range(1, 100):
        ended = subprocess.run([sys.executable, "-c", REBUILD, lost, str(point)], capture_output=True, check=False)
        try:
            rebuild(lost)
        except RefusedError:
            pass  # the killed one had finished
        assert history(lost) == before
        if ended.returncode == 0:
            break
        assert ended.returncode == -9, ended.stderr
        shutil.rmtree(lost)
        shutil.copytree(pristine, lost)
    assert 3 < point < 99
