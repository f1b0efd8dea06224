"""Between two machines: what a file is beyond its bytes travels with it, and a hole travels as its length."""

import os
from pathlib import Path

from packetfs.sync import scrub
from packetfs.sync.left import LONG_AGO_NS, decode, encode
from packetfs.volume import Volume, sources_of
from tests.end_to_end.special import (
    extents,
    grow_roots,
    grow_special,
    need_attributes,
    need_root,
    rsync_sees,
    specials,
    unlike,
)
from tests.sync.conftest import Origin


def test_everything_that_anybody_can_make_travels(origin: Origin, tmp_path: Path) -> None:
    need_attributes(tmp_path)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    grow_special(source)

    with origin.connect("one") as session:
        session.push(sources_of([source]), "main")
    with origin.connect("two", writes=False) as session:
        pulled = session.pull("main", os.fsencode(target)).report

    assert pulled.is_whole
    assert unlike(specials(source), specials(target)) == []
    assert rsync_sees(source, target) == []


def test_everything_that_root_can_make_travels_and_so_does_a_change_of_it(origin: Origin, tmp_path: Path) -> None:
    need_root()
    need_attributes(tmp_path)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    grow_special(source)
    grow_roots(source)
    with origin.connect("one") as session:
        session.push(sources_of([source]), "main")
    with origin.connect("two", writes=False) as session:
        session.pull("main", os.fsencode(target))
    os.setxattr(source / "plain", "user.new", b"1")
    os.unlink(source / "disk")
    os.mkfifo(source / "disk")
    with open(source / "sparse", "r+b") as file:
        file.seek(5 << 20)
        file.write(b"in a hole")

    with origin.connect("one") as session:
        session.push(sources_of([source]), "main")
    with origin.connect("two", writes=False) as session:
        session.pull("main", os.fsencode(target), delete=True)

    assert unlike(specials(source), specials(target)) == []
    assert rsync_sees(source, target) == []
    with Volume.open(origin.path) as volume:
        assert scrub.verify(volume, restart=True).sound


def test_a_huge_hole_does_not_travel(origin: Origin, tmp_path: Path) -> None:
    """1 TiB with 1 MiB of bytes in it, and its next version with some more."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with open(source / "huge", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(os.urandom(1 << 20))

    for added in (0, 4096):
        with open(source / "huge", "r+b") as file:
            file.seek(1 << 38)
            file.write(os.urandom(added))
        with origin.connect("one") as session:
            pushed = session.push(sources_of([source]), "main").traffic
        with origin.connect("two", writes=False) as session:
            pulled = session.pull("main", os.fsencode(target)).traffic

        assert pushed.sent_bytes < (1 << 20) + 60_000
        assert pulled.received_bytes < (1 << 20) + 60_000
        assert extents(source / "huge") == extents(target / "huge")


def test_a_sparse_file_of_thousands_of_stretches_travels_as_it_is(origin: Origin, tmp_path: Path) -> None:
    """More extents than a page holds: the list of them has its holes, too."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with open(source / "f", "wb") as file:
        for number in range(3000):
            file.seek(number << 16)
            file.write(number.to_bytes(2, "little") * 2048)
        file.truncate(200 << 20)

    with origin.connect("one") as session:
        session.push(sources_of([source]), "main")
    with origin.connect("two", writes=False) as session:
        session.pull("main", os.fsencode(target))

    assert extents(source / "f") == extents(target / "f")
    assert (source / "f").read_bytes() == (target / "f").read_bytes()


def test_how_a_target_was_left_is_written_as_version_1() -> None:
    """tests/golden/target-v1.bin: never edited, read by every version after."""
    golden = (Path(__file__).parent.parent / "golden" / "target-v1.bin").read_bytes()
    boot = bytes(range(16))
    left = encode((3 << 26 | 4096, 700, bytes(range(100, 132))), 1_700_000_000_123_456_789, boot)

    assert left == golden
    assert decode(golden, boot) == ((3 << 26 | 4096, 700, bytes(range(100, 132))), 1_700_000_000_123_456_789)
    assert decode(golden, bytes(16)) == ((3 << 26 | 4096, 700, bytes(range(100, 132))), LONG_AGO_NS)
    for wrong in (golden[:-1], golden + b"\0", golden[:20] + b"\xff" + golden[21:], b""):
        assert decode(wrong, boot) is None
