"""What a replica is by itself: its identity on disk, who may read it, and what it gives up."""

import stat
from pathlib import Path

import msgspec
import pytest

from packetfs.errors import BusyError
from packetfs.format.descriptor import ChunkProfile
from packetfs.volume.replica import Identity, Replica
from tests.volume.conftest import TurnedEnv

GOLDEN = Path(__file__).parents[1] / "golden/replica-identity-v1.bin"
IDENTITY = Identity(
    volume_id=bytes(range(16)),
    keys=bytes(range(64)),
    chunks=ChunkProfile(),
    created_ns=1_795_349_107_000_000_000,
    origin="ada@host:/srv/volume",
    cache_bytes=1 << 30,
)


def test_the_identity_is_what_its_page_says() -> None:
    assert msgspec.msgpack.encode(IDENTITY) == GOLDEN.read_bytes()
    assert msgspec.msgpack.decode(GOLDEN.read_bytes(), type=Identity) == IDENTITY


def test_nobody_else_can_read_the_keys(tmp_path: Path, env: TurnedEnv) -> None:
    """Whoever has them can tell which known data the volume holds."""
    with Replica.create(str(tmp_path / "r"), IDENTITY, lock_wait_s=0, env=env):
        for name in ("replica.db", "secret", "lock"):
            assert stat.S_IMODE((tmp_path / "r" / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o700


def test_one_process_at_a_time_uses_it(tmp_path: Path, env: TurnedEnv) -> None:
    place = str(tmp_path / "r")
    with Replica.create(place, IDENTITY, lock_wait_s=0, env=env):
        with pytest.raises(BusyError):
            Replica.open(place, lock_wait_s=1, env=env)
        assert sum(env.slept_s) >= 1

    again = Replica.open(place, lock_wait_s=0, env=env)
    assert again is not None
    with again:
        assert again.identity == IDENTITY
        assert again.newest() is None


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(100)])
def test_one_that_cannot_be_read_is_as_good_as_none(content: bytes, tmp_path: Path, env: TurnedEnv) -> None:
    place = tmp_path / "r"
    Replica.create(str(place), IDENTITY, lock_wait_s=0, env=env).close()
    for path in place.glob("replica.db*"):
        path.unlink()
    (place / "replica.db").write_bytes(content)

    assert Replica.open(str(place), lock_wait_s=0, env=env) is None
    Replica.create(str(place), IDENTITY, lock_wait_s=0, env=env).close()
