"""Real disks that are full: a volume on one can be read and cleaned, and work goes on when there is room."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packetfs.volume import Volume, reserve
from tests.end_to_end import crashing
from tests.end_to_end.conftest import Run, environment
from tests.end_to_end.disks import disk, small_disk
from tests.end_to_end.trees import difference, facts

pytestmark = pytest.mark.slow

MIB = 1 << 20


@contextmanager
def mounted(kind: str, where: Path, megabytes: int) -> Iterator[Path]:
    if kind == "tmpfs":
        with small_disk(where / "tmpfs", megabytes) as path:
            yield path
    else:
        with disk(kind, where, megabytes) as made:
            yield made.path


def noise(top: Path, seed: int, files: int, file_bytes: int = MIB) -> Path:
    top.mkdir()
    dice = random.Random(seed)
    for number in range(files):
        (top / f"f{number}").write_bytes(dice.randbytes(file_bytes))
    return top


def fill(path: Path) -> None:
    """Leave not a block."""
    with open(path, "ab", buffering=0) as file:
        for piece_bytes in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(piece_bytes))
            except OSError:
                continue


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_volume_can_be_read_and_the_push_completes_when_there_is_room(
    kind: str, tmp_path: Path, run: Run
) -> None:
    small, large = noise(tmp_path / "small", 1, 2), noise(tmp_path / "large", 2, 24)
    with mounted(kind, tmp_path, 48) as there:
        volume, ballast = there / "volume", there / "ballast"
        ballast.write_bytes(bytes(28 * MIB))
        run("push", small, f"{volume}::main")

        full = run("--json", "push", large, f"{volume}::large", code=7)
        assert full.event("error")["code"] == "disk-full"
        assert "space" in full.event("error")["hint"]
        fill(there / "rest")
        for _ in range(2):
            assert len(run("--json", "log", f"{volume}::main").events) == 1
            run("verify", volume)
            run("pull", "--delete", f"{volume}::main", tmp_path / "target")
            assert difference(facts(small), facts(tmp_path / "target")) == []
        run("--json", "push", large, f"{volume}::large", code=7)

        ballast.unlink()
        (there / "rest").unlink()
        run("push", large, f"{volume}::large")
        run("verify", volume)
        run("pull", f"{volume}::large", tmp_path / "other")
    assert difference(facts(large), facts(tmp_path / "other")) == []


def test_on_a_full_volume_the_reserve_gives_the_room_to_write_to_the_journal(tmp_path: Path) -> None:
    """What removes from a volume says so in its journal first."""
    with small_disk(tmp_path / "disk", 8) as there:
        with Volume.create(there / "volume") as volume:
            fill(there / "rest")
            with reserve.spent(volume.path):
                assert not (there / "volume" / reserve.FILE_NAME).exists()
                with volume.journal.writing() as db:
                    for number in range(1000):
                        db.execute("INSERT INTO visits VALUES (?, ?)", (f"ref-{number}", number))
            assert not (there / "volume" / reserve.FILE_NAME).exists(), "there is no room for it yet"
            (there / "rest").unlink()
            with reserve.spent(volume.path):
                pass
        assert os.stat(there / "volume" / reserve.FILE_NAME).st_blocks * 512 >= reserve.RESERVE_BYTES


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_volume_is_cleaned_with_what_it_has_and_takes_the_next_push(kind: str, tmp_path: Path, run: Run) -> None:
    old, new = noise(tmp_path / "old", 1, 12), noise(tmp_path / "new", 2, 6)
    with mounted(kind, tmp_path, 48) as there:
        volume = there / "volume"
        run("push", old, f"{volume}::main")
        run("push", new, f"{volume}::main")
        run("push", noise(tmp_path / "side", 3, 4), f"{volume}::side")
        fill(there / "rest")

        run("forget", "--keep-last", "1", "--only-newest", f"{volume}::main")
        run("rm", f"{volume}::side")
        freed = run("--json", "gc", "--grace", "0", volume).event("gc")["freed_bytes"]

        assert freed > 14 * MIB
        assert (volume / "reserve").exists(), "there is room for it again"
        run("push", noise(tmp_path / "next", 4, 8), f"{volume}::next")
        run("verify", volume)
        run("pull", f"{volume}::main", tmp_path / "target")
    assert difference(facts(new), facts(tmp_path / "target")) == []


def test_a_volume_without_a_reserve_gets_one_with_its_next_push(tmp_path: Path, run: Run) -> None:
    source = noise(tmp_path / "source", 1, 1, 1000)
    run("init", tmp_path / "volume")
    (tmp_path / "volume" / "reserve").unlink()

    run("push", "--dry-run", source, f"{tmp_path / 'volume'}::main")
    assert not (tmp_path / "volume" / "reserve").exists()
    run("push", source, f"{tmp_path / 'volume'}::main")

    assert (tmp_path / "volume" / "reserve").exists()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_pull_that_cannot_fit_is_refused_before_anything_is_written(kind: str, tmp_path: Path, run: Run) -> None:
    source, volume = noise(tmp_path / "source", 3, 24), tmp_path / "volume"
    run("push", source, f"{volume}::main")
    with mounted(kind, tmp_path, 16) as there:
        refused = run("--json", "pull", f"{volume}::main", there / "target", code=7)

        error = refused.event("error")
        assert error["code"] == "not-enough-space"
        assert error["values"]["needed"] == 24 * MIB
        assert 0 < error["values"]["free"] < 24 * MIB
        assert "--no-space-check" in error["hint"]
        assert not (there / "target").exists()
        tried = run("--json", "pull", "--no-space-check", f"{volume}::main", there / "target", code=7)
        assert tried.event("error")["code"] == "disk-full"
        assert not list((there / "target").glob(".packetfs-*"))


def test_what_fits_is_not_refused_for_replaced_files_or_names_of_one_file(tmp_path: Path, run: Run) -> None:
    """All of it is more than the disk has, and what it takes is not."""
    source, volume = noise(tmp_path / "source", 3, 8), tmp_path / "volume"
    for number in range(20):
        (source / f"name-{number}").hardlink_to(source / "f0")
    run("push", source, f"{volume}::main")
    with mounted("tmpfs", tmp_path, 16) as there:
        run("pull", f"{volume}::main", there / "target")
        for path in source.glob("f[1-6]"):
            path.write_bytes(random.Random(path.name).randbytes(MIB))
        run("push", source, f"{volume}::main")
        (there / "ballast").write_bytes(bytes(MIB))

        run("pull", f"{volume}::main", there / "target")

        assert difference(facts(source), facts(there / "target")) == []


def test_what_a_killed_pull_left_is_no_reason_to_refuse_the_next(tmp_path: Path, run: Run) -> None:
    source, volume = noise(tmp_path / "source", 3, 12), tmp_path / "volume"
    run("push", source, f"{volume}::main")
    with mounted("tmpfs", tmp_path, 16) as there:
        pull = ("pull", f"{volume}::main", there / "target")
        command: list[str | Path] = [
            sys.executable,
            crashing.__file__,
            "2",
            *pull,
        ]  # the second step that shows is the sync of its files
        killed = subprocess.run(command, env=environment(tmp_path), capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL
        (left,) = (there / "target").glob(".packetfs-*")
        assert sum(path.stat().st_size for path in left.iterdir()) > 8 * MIB

        run(*pull)

        assert difference(facts(source), facts(there / "target")) == []


def test_a_second_name_is_not_refused_for_want_of_room(tmp_path: Path, run: Run) -> None:
    source, volume = noise(tmp_path / "source", 3, 1, 6 * MIB), tmp_path / "volume"
    (source / "second").hardlink_to(source / "f0")
    run("push", source, f"{volume}::main")
    with mounted("tmpfs", tmp_path, 10) as there:
        run("pull", f"{volume}::main", there / "target")
        (there / "target/second").unlink()

        run("pull", f"{volume}::main", there / "target")

        assert difference(facts(source), facts(there / "target")) == []
