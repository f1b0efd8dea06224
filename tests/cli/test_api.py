"""PacketFS from Python."""

from pathlib import Path

import pytest

import packetfs


def test_everything_public_is_there() -> None:
    for name in packetfs.__all__:
        assert getattr(packetfs, name) is not None
    assert set(dir(packetfs)) == set(packetfs.__all__)
    with pytest.raises(AttributeError):
        _ = packetfs.nothing


def test_a_tree_goes_in_and_comes_out(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"one")

    with packetfs.open(tmp_path / "volume", create=True) as volume:
        first = packetfs.push(volume, [tmp_path / "tree"], message="first")
        (tmp_path / "tree" / "file").write_bytes(b"three")
        packetfs.push(volume, [tmp_path / "tree"])
        packetfs.pull(volume, "main@~1:/", tmp_path / "target")
        differences = packetfs.compare(volume, "main@~1:/file", "main:/file")
        checked = packetfs.verify(volume)

    assert volume.created
    assert first.changed
    assert (tmp_path / "target" / "file").read_bytes() == b"one"
    assert [(found.path, found.change, found.old_size, found.new_size) for found in differences] == [
        (b".", "changed", 3, 5)
    ]
    assert checked.sound


def test_a_place_is_inside_the_volume_that_is_open(tmp_path: Path) -> None:
    with packetfs.create(tmp_path / "volume") as volume:
        for place in ("other::main", "host:vol::main", "../x"):
            with pytest.raises(packetfs.UsageError):
                packetfs.pull(volume, place, tmp_path / "target")
        with pytest.raises(packetfs.NotFoundError):
            packetfs.pull(volume, "main", tmp_path / "target")
