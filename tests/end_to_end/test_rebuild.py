"""What can be lost of a volume, and how it comes back; and what is left when even its secret is gone."""

import random
import shutil
from pathlib import Path

import pytest

import packetfs
from tests.end_to_end.conftest import Run
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = pytest.mark.slow


@pytest.fixture
def volume(tmp_path: Path, run: Run) -> Path:
    """Two snapshots of `source` on one ref, and one of a file on another."""
    grow(tmp_path / "source", 7, files=30, large_bytes=1 << 20)
    run("push", tmp_path / "source", f"{tmp_path}/volume::main")
    change(tmp_path / "source", 7)
    run("push", tmp_path / "source", f"{tmp_path}/volume::main")
    (tmp_path / "note").write_text("a note")
    run("push", tmp_path / "note", f"{tmp_path}/volume::notes")
    return tmp_path / "volume"


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("loss", [("journal.db",), ("journal.db", "index", "cache", "cache.db", "damaged")])
def test_a_volume_comes_back_from_its_segments_and_goes_on_in_a_new_epoch(
    loss: tuple[str, ...], volume: Path, tmp_path: Path, run: Run
) -> None:
    log = run("log", f"{volume}::main").out
    for name in loss:
        remove(volume / name)

    rebuilt = run("rebuild", volume, "--json").event("rebuild")

    assert (rebuilt["recovered_seq"], rebuilt["epoch"]) == (3, 1)
    assert run("log", f"{volume}::main").out == log
    run("verify", volume)
    run("pull", f"{volume}::main", tmp_path / "target")
    assert difference(facts(tmp_path / "source"), facts(tmp_path / "target")) == []
    again = run("push", tmp_path / "source", f"{volume}::again", "--json").event("push")
    assert again["new_bytes"] == 0


@pytest.mark.parametrize("kept", [0.99, 0.6, 0.3])
def test_with_a_chunk_table_cut_short_older_snapshots_come_back_and_the_loss_shows(
    kept: float, volume: Path, run: Run
) -> None:
    (volume / "journal.db").unlink()
    (table,) = volume.glob("segments/*.chunks")
    with open(table, "r+b") as file:
        file.truncate(int(table.stat().st_size * kept))

    rebuilt = run("rebuild", volume, "--json").event("rebuild")

    assert rebuilt["recovered_seq"] < 3
    run("verify", volume)  # what is left is whole


def test_without_the_secret_files_come_out_unverified_and_nothing_is_written_to_the_volume(
    volume: Path, tmp_path: Path, run: Run
) -> None:
    run("rebuild", "--without-secret", "--into", tmp_path / "found", volume, code=8)  # it has its secret
    run("rm", f"{volume}::notes")
    for name in ("secret", "journal.db", "index", "cache"):
        remove(volume / name)
    files = {path: path.read_bytes() for path in volume.rglob("*") if path.is_file()}

    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other/file").touch()
    run("rebuild", "--without-secret", "--into", tmp_path / "other", volume, code=8)
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o755, "what is refused is not touched"

    done = run("rebuild", "--without-secret", "--into", tmp_path / "found", volume, code=3)

    expected = facts(tmp_path / "source")
    found = facts(tmp_path / "found" / "main")
    assert {path: fact.content for path, fact in found.items()} == {p: f.content for p, f in expected.items()}
    assert (tmp_path / "found" / "notes" / "note").read_text() == "a note"
    assert [line for line in done.err.splitlines() if "the ref was removed" in line and "notes@" in line]
    assert done.err.count("the ref was removed") == 1
    assert "nothing in" in done.err
    assert "is verified" in done.err
    assert (tmp_path / "found").stat().st_mode & 0o777 == 0o700
    assert {path: path.read_bytes() for path in volume.rglob("*") if path.is_file()} == files
    run("rebuild", "--without-secret", "--into", tmp_path / "found", volume, code=8)  # not empty any more
    run("rebuild", "--without-secret", volume, code=2)


def test_without_the_secret_a_snapshot_that_cannot_be_read_gives_way_to_the_one_before(
    volume: Path, tmp_path: Path, run: Run
) -> None:
    with packetfs.open(volume) as opened:
        newest, before = (snapshot for ref, _, snapshot in reversed(list(opened.snapshots())) if ref == "main")
    (data,) = volume.glob("segments/*.data")
    stored = bytearray(data.read_bytes())
    stored[stored.index(newest.data)] ^= 0xFF
    data.write_bytes(stored)
    (volume / "secret").unlink()

    done = run("rebuild", "--without-secret", "--into", tmp_path / "found", volume, code=3)

    assert f"main@{before.short}" in done.err
    assert (tmp_path / "found" / "notes" / "note").read_text() == "a note"


def test_without_the_secret_damage_gives_wrong_files_and_no_crash_and_nothing_outside_of_the_directory(
    volume: Path, tmp_path: Path, run: Run
) -> None:
    (volume / "secret").unlink()
    (data,) = volume.glob("segments/*.data")
    (table,) = volume.glob("segments/*.chunks")
    pristine = data.read_bytes(), table.read_bytes()
    for seed in range(12):
        choice = random.Random(seed)
        for path, content in zip((data, table), pristine, strict=True):
            harmed = bytearray(content)
            used = len(content.rstrip(b"\0"))
            for _ in range(choice.choice((0, 30, 3000))):
                harmed[choice.randrange(used)] = choice.randrange(256)
            path.write_bytes(harmed[: choice.choice((used, used // 2, used))])
        outside = {path for path in tmp_path.rglob("*") if "found" not in path.parts[len(tmp_path.parts) :][:1]}

        done = run("rebuild", "--without-secret", "--into", tmp_path / "found", volume, "--json", code=None)

        assert done.code in (3, 5)
        assert done.events[-1]["code"] in ("unverified", "journal-damaged")
        now = {path for path in tmp_path.rglob("*") if "found" not in path.parts[len(tmp_path.parts) :][:1]}
        assert now == outside
        shutil.rmtree(tmp_path / "found")
