"""Pushing: what is stored, what is told, and what is left as it was."""

import os
from pathlib import Path

import pytest

from packetfs.errors import ConflictError, NotFoundError, RefusedError, UsageError
from packetfs.events import Progress
from packetfs.volume import Source, Volume, sources_of
from packetfs.volume.ingest import clean_before_ns
from tests.volume.conftest import LARGE, START_NS, TurnedEnv, grown, on_disk, rested, stored


def test_a_push_stores_the_contents_of_a_directory(volume: Volume, source: Path, env: TurnedEnv) -> None:
    report = volume.push(sources_of([source]), "main", message="first")

    snapshot = report.snapshot
    assert snapshot is not None
    assert stored(volume, snapshot) == on_disk(source)
    assert (report.changed, report.dry_run, report.problems) == (True, False, ())
    assert (snapshot.message, snapshot.parent, snapshot.time_ns) == ("first", b"", START_NS)
    assert snapshot.paths == (os.fsencode(source),)
    assert (snapshot.host, snapshot.user) == (env.host(), env.user())
    assert (report.statistics.files, report.statistics.new_bytes) == (3, 5 + 512_000)
    assert snapshot.statistics == report.statistics
    assert volume.position.seq == 1
    volume.check_journal()


def test_pushing_the_same_again_makes_no_snapshot_but_is_remembered(
    volume: Volume, source: Path, env: TurnedEnv
) -> None:
    first = volume.push(sources_of([source]), "main").snapshot
    env.time_ns += 1000

    again = volume.push(sources_of([source]), "main")

    assert (again.changed, again.snapshot) == (False, first)
    assert again.statistics.new_bytes == 0
    assert volume.position.seq == 1
    assert volume.refs()[0].visited_ns == START_NS + 1000


def test_always_makes_a_snapshot_although_nothing_changed(volume: Volume, source: Path) -> None:
    first = volume.push(sources_of([source]), "main").snapshot

    second = volume.push(sources_of([source]), "main", always=True)

    assert first is not None
    assert second.changed
    assert second.snapshot is not None
    assert second.snapshot.parent == first.id
    assert second.snapshot.root_digest == first.root_digest


def test_going_back_to_an_older_state_stores_nothing_and_moves_the_ref(volume: Volume, source: Path) -> None:
    first = volume.push(sources_of([source]), "main").snapshot
    stat = source.stat()
    (source / "large").rename(source / "renamed")
    volume.push(sources_of([source]), "main")
    (source / "renamed").rename(source / "large")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    third = volume.push(sources_of([source]), "main")

    assert first is not None
    assert third.changed
    assert third.snapshot is not None
    assert third.snapshot.root_digest == first.root_digest
    assert third.statistics.new_bytes == 0
    assert volume.position.seq == 3


def test_a_second_volume_object_sees_what_the_first_committed(volume: Volume, source: Path) -> None:
    with Volume.open(volume.path) as other:
        assert other.refs() == []
        snapshot = volume.push(sources_of([source]), "main").snapshot

        found = other.resolve("main")

        assert found == snapshot
        assert stored(other, found) == on_disk(source)


def test_a_dry_run_tells_what_would_be_new_and_writes_nothing(volume: Volume, source: Path) -> None:
    volume.push(sources_of([source]), "main")
    (source / "new").write_bytes(os.urandom(5000))
    before = on_disk(Path(volume.path))

    report = volume.push(sources_of([source]), "main", dry_run=True)

    after = on_disk(Path(volume.path))
    assert report.changed
    assert report.dry_run
    assert report.statistics.new_bytes == 5000
    assert volume.position.seq == 1
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] in ([], ["journal.db-shm"])  # SQLite's read marks
    assert volume.push(sources_of([source]), "other", dry_run=True).snapshot is None


def test_progress_is_told_and_may_stop_a_push(volume: Volume, source: Path) -> None:
    told: list[Progress] = []

    def stop(event: Progress) -> None:
        told.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        volume.push(sources_of([source]), "main", progress=stop)
    volume.push(sources_of([source]), "main", progress=told.append)

    assert told[-1].phase == "committing"
    assert volume.position.seq == 1
    assert stored(volume, volume.resolve("main")) == on_disk(source)
    assert not [name for name in os.listdir(Path(volume.path) / "cache") if name.endswith(".new")]


