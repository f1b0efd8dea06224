"""Who may fill which segment: never two at once, never an address twice, and what is recorded is durable."""

from pathlib import Path

import pytest

from packetfs import kernel
from packetfs.errors import DamagedError, UnavailableError
from packetfs.format.address import SEGMENT_BYTES, segment_of
from packetfs.volume import Volume, sources_of
from packetfs.volume.journal import FULL
from packetfs.volume.space import Filling, record

CHUNK = bytes(range(256)) * 256


def heads(volume: Volume) -> dict[int, int]:
    return {segment: head for segment, head, _ in volume.segments()}


def keep(volume: Volume, data: bytes = CHUNK) -> int:
    """Append one chunk and record it; its address."""
    with volume.filling() as filling:
        lease = filling.grant(None)
        address = lease.append_journal(data)
        filling.keep(lease)
    return address


def counter(volume: Volume) -> int:
    with volume.journal.reading() as db:
        found = db.execute("SELECT counter FROM epochs").get
    assert isinstance(found, int)
    return found


def test_leases_held_at_once_are_of_different_segments(volume: Volume) -> None:
    with Volume.open(volume.path) as other, volume.filling() as one, other.filling() as two:
        segments = {one.grant(None).segment, one.grant(None).segment, two.grant(None).segment}

    assert segments == {1, 2, 3}


def test_a_lease_that_ends_goes_back_to_the_pool(volume: Volume) -> None:
    with volume.filling() as filling:
        first = filling.grant(None).segment
    with Volume.open(volume.path) as other, other.filling() as filling:
        assert filling.grant(None).segment == first
    assert counter(volume) == 1


def test_a_lease_begins_where_the_last_one_was_recorded(volume: Volume) -> None:
    addresses = [keep(volume, CHUNK), keep(volume, b"next"), keep(volume, b"third")]

    assert addresses == sorted(addresses)
    assert heads(volume)[1] >= len(CHUNK) + 9
    assert bytes(volume.space.view(addresses[0], len(CHUNK))) == CHUNK
    assert bytes(volume.space.view(addresses[2], 5)) == b"third"


def test_what_was_not_recorded_is_nobodys_and_gets_overwritten(volume: Volume) -> None:
    """As after a kill: synced or not, without its row it was never there."""
    first = keep(volume)
    with volume.filling() as filling:
        lease = filling.grant(None)
        lost = lease.append_journal(b"lost" * 1000)
        lease.sync()

    with Volume.open(volume.path) as other:
        again = keep(other, b"kept" * 500)
        assert bytes(other.space.view(again, 2000)) == b"kept" * 500
    assert again == lost
    volume.segments()
    assert bytes(volume.space.view(again, 2000)) == b"kept" * 500
    assert bytes(volume.space.view(first, len(CHUNK))) == CHUNK
    with pytest.raises(DamagedError):
        volume.space.view(lost, 4000)


def test_what_another_process_recorded_is_read_after_asking_for_it(volume: Volume) -> None:
    with Volume.open(volume.path) as other:
        address = keep(other)

    volume.admit_new()

    assert bytes(volume.space.view(address, len(CHUNK))) == CHUNK


def test_a_full_lease_is_recorded_while_the_next_one_is_filled(volume: Volume) -> None:
    """What a killed push had filled by then is found by the next one."""
    with volume.filling() as filling:
        first = filling.grant(None)
        address = first.append_journal(CHUNK)
        second = filling.grant(first)
        filling.settle()
        with Volume.open(volume.path) as other:
            assert bytes(other.space.view(address, len(CHUNK))) == CHUNK
        assert second.segment != segment_of(address)
    with volume.journal.reading() as db:
        assert db.execute("SELECT state FROM segments WHERE segment = 1").get == FULL
    with volume.filling() as filling:
        assert filling.grant(None).segment != 1


def test_a_segment_without_room_for_two_chunks_is_not_leased_again(volume: Volume) -> None:
    with volume.journal.writing() as db:
        record(db, volume.keys, (1, SEGMENT_BYTES - (200 << 10), 64), full=False)

        assert db.execute("SELECT state FROM segments WHERE segment = 1").get == FULL


def test_a_head_never_goes_back(volume: Volume) -> None:
    keep(volume)
    head = heads(volume)[1]

    with pytest.raises(DamagedError), volume.journal.writing() as db:
        record(db, volume.keys, (1, head - 1, 64), full=False)

    assert heads(volume)[1] == head


def test_many_leases_are_granted_and_every_one_is_recorded(volume: Volume) -> None:
    """More than may wait to be synced, so that granting waits for the syncing thread."""
    with volume.filling() as filling:
        lease = filling.grant(None)
        addresses = []
        for number in range(8):
            addresses.append(lease.append_journal(b"%d" % number * 1000))
            lease = filling.grant(lease)
        filling.keep(lease)

    with Volume.open(volume.path) as other:
        for number, address in enumerate(addresses):
            assert bytes(other.space.view(address, 1000)) == b"%d" % number * 1000
    assert len({segment_of(address) for address in addresses}) == 8


