"""What a scrub found is remembered, and no push points to it again."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import PacketFSError
from packetfs.format.address import SEGMENT_BYTES, Extent, segment_of
from packetfs.sync import scrub
from packetfs.volume import Volume, damage, sources_of
from tests.volume.conftest import LARGE, grown, on_disk, rested, stored

GOLDEN = Path(__file__).parents[1] / "golden/damaged-v1.txt"
EXTENTS: tuple[Extent, ...] = (
    (SEGMENT_BYTES, 4096),
    (SEGMENT_BYTES + 102_400, 131_072),
    (1 << 58 | SEGMENT_BYTES, SEGMENT_BYTES),
)


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    """Within one segment, as the kernel gives them."""
    start = draw(st.integers(0, SEGMENT_BYTES - 1))
    return draw(st.integers(1, 5)) * SEGMENT_BYTES + start, draw(st.integers(1, SEGMENT_BYTES - start))


def covered(ranges: tuple[Extent, ...], address: int) -> bool:
    return any(start <= address < start + length for start, length in ranges)


def test_the_file_is_what_its_page_says() -> None:
    assert damage.encode_damage(EXTENTS) == GOLDEN.read_bytes()
    assert damage.decode_damage(GOLDEN.read_bytes()) == EXTENTS


@given(st.lists(extents(), max_size=20))
def test_coalescing_changes_neither_an_end_nor_the_file(found: list[Extent]) -> None:
    ranges = damage.coalesced(found)

    assert list(ranges) == sorted(ranges)
    assert all(segment_of(start) == segment_of(start + length - 1) for start, length in ranges)
    for start, length in found:
        assert covered(ranges, start)
        assert covered(ranges, start + length - 1)
        assert covered(ranges, start + length) == any(covered((one,), start + length) for one in found)
    assert damage.decode_damage(damage.encode_damage(ranges)) == ranges


def test_more_ranges_than_can_be_listed_become_one_for_each_segment() -> None:
    ranges = damage.coalesced([(SEGMENT_BYTES + 100 * number, 50) for number in range(70_000)] + [EXTENTS[2]])

    assert ranges == ((SEGMENT_BYTES, 70_000 * 100 - 50), EXTENTS[2])


@given(st.binary(max_size=200))
def test_what_does_not_look_like_a_range_is_passed_over(noise: bytes) -> None:
    assert damage.decode_damage(noise) == ()
    assert set(damage.decode_damage(GOLDEN.read_bytes() + b"1 2\n-5 7\nx\n67108864 0\n" + noise[:1] + b"\n")) == set(
        EXTENTS
    )


def flip(volume: Volume, address: int) -> None:
    """Flip one bit of the byte at `address`."""
    path = Path(volume.path, "segments", f"{volume.space.slot(segment_of(address))}.data")
    with open(path, "r+b") as file:
        file.seek(address % SEGMENT_BYTES)
        byte = file.read(1)[0]
        file.seek(address % SEGMENT_BYTES)
        file.write(bytes([byte ^ 1]))


def place(volume: Volume, path: bytes) -> int:
    """Where a file begins."""
    return volume.space.extents(volume.entry(volume.resolve("main"), path))[0][0]


def test_the_same_tree_pushed_again_is_whole_again(volume: Volume, source: Path) -> None:
    """The old snapshot stays damaged, the new one has the same digest and other places."""
    first = volume.push(sources_of([source]), "main").snapshot
    flip(volume, place(volume, b"large") + 70_000)
    assert [path.path for path in scrub.verify(volume).paths] == [b"large"]
    rested(source)

    report = volume.push(sources_of([source]), "main")
    again = volume.push(sources_of([source]), "main")

    assert first is not None
    assert report.snapshot is not None
    assert (report.changed, again.changed) == (True, False)
    assert report.snapshot.root_digest == first.root_digest
    assert 0 < report.statistics.new_bytes < len(LARGE)
    assert again.statistics.unchanged_files == 3
    assert stored(volume, report.snapshot) == on_disk(source)
    found = scrub.verify(volume)
    assert [(path.path, path.snapshots) for path in found.paths] == [(b"large", (("main", first),))]


def test_a_damaged_page_is_stored_anew(volume: Volume, source: Path) -> None:
    volume.push(sources_of([source]), "main")
    page = volume.root(volume.resolve("main")).page
    assert page is not None
    flip(volume, page[0] + 20)
    assert not scrub.verify(volume).sound

    report = volume.push(sources_of([source]), "main")

    assert report.changed
    assert report.snapshot is not None
    assert stored(volume, report.snapshot) == on_disk(source)


@pytest.mark.parametrize("what", ["data", "chunks"])
def test_a_lost_segment_is_stored_anew_elsewhere(what: str, volume: Volume, source: Path) -> None:
    volume.push(sources_of([source]), "main")
    before = volume.segments()
    for file in Path(volume.path, "segments").glob(f"*.{what}"):
        file.unlink()
    with Volume.open(volume.path) as opened:
        assert not scrub.verify(opened).sound

    with Volume.open(volume.path) as opened:
        report = opened.push(sources_of([source]), "main")

    with Volume.open(volume.path) as opened:
        assert report.snapshot is not None
        assert stored(opened, report.snapshot) == on_disk(source)
        assert not {segment for segment, _, _ in before} & {
            segment_of(address) for address, _ in opened.space.extents(opened.entry(report.snapshot, b"large"))
        }


def test_what_another_process_found_is_not_pointed_to(volume: Volume, source: Path) -> None:
    """Also in a ref that did not exist when it was found, and by a volume that was open all the time."""
    volume.push(sources_of([source]), "main")
    address = place(volume, b"large")
    flip(volume, address + 100)
    with Volume.open(volume.path) as other:
        scrub.verify(other)
    copy = grown(source.parent / "copy", {"copy": LARGE})

    report = volume.push(sources_of([copy]), "other")

    assert report.snapshot is not None
    assert stored(volume, report.snapshot) == {"copy": LARGE}


def test_damage_that_is_gone_is_forgotten(volume: Volume, source: Path) -> None:
    """Put back from a backup, the bytes may be pointed to again."""
    volume.push(sources_of([source]), "main")
    address = place(volume, b"large")
    flip(volume, address)
    scrub.verify(volume)
    assert [start for start, _ in volume.damaged] == [address]
    assert (Path(volume.path) / "damaged").exists()

    flip(volume, address)
    with Volume.open(volume.path) as opened:
        assert opened.damaged == volume.damaged
        assert scrub.verify(opened).sound

    assert not (Path(volume.path) / "damaged").exists()
    with Volume.open(volume.path) as opened:
        assert opened.damaged == ()
        assert not opened.push(sources_of([source]), "main").changed


class StoppedError(Exception):
    """The user's patience ends."""


