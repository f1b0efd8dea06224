"""Space is given back while others use the volume, and never what anybody needs."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from packetfs.errors import BusyError, ConflictError, DamagedError
from packetfs.events import Progress
from packetfs.format.when import Back
from packetfs.sync import scrub
from packetfs.volume import Snapshot, Volume, forget, gc, pins, removals, sources_of
from packetfs.volume.rebuild import rebuild
from tests.volume.conftest import LARGE, TurnedEnv, grown, on_disk, rested, stored

OTHER = bytes(reversed(LARGE))
COLLECTING = """
import sys
from packetfs.volume import Volume, gc
with Volume.open(sys.argv[1]) as volume:
    gc.collect(volume, grace_s=0, wait_s=float(sys.argv[2]))
"""
READING = """
import sys
from packetfs.volume import Volume
with Volume.open(sys.argv[1]):
    print(flush=True)
    input()
"""


def push(volume: Volume, source: Path, ref: str = "main", always: bool = False) -> Snapshot:
    snapshot = volume.push(sources_of([source]), ref, always=always).snapshot
    assert snapshot is not None
    return snapshot


def leave_only_the_newest(volume: Volume, ref: str = "main") -> None:
    seqs = [seq for seq, _ in volume.log_page(ref, 1 << 40, 100)[1:]]
    forget.forget(volume, ref, seqs)


def replaced(volume: Volume, source: Path) -> tuple[Snapshot, Snapshot]:
    """A snapshot that is forgotten, and the one after it, which has other content."""
    old = push(volume, source)
    (source / "large").write_bytes(OTHER)
    new = push(volume, source)
    leave_only_the_newest(volume)
    return old, new


def disk_bytes(volume: Volume) -> int:
    places = (Path(volume.path) / "segments").glob("*.data")
    return sum(os.stat(place).st_blocks * 512 for place in places)


def test_what_was_forgotten_is_given_back_and_the_rest_is_whole(volume: Volume, source: Path) -> None:
    _, new = replaced(volume, source)
    before, lengths = disk_bytes(volume), [path.stat().st_size for path in Path(volume.path).rglob("*.data")]

    done = gc.collect(volume, grace_s=0)

    assert len(LARGE) <= done.unreached_bytes <= len(LARGE) + 4096
    assert done.freed_bytes == before - disk_bytes(volume) > len(LARGE) - 2 * 4096
    assert [path.stat().st_size for path in Path(volume.path).rglob("*.data")] >= lengths
    assert stored(volume, new) == on_disk(source)
    assert scrub.verify(volume).sound
    assert volume.status().reclaimed_bytes == done.unreached_bytes


def test_a_dry_run_finds_the_same_and_changes_nothing(volume: Volume, source: Path) -> None:
    replaced(volume, source)
    before = volume.position, disk_bytes(volume)

    planned = gc.collect(volume, grace_s=0, dry_run=True)

    assert (volume.position, disk_bytes(volume)) == before
    done = gc.collect(volume, grace_s=0)
    assert (planned.unreached_bytes, planned.reached_bytes, planned.ranges) == (
        done.unreached_bytes,
        done.reached_bytes,
        done.ranges,
    )


def test_the_same_content_is_stored_anew_after_it_was_reclaimed(volume: Volume, source: Path) -> None:
    """Not by the index, not by the stat cache, not in another process: nothing points into a hole."""
    old = stored(volume, push(volume, source, "side"))
    (source / "large").write_bytes(OTHER)
    push(volume, source)
    forget.remove(volume, "side")
    gc.collect(volume, grace_s=0)
    (source / "large").write_bytes(LARGE)

    for opened in (volume, Volume.open(volume.path)):
        report = opened.push(sources_of([rested(source)]), "again", always=True)

        assert report.snapshot is not None
        assert stored(opened, report.snapshot) == old
        assert scrub.verify(opened).sound
        opened.close() if opened is not volume else None
    assert volume.push(sources_of([source]), "third").statistics.new_bytes == 0


def test_a_stat_cache_whose_tree_was_reclaimed_is_not_believed(volume: Volume, source: Path) -> None:
    before = volume.push(sources_of([rested(source)]), "side").statistics
    forget.remove(volume, "side")
    gc.collect(volume, grace_s=0)

    report = volume.push(sources_of([source]), "main")

    assert report.statistics.new_bytes == before.new_bytes > len(LARGE)
    assert report.snapshot is not None
    assert stored(volume, report.snapshot) == on_disk(source)


def test_a_stat_cache_that_has_lost_a_part_is_not_believed(volume: Volume, source: Path, tmp_path: Path) -> None:
    """Its root page is in use by another ref; what one of its files needs is not."""
    apart = grown(tmp_path / "apart", {"large": LARGE})
    push(volume, rested(source), "side")
    (source / "a/hello").write_text("changed")
    push(volume, rested(apart), "other")
    forget.remove(volume, "side")
    forget.remove(volume, "other")
    gc.collect(volume, grace_s=0)

    assert stored(volume, push(volume, source)) == on_disk(source)
    assert scrub.verify(volume).sound


def test_what_was_stored_lately_and_never_committed_is_left_for_the_push_that_comes_back(
    volume: Volume, source: Path, env: TurnedEnv
) -> None:
    env.time_ns = (Path(volume.path) / "journal.db").stat().st_mtime_ns

    def overtake(event: Progress) -> None:
        if event.phase == "committing":
            with Volume.open(volume.path) as other:
                (source / "b/theirs").write_text("theirs")
                push(other, source)

    with pytest.raises(ConflictError):
        volume.push(sources_of([source]), "main", progress=overtake)
    (source / "large").write_bytes(OTHER)
    leave = push(volume, source)
    assert leave is not None

    left = gc.collect(volume, grace_s=3600)
    env.time_ns += 2 * 3600 * 1_000_000_000
    gone = gc.collect(volume, grace_s=3600)

    assert (left.unreached_bytes, left.young_bytes > 0) == (0, True)
    assert (gone.unreached_bytes, gone.young_bytes) == (left.young_bytes, 0)


def test_who_began_before_is_waited_for_and_named(volume: Volume, source: Path, env: TurnedEnv) -> None:
    """A reader of what is forgotten keeps it until it ends; the next run goes on."""
    old, _ = replaced(volume, source)
    with subprocess.Popen(
        [sys.executable, "-c", READING, volume.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()

        with pytest.raises(BusyError) as caught:
            gc.collect(volume, grace_s=0, wait_s=1)

        assert caught.value.code == "volume-in-use"
        assert caught.value.values["processes"] == [reader.pid]
        assert sum(env.slept_s) >= 1
        assert len(stored(volume, old)) > 1, "it is all there"
        reader.communicate(b"\n")

    assert gc.collect(volume, grace_s=0).unreached_bytes >= len(LARGE)
    with pytest.raises(DamagedError):
        stored(volume, old)


def test_what_a_push_that_began_before_points_to_is_spared(volume: Volume, source: Path, tmp_path: Path) -> None:
    """It dedups against what is being condemned, and commits while it is waited for."""
    replaced(volume, source)
    old_again = grown(tmp_path / "again", {"copy": LARGE})
    collecting: list[subprocess.Popen[bytes]] = []

    def condemn(event: Progress) -> None:
        if event.phase != "committing":
            return
        collecting.append(subprocess.Popen([sys.executable, "-c", COLLECTING, volume.path, "60"]))
        number = 0
        while not number:  # until what this push has found is condemned
            with Volume.open(volume.path) as other:
                number = other.round or 0

    with Volume.open(volume.path) as pushing:
        volume.close()
        report = pushing.push(sources_of([old_again]), "again", progress=condemn)
    assert collecting[0].wait(timeout=60) == 0

    assert report.statistics.known_bytes == len(LARGE)
    with Volume.open(volume.path) as after:
        assert stored(after, after.resolve("again")) == {"copy": LARGE}
        assert scrub.verify(after).sound
        with after.journal.reading() as db:
            assert removals.condemned(db) == []


def test_what_is_condemned_is_not_pointed_at_by_who_comes_after(volume: Volume, source: Path, tmp_path: Path) -> None:
    replaced(volume, source)
    again = grown(tmp_path / "again", {"copy": LARGE})
    with Volume.open(volume.path) as held:
        with pytest.raises(BusyError):
            gc.collect(volume, grace_s=0, wait_s=0)
        held.resolve("main")

        with Volume.open(volume.path) as later:
            report = later.push(sources_of([again]), "again")

    assert report.statistics.new_bytes == len(LARGE)
    volume.renew()
    assert gc.collect(volume, grace_s=0).unreached_bytes >= len(LARGE)
    assert stored(volume, volume.resolve("again")) == {"copy": LARGE}


def test_two_do_not_reclaim_at_once(volume: Volume, source: Path) -> None:
    replaced(volume, source)
    with pins.collecting(volume.gate), pytest.raises(BusyError):
        gc.collect(volume, grace_s=0)

    assert gc.collect(volume, grace_s=0).unreached_bytes > 0


def test_a_commit_of_who_slept_through_a_round_is_refused(
    volume: Volume, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pins keep that from happening; if ever they do not, nothing is committed that points to a hole."""
    replaced(volume, source)
    with Volume.open(volume.path) as other:
        monkeypatch.setattr(pins, "is_pinned", lambda path, number: False)
        gc.collect(volume, grace_s=0)
        (source / "large").write_bytes(LARGE)

        with pytest.raises(ConflictError) as caught:
            push(other, source)

    assert caught.value.code == "reclaimed-meanwhile"


