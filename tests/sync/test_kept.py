"""A list of who is trusted, changed by many at once: no change is lost, and what cannot be read is not replaced."""

import threading
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from packetfs.errors import DamagedError
from packetfs.format import trust
from packetfs.sync.kept import Kept


def kept(path: Path) -> Kept[trust.Servers]:
    return Kept(str(path), trust.decode_servers, trust.Servers())


def with_server(servers: trust.Servers, name: str) -> tuple[trust.Servers, None]:
    return replace(servers, servers={**servers.servers, name: trust.Server("ab" * 32, name)}), None


def test_changes_of_many_at_once_are_all_there(tmp_path: Path) -> None:
    def change(number: int) -> None:
        mine = kept(tmp_path / "servers.json")  # as another process would have it
        for turn in range(10):
            mine.change(partial(with_server, name=f"{number}-{turn}"))

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(kept(tmp_path / "servers.json").read().servers) == 40
    assert {path.name for path in tmp_path.iterdir()} == {"servers.json", "servers.json.lock"}


def test_who_reads_sees_what_another_has_changed(tmp_path: Path) -> None:
    reader, writer = kept(tmp_path / "servers.json"), kept(tmp_path / "servers.json")

    assert reader.read() == trust.Servers()
    writer.change(lambda servers: with_server(servers, "nas"))

    assert set(reader.read().servers) == {"nas"}


def test_what_one_that_was_killed_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "servers.json.new").write_bytes(b"half of")

    kept(tmp_path / "servers.json").change(lambda servers: with_server(servers, "nas"))

    assert set(kept(tmp_path / "servers.json").read().servers) == {"nas"}


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    mine = kept(tmp_path / "servers.json")
    mine.change(lambda servers: with_server(servers, "nas"))
    before = (tmp_path / "servers.json").read_bytes()

    def fails(servers: trust.Servers) -> tuple[trust.Servers, None]:
        raise KeyError("why")

    with pytest.raises(KeyError):
        mine.change(fails)

    assert (tmp_path / "servers.json").read_bytes() == before


@pytest.mark.parametrize("data", [b"", b"{", b"[]", bytes(100), b'{"version": 1, "servers": {"x": {}}}'])
def test_what_cannot_be_read_is_an_error_and_stays(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "servers.json").write_bytes(data)
    mine = kept(tmp_path / "servers.json")

    with pytest.raises(DamagedError):
        mine.read()
    with pytest.raises(DamagedError):
        mine.change(lambda servers: with_server(servers, "nas"))

    assert (tmp_path / "servers.json").read_bytes() == data
