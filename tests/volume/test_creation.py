"""Making and opening a volume: a whole one or none, and a clear answer to what is wrong with one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packetfs.errors import ConflictError, DamagedError, NotFoundError, PacketFSError, RefusedError
from packetfs.volume import Volume
from tests.volume.conftest import on_disk


def test_a_new_volume_is_empty_and_its_secret_is_private(tmp_path: Path) -> None:
    path = tmp_path / "volume"

    with Volume.create(path) as volume:
        assert volume.refs() == []
        assert volume.position.seq == 0
        assert volume.created

    assert sorted(os.listdir(path)) == ["cache", "index", "journal.db", "reserve", "secret", "segments", "volume.toml"]
    assert (path / "secret").stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == ["volume"]


def test_two_volumes_have_nothing_in_common(tmp_path: Path) -> None:
    with Volume.create(tmp_path / "a") as a, Volume.create(tmp_path / "b") as b:
        assert a.id != b.id
        assert a.position != b.position
    assert (tmp_path / "a/secret").read_bytes() != (tmp_path / "b/secret").read_bytes()


def test_an_empty_directory_becomes_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.mkdir()

    Volume.create(path).close()

    Volume.open(path).close()


def test_making_a_volume_twice_is_a_conflict_and_opening_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    with Volume.open(path, create=True) as first:
        assert first.created

    with pytest.raises(ConflictError) as caught:
        Volume.create(path)
    with Volume.open(path, create=True) as second:
        assert not second.created
        assert second.id == first.id
    assert caught.value.code == "volume-exists"


def test_a_directory_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").write_bytes(b"mine")

    with pytest.raises(RefusedError) as caught:
        Volume.create(tmp_path)

    assert caught.value.code == "directory-not-empty"
    assert on_disk(tmp_path) == {"notes": b"mine"}


def test_what_is_not_there_is_said_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Volume.open(tmp_path / "volume")
    with pytest.raises(NotFoundError) as nowhere:
        Volume.create(tmp_path / "missing" / "volume")

    assert caught.value.code == "volume-not-found"
    assert "packetfs init" in caught.value.hint
    assert "mounted" in nowhere.value.hint
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [".volume.new-backup", ".volume.new-0123456789abcdef", ".volume.new-0123456789AB"])
def test_a_directory_that_only_looks_like_an_abandoned_one_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "segments").mkdir(parents=True)

    Volume.create(tmp_path / "volume").close()

    assert sorted(os.listdir(tmp_path)) == sorted(["volume", name])


def test_an_abandoned_directory_with_anything_foreign_in_it_stays(tmp_path: Path) -> None:
    mine, left = tmp_path / ".volume.new-0123456789ab", tmp_path / ".volume.new-ba9876543210"
    for directory in (mine, left):
        (directory / "segments").mkdir(parents=True)
        (directory / "journal.db-wal").write_bytes(b"")
    (mine / "notes").write_bytes(b"mine")

    Volume.create(tmp_path / "volume").close()

    assert sorted(os.listdir(tmp_path)) == [mine.name, "volume"]


def remove(name: str) -> Callable[[Path], None]:
    return lambda volume: (volume / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(volume: Path) -> None:
        mode = (volume / name).stat().st_mode
        (volume / name).write_bytes(data)
        (volume / name).chmod(mode)

    return change


def replace(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(volume: Path) -> None:
        (volume / name).write_bytes((volume / name).read_bytes().replace(old, new))

    return change


def truncate(name: str, length: int) -> Callable[[Path], None]:
    return lambda volume: os.truncate(volume / name, length)


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (replace("volume.toml", b"version = 1", b"version = 9"), RefusedError, "format-unknown"),
        (replace("volume.toml", b"read = []", b'read = ["punch"]'), RefusedError, "feature-unknown"),
        (write("volume.toml", b""), DamagedError, "descriptor-damaged"),
        (truncate("volume.toml", 100), DamagedError, "descriptor-damaged"),
        (remove("secret"), DamagedError, "secret-damaged"),
        (write("secret", b"x" * 31), DamagedError, "secret-damaged"),
        (write("secret", b"x" * 33), DamagedError, "secret-damaged"),
        (write("secret", b"x" * 32), DamagedError, "secret-damaged"),
        (lambda volume: (volume / "secret").chmod(0o640), RefusedError, "secret-mode"),
        (remove("journal.db"), DamagedError, "journal-missing"),
        (truncate("journal.db", 0), DamagedError, "journal-damaged"),
        (truncate("journal.db", 50), DamagedError, "journal-damaged"),
        (truncate("journal.db", 4096), DamagedError, "journal-damaged"),
        (write("journal.db", b"no database" * 1000), DamagedError, "journal-damaged"),
    ],
)
def test_what_is_wrong_with_a_volume_is_said_when_it_is_opened(
    change: Callable[[Path], None], error: type[PacketFSError], code: str, tmp_path: Path
) -> None:
    """Class, code and a hint; never anything that is not a PacketFSError."""
    path = tmp_path / "volume"
    Volume.create(path).close()
    change(path)

    with pytest.raises(error) as caught:
        Volume.open(path)

    assert caught.value.code == code
    assert caught.value.hint


CREATE = """
import sys
from packetfs import kernel
from packetfs.volume import Volume
kernel.crash_at(int(sys.argv[2]))
Volume.create(sys.argv[1]).close()
"""


@pytest.mark.slow
def test_killed_while_it_is_made_there_is_a_whole_volume_or_none(tmp_path: Path) -> None:
    """At every sync and rename; what a killed one left is gone after the next."""
    path = tmp_path / "volume"
    for point in range(1, 100):
        ended = subprocess.run([sys.executable, "-c", CREATE, path, str(point)], capture_output=True, check=False)
        existed = path.exists()
        with Volume.open(path, create=True) as volume:
            assert volume.created != existed
            volume.check_journal()
        assert os.listdir(tmp_path) == ["volume"]
        shutil.rmtree(path)
        if ended.returncode == 0:
            break
        assert ended.returncode == -9, ended.stderr
    assert 3 < point < 99