def test_a_damaged_page_of_a_kept_tree_stops_it(volume: Volume, source: Path) -> None:
    old, new = replaced(volume, source)
    del old
    page = volume.root(new).page
    assert page is not None
    segment = Path(volume.path) / "segments" / f"{volume.space.slot(page[0] >> 26)}.data"
    with open(segment, "r+b") as file:
        file.seek(page[0] & ((1 << 26) - 1))
        file.write(b"\xff" * 8)

    with pytest.raises(DamagedError) as caught:
        gc.collect(volume, grace_s=0)

    assert "forget them" in caught.value.hint
    assert volume.status().reclaimed_bytes == 0


def test_a_rebuilt_journal_knows_what_is_gone(volume: Volume, source: Path) -> None:
    _, new = replaced(volume, source)
    gone = gc.collect(volume, grace_s=0).unreached_bytes
    volume.close()
    (Path(volume.path) / "journal.db").write_bytes(b"")

    rebuild(volume.path)

    with Volume.open(volume.path) as again:
        assert again.status().reclaimed_bytes == gone
        assert stored(again, new) == on_disk(source)
        again.check_journal()
        assert scrub.verify(again).sound
        (source / "large").write_bytes(LARGE)
        assert stored(again, push(again, source)) == on_disk(source)
        assert gc.collect(again, grace_s=0).unreached_bytes == 0


