"""Reading content: what was handed out stays what it was, whatever the disk does meanwhile."""

import os
import random
from pathlib import Path

import pytest

from packetfs import kernel
from packetfs.errors import DamagedError
from packetfs.volume import Volume, sources_of
from tests.volume.conftest import grown

CONTENT = random.Random(3).randbytes(5 << 20)


@pytest.fixture
def entry(volume: Volume, tmp_path: Path) -> kernel.Entry:
    """A file of 5 MiB in the volume."""
    source = grown(tmp_path / "source", {"large": CONTENT})
    snapshot = volume.push(sources_of([source]), "main").snapshot
    assert snapshot is not None
    return volume.entry(snapshot, b"large")


def cut_short(volume: Volume) -> None:
    """What a failing disk looks like to whoever has the segment mapped."""
    for path in Path(volume.path).glob("segments/*.data"):
        os.truncate(path, 4096)


def test_content_comes_in_pieces_of_about_a_mebibyte(volume: Volume, entry: kernel.Entry) -> None:
    pieces = list(volume.read(entry))

    assert b"".join(pieces) == CONTENT
    assert max(map(len, pieces)) <= 1 << 20
    assert len(pieces) <= 6


def test_a_segment_cut_short_while_it_is_read_is_damage_and_never_zeros(volume: Volume, entry: kernel.Entry) -> None:
    reading = volume.read(entry)
    first = next(reading)

    cut_short(volume)
    with pytest.raises(DamagedError):
        list(reading)

    assert CONTENT.startswith(first)


def test_a_view_shows_the_disk_and_asking_again_tells_whether_it_failed(volume: Volume, entry: kernel.Entry) -> None:
    address, length = next(iter(volume.space.extents(entry)))
    view = volume.space.view(address, length)
    assert CONTENT.startswith(view)

    cut_short(volume)
    seen = bytes(view)

    assert not CONTENT.startswith(seen)
    with pytest.raises(DamagedError):
        volume.space.view(address, length)