def test_several_sources_appear_under_their_names(volume: Volume, source: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.write_bytes(b"alone")

    snapshot = volume.push(sources_of([f"{source}/", single]), "main").snapshot

    assert snapshot is not None
    tree = stored(volume, snapshot)
    assert tree == {"source": None, "single": b"alone"} | {f"source/{k}": v for k, v in on_disk(source).items()}


def test_one_file_appears_under_its_name(volume: Volume, source: Path) -> None:
    snapshot = volume.push(sources_of([source / "a/hello"]), "main").snapshot

    assert snapshot is not None
    assert stored(volume, snapshot) == {"hello": b"hello"}


def test_a_snapshot_says_whether_its_root_is_a_directory_that_was_pushed(
    volume: Volume, source: Path, tmp_path: Path
) -> None:
    other = grown(tmp_path / "other", {"x": b"x"})

    def is_source(*paths: Path) -> bool:
        snapshot = volume.push(sources_of(paths), "main").snapshot
        assert snapshot is not None
        assert volume.resolve("main").root_is_source == snapshot.root_is_source
        return snapshot.root_is_source

    assert is_source(source)
    assert not is_source(source, other)
    assert not is_source(other / "x")
    assert not volume.push_stream(os.open(other / "x", os.O_RDONLY), b"name", "main").snapshot.root_is_source  # type: ignore[union-attr]


def test_the_bytes_of_a_hard_linked_file_count_once(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "linked", {"one": LARGE})
    os.link(source / "one", source / "two")

    for _ in range(2):
        counted = volume.push(sources_of([source]), "main").statistics
        assert (counted.files, counted.logical_bytes) == (2, len(LARGE))
        assert counted.new_bytes + counted.known_bytes + counted.unchanged_bytes == len(LARGE)


def test_an_index_that_cannot_be_used_is_told_and_made_anew(volume: Volume, source: Path) -> None:
    volume.push(sources_of([source]), "main")
    assert volume.index_discarded is None
    index = Path(volume.path) / "index"
    index.mkdir(exist_ok=True)
    (index / "manifest").write_bytes(b"garbage")

    with Volume.open(volume.path) as other:
        assert "manifest" in (other.index_discarded or "")
        assert other.push(sources_of([source]), "second").statistics.new_bytes == 0

    with Volume.open(volume.path) as healed:
        assert healed.index_discarded is None


def test_sources_that_make_no_sense_are_refused_before_anything_is_read(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "x/same").mkdir(parents=True)
    (tmp_path / "y/same").mkdir(parents=True)

    with pytest.raises(UsageError) as twice:
        sources_of([tmp_path / "x/same", tmp_path / "y/same"])
    with pytest.raises(UsageError):
        sources_of([])
    with pytest.raises(UsageError):
        sources_of(["/", tmp_path])
    with pytest.raises(NotFoundError):
        sources_of([tmp_path / "missing"])
    with pytest.raises(NotFoundError):
        volume.push([Source(os.fsencode(tmp_path / "missing"))], "main")
    with pytest.raises(UsageError):
        volume.push([Source(os.fsencode(tmp_path / "x")), Source(os.fsencode(tmp_path / "y"))], "main")
    with pytest.raises(UsageError):
        volume.push([Source(os.fsencode(tmp_path / "x"))], "bad ref")

    assert twice.value.code == "duplicate-name"


@pytest.mark.parametrize("inside", ["", "volume", "volume/segments"])
def test_a_volume_is_never_stored_in_itself(inside: str, volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        volume.push(sources_of([tmp_path / inside]), "main")

    assert caught.value.code == ("source-in-volume" if inside else "source-holds-volume")
    assert volume.refs() == []


def test_a_file_of_the_volume_is_refused_also_through_a_link(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("volume")

    with pytest.raises(RefusedError):
        volume.push([Source(os.fsencode(tmp_path / "link/secret"), b"secret")], "main")


def test_a_progress_callback_that_pushes_is_told_so_instead_of_waiting_for_itself(volume: Volume, source: Path) -> None:
    def push(progress: Progress) -> None:
        volume.push(sources_of([source]), "other")

    with pytest.raises(UsageError, match="callback"):
        volume.push(sources_of([source]), "main", progress=push)

    assert volume.refs() == []
    assert volume.push(sources_of([source]), "main").changed


def test_a_stream_becomes_one_file(volume: Volume, tmp_path: Path) -> None:
    content = bytes(range(256)) * 3000
    (tmp_path / "dump").write_bytes(content)
    with open(tmp_path / "dump", "rb") as file:
        report = volume.push_stream(file.fileno(), b"db.sql", "dumps")

    assert report.snapshot is not None
    assert stored(volume, report.snapshot) == {"db.sql": content}
    with pytest.raises(UsageError):
        volume.push_stream(0, b"a/b", "dumps")


def test_files_that_did_not_change_are_not_read_again(volume: Volume, source: Path) -> None:
    volume.push(sources_of([rested(source)]), "main")

    with Volume.open(volume.path) as other:
        report = other.push(sources_of([source]), "main")

    assert not report.changed
    assert report.statistics.unchanged_files == 3


def test_the_stat_cache_can_be_lost_or_garbage(volume: Volume, source: Path) -> None:
    volume.push(sources_of([source]), "main")
    for name in os.listdir(Path(volume.path) / "cache"):
        (Path(volume.path) / "cache" / name).write_bytes(b"garbage")

    report = volume.push(sources_of([source]), "main")

    assert not report.changed
    assert report.statistics.new_bytes == 0


def test_after_a_conflict_the_files_need_not_be_read_again(volume: Volume, source: Path) -> None:
    """The stat cache is kept together with the data it points to."""

    def overtake(event: Progress) -> None:
        if event.phase == "committing":
            with Volume.open(volume.path) as other:
                other.push(sources_of([source / "a"]), "main")

    with pytest.raises(ConflictError):
        volume.push(sources_of([source]), "main", progress=overtake)

    assert [name for name in os.listdir(Path(volume.path) / "cache") if name.endswith(".stat")]


def test_the_file_systems_own_clock_says_what_is_too_fresh_to_trust(volume: Volume, source: Path) -> None:
    """On one file system it is asked; else two seconds are assumed."""
    (source / "fresh").write_bytes(b"x")
    sources = sources_of([source])

    asked_ns = clean_before_ns(volume.path, sources, volume.env)
    assumed_ns = clean_before_ns("/proc/nowhere", sources, volume.env)

    touched_ns = (source / "fresh").stat().st_mtime_ns
    assert touched_ns - 20_000_000 <= asked_ns < touched_ns + 10_000_000_000
    assert assumed_ns == START_NS - 2_000_000_000
    assert not [name for name in os.listdir(Path(volume.path) / "cache") if name.startswith("clock")]


def test_the_index_catches_up_in_a_new_process(volume: Volume, source: Path, tmp_path: Path) -> None:
    volume.push(sources_of([source]), "main")
    copy = grown(tmp_path / "copy", on_disk(source))

    with Volume.open(volume.path) as other:
        report = other.push(sources_of([copy]), "copy")

    assert report.statistics.new_bytes == 0
    assert report.snapshot is not None
    assert stored(volume, volume.resolve("copy")) == on_disk(source)


def test_status_counts_what_is_shared_once(volume: Volume, source: Path) -> None:
    empty = volume.status()
    for ref in ("a", "b"):
        volume.push(sources_of([source]), ref)

    status = volume.status()

    assert (empty.snapshots, empty.logical_bytes, empty.stored_bytes, empty.dedup_ratio) == (0, 0, 0, 1.0)
    assert (status.refs, status.snapshots, status.position.seq) == (2, 2, 2)
    assert status.logical_bytes == status.latest_bytes == 2 * 512_005
    assert 0 < status.unique_bytes <= status.stored_bytes <= status.disk_bytes
    assert status.dedup_ratio > 1.9
    assert (status.segments, status.open_segments, status.epoch) == (1, 1, 0)


def test_paths_inside_a_snapshot_are_found_or_said_to_be_missing(volume: Volume, source: Path) -> None:
    snapshot = volume.push(sources_of([source]), "main").snapshot
    assert snapshot is not None

    assert volume.entry(snapshot, b"").kind == "directory"
    assert b"".join(volume.read(volume.entry(snapshot, b"a/hello"))) == b"hello"
    for path, code in ((b"a/nothing", "path-not-found"), (b"a/hello/x", "not-a-directory"), (b"x/y", "path-not-found")):
        with pytest.raises(NotFoundError) as caught:
            volume.entry(snapshot, path)
        assert caught.value.code == code
    with pytest.raises(NotFoundError):
        volume.entries(volume.entry(snapshot, b"a/hello"))
    with pytest.raises(NotFoundError):
        list(volume.read(volume.entry(snapshot, b"a")))