def test_a_sync_that_fails_is_fatal_for_the_open_volume(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingLease:
        """What the kernel gives when fdatasync says EIO."""

        segment, room = 1, SEGMENT_BYTES

        def sync(self) -> tuple[int, int, int]:
            raise UnavailableError("cannot sync: input/output error", code="disk-failed")

        def close(self) -> None: ...

    failing: kernel.Lease = FailingLease()  # type: ignore[assignment]
    with volume.filling() as filling, pytest.raises(UnavailableError) as first:
        filling.keep(failing)
    with volume.filling() as filling, pytest.raises(UnavailableError) as later:
        filling.grant(None)
    with Volume.open(volume.path) as again:
        keep(again)

    assert (first.value.code, later.value.code) == ("disk-failed", "volume-failed")


def test_a_sync_that_fails_in_the_background_stops_the_push(volume: Volume) -> None:
    class FailingLease:
        segment, room = 1, SEGMENT_BYTES

        def sync(self) -> tuple[int, int, int]:
            raise UnavailableError("cannot sync: input/output error", code="disk-failed")

        def close(self) -> None: ...

    failing: kernel.Lease = FailingLease()  # type: ignore[assignment]

    def fill() -> None:
        with volume.filling() as filling:
            filling.grant(failing)
            filling.settle()

    with pytest.raises(UnavailableError):
        fill()


def test_an_old_copy_of_the_journal_is_noticed_also_in_a_segment_that_it_knows(tmp_path: Path, source: Path) -> None:
    """One entry more may be that of a killed push; two cannot."""
    path = tmp_path / "volume"
    with Volume.create(path) as volume:
        volume.push(sources_of([source]), "main")
    backup = (path / "journal.db").read_bytes()
    for content in ("one", "two"):
        (source / "new").write_text(content)
        with Volume.open(path) as volume:
            volume.push(sources_of([source]), "main")
    files = {file: file.read_bytes() for file in (path / "segments").iterdir()}
    (path / "journal.db").write_bytes(backup)
    (source / "new").write_text("three")

    with Volume.open(path) as volume, pytest.raises(DamagedError, match="holds entry 3") as caught:
        volume.push(sources_of([source]), "main")

    assert caught.value.code == "journal-stale"
    assert {file: file.read_bytes() for file in (path / "segments").iterdir()} == files


def test_an_old_copy_is_noticed_although_the_segment_that_it_would_fill_shows_nothing(tmp_path: Path) -> None:
    """A later push filled that one with data alone, and committed in the next."""
    path = tmp_path / "volume"
    with Volume.create(path) as volume:
        keep(volume)
    backup = (path / "journal.db").read_bytes()
    with Volume.open(path) as volume, volume.filling() as filling:
        lease = filling.grant(None)
        lease.append_journal(b"data" * 1000)
        lease = filling.grant(lease)
        lease.append_journal(b"more" * 1000)
        filling.keep(lease)
    put_back_and_check_that_it_is_stale(path, backup)


def test_an_old_copy_is_noticed_behind_a_segment_that_was_granted_and_left_empty(tmp_path: Path) -> None:
    """A push may keep the next segment as a spare and fill the one after."""
    path = tmp_path / "volume"
    with Volume.create(path) as volume:
        keep(volume)
    backup = (path / "journal.db").read_bytes()
    with Volume.open(path) as volume, volume.filling() as filling:
        held = [filling.grant(None) for _ in range(3)]
        held[-1].append_journal(b"more" * 1000)
        filling.keep(held[-1])
    put_back_and_check_that_it_is_stale(path, backup)


def test_an_old_copy_is_noticed_in_any_open_segment(tmp_path: Path) -> None:
    """Not only in the fullest, which is leased first."""
    path, source = tmp_path / "volume", tmp_path / "source"
    source.mkdir()
    with Volume.create(path) as volume:
        keep(volume, CHUNK * 4)
        push_elsewhere(volume, source)
    backup = (path / "journal.db").read_bytes()
    with Volume.open(path) as volume:
        push_elsewhere(volume, source)
        push_elsewhere(volume, source)
    put_back_and_check_that_it_is_stale(path, backup)


def push_elsewhere(volume: Volume, source: Path) -> None:
    """Commit in another segment than the fullest."""
    with volume.filling() as filling:
        filling.grant(None)
        volume.push(sources_of([source]), "main", always=True)


def put_back_and_check_that_it_is_stale(path: Path, backup: bytes) -> None:
    files = {file: file.read_bytes() for file in (path / "segments").iterdir()}
    (path / "journal.db").write_bytes(backup)
    with Volume.open(path) as volume, pytest.raises(DamagedError) as caught:
        keep(volume)
    assert caught.value.code == "journal-stale"
    assert {file: file.read_bytes() for file in (path / "segments").iterdir()} == files


def test_a_segment_with_damage_is_not_filled_further(volume: Volume) -> None:
    keep(volume)
    with Filling(
        volume.journal, volume.space, volume.keys, volume.path, volume.admit, damaged=frozenset({1})
    ) as filling:
        assert filling.grant(None).segment == 2


def test_a_journal_that_is_older_than_the_segments_is_noticed_before_anything_is_overwritten(tmp_path: Path) -> None:
    """Put back from a backup, it would grant addresses a second time."""
    path = tmp_path / "volume"
    Volume.create(path).close()
    backup = (path / "journal.db").read_bytes()
    with Volume.open(path) as volume:
        keep(volume)
    files = {file: file.read_bytes() for file in (path / "segments").iterdir()}
    (path / "journal.db").write_bytes(backup)

    with Volume.open(path) as volume, pytest.raises(DamagedError) as caught:
        keep(volume)

    assert caught.value.code == "journal-stale"
    assert {file: file.read_bytes() for file in (path / "segments").iterdir()} == files