def test_a_flipped_bit_in_what_is_gone_is_damage(volume: Volume, source: Path) -> None:
    replaced(volume, source)
    gc.collect(volume, grace_s=0)
    with volume.journal.writing() as db:
        db.execute("UPDATE reclaimed SET ranges = zeroblob(length(ranges))")

    with pytest.raises(DamagedError):
        Volume.open(volume.path)


def test_much_is_reclaimed_in_several_rounds_and_entries(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "_ROUND_BYTES_MAX", 512)
    monkeypatch.setattr(gc, "_RANGES_BYTES_MAX", 128)
    source = grown(tmp_path / "many", {f"f{number:03}": os.urandom(9000) for number in range(300)})
    push(volume, source)
    for number in range(0, 300, 2):
        (source / f"f{number:03}").write_bytes(os.urandom(9000))
    new = push(volume, source)
    leave_only_the_newest(volume)
    before = volume.position.seq

    done = gc.collect(volume, grace_s=0)

    assert done.ranges >= 100
    assert volume.position.seq - before >= done.ranges // 16
    assert stored(volume, new) == on_disk(source)
    volume.check_journal()
    assert scrub.verify(volume).sound


def test_a_round_in_a_thread_does_not_disturb_a_reader_of_what_is_kept(volume: Volume, source: Path) -> None:
    push(volume, source)
    for number in range(4):
        (source / "large").write_bytes(LARGE[number:])
        push(volume, source)
    leave_only_the_newest(volume)
    failed: list[BaseException] = []

    def collect() -> None:
        try:
            with Volume.open(volume.path) as other:
                gc.collect(other, grace_s=0)
        except BaseException as error:  # noqa: BLE001 - the test fails by it
            failed.append(error)

    thread = threading.Thread(target=collect)
    volume.rest()
    thread.start()
    while thread.is_alive():
        volume.renew()
        assert stored(volume, volume.resolve("main", Back(0))) == on_disk(source)
        volume.rest()
    thread.join()

    assert failed == []
    volume.renew()
    assert volume.status().reclaimed_bytes > 0


def test_an_old_volume_opens_as_before_until_something_is_removed(volume: Volume, source: Path) -> None:
    """A version that does not know of removals refuses from then on, and not before."""

    def version() -> int:
        with volume.journal.reading() as db:
            return int(db.execute("PRAGMA user_version").get)

    push(volume, source)
    (source / "large").write_bytes(OTHER)
    push(volume, source)
    assert gc.collect(volume, grace_s=0).unreached_bytes == 0
    assert version() == 1
    leave_only_the_newest(volume)
    assert version() == 2