def test_a_scrub_that_is_stopped_remembers_what_it_found(volume: Volume, source: Path) -> None:
    """And forgets nothing that was found before."""
    volume.push(sources_of([source]), "main")
    flip(volume, place(volume, b"large"))
    known = ((place(volume, b"a/hello"), 5),)
    volume.remember_damage(known, complete=True)

    def stop(damaged: scrub.DamagedRange) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        scrub.verify(volume, found=stop)

    assert {start for start, _ in damage.load(volume.path)} == {known[0][0], place(volume, b"large")}


def test_a_scrub_that_cannot_remember_still_reports(
    volume: Volume, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a volume that is mounted read-only."""
    volume.push(sources_of([source]), "main")
    flip(volume, place(volume, b"large"))

    def refuse(*_: object) -> None:
        raise PacketFSError("read-only")

    monkeypatch.setattr(damage, "store", refuse)

    assert [path.path for path in scrub.verify(volume).paths] == [b"large"]
    assert "damaged" not in os.listdir(volume.path)


def test_flips_anywhere_are_healed(volume: Volume, tmp_path: Path) -> None:
    """Three rounds of random rot, each followed by a scrub and a push."""
    chance = random.Random(7)
    tree = {f"{number % 5}/{number}": chance.randbytes(chance.randrange(40_000)) for number in range(60)}
    source = grown(tmp_path / "source", {**tree, "large": LARGE})
    volume.push(sources_of([source]), "main")
    for _ in range(3):
        for segment, head, _ in volume.segments():
            for _ in range(3):
                flip(volume, segment * SEGMENT_BYTES + chance.randrange(head))
        with Volume.open(volume.path) as opened:
            scrub.verify(opened)
        with Volume.open(volume.path) as opened:
            snapshot = opened.push(sources_of([source]), "main").snapshot
        with Volume.open(volume.path) as opened:
            assert snapshot is not None
            assert stored(opened, snapshot) == on_disk(source)
