"""Volumes that earlier versions wrote are read, verified, pulled and pushed to. Their files never change."""

import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest

import packetfs
from packetfs.sync import scrub
from tests.compat.make import HERE, manifest

ARCHIVES = sorted(path.name.removesuffix(".tar.xz") for path in HERE.glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A copy of a volume that was kept, and what its snapshots hold, oldest first."""
    with tarfile.open(HERE / f"{request.param}.tar.xz") as tar:
        tar.extractall(tmp_path, filter="tar")
    told = json.loads(lzma.decompress((HERE / f"{request.param}.json.xz").read_bytes()))
    return tmp_path / "volume", told["snapshots"]


def test_there_is_a_volume_of_a_version() -> None:
    assert ARCHIVES


@pytest.mark.slow
def test_every_snapshot_of_an_old_volume_is_what_it_was(
    kept: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    place, snapshots = kept
    with packetfs.open(place) as volume:
        report = scrub.verify(volume)
        found = [(ref, snapshot.id.hex()) for ref, _, snapshot in volume.snapshots()]
        for told in snapshots:
            target = tmp_path / told["id"]
            packetfs.pull(volume, f"{told['ref']}@{told['id']}", target)
            assert manifest(target) == told["holds"]

    assert report.sound
    assert report.checked_bytes > 0
    assert found == [(told["ref"], told["id"]) for told in snapshots]


@pytest.mark.slow
def test_an_old_volume_is_pushed_to_and_what_it_held_is_pointed_to(
    kept: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    place, snapshots = kept
    source, target = tmp_path / "source", tmp_path / "target"
    newest = [told for told in snapshots if told["ref"] == "main"][-1]
    with packetfs.open(place) as volume:
        packetfs.pull(volume, "main", source)
        same = packetfs.push(volume, [source], "again")
        (source / "new").write_bytes(b"new")
        pushed = packetfs.push(volume, [source], "main")
        packetfs.pull(volume, "main", target)

    assert same.statistics.new_bytes == 0
    assert pushed.statistics.new_bytes == 3
    now = manifest(target)
    assert now.pop("new")["size"] == 3
    assert now == newest["holds"]


@pytest.mark.slow
def test_an_old_volume_is_rebuilt(kept: tuple[Path, list[dict[str, Any]]]) -> None:
    place, snapshots = kept
    from packetfs.volume.rebuild import rebuild

    (place / "journal.db").unlink()
    rebuild(place)

    with packetfs.open(place) as volume:
        assert [snapshot.id.hex() for _, _, snapshot in volume.snapshots()] == [told["id"] for told in snapshots]
