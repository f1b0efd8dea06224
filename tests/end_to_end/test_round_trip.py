"""What goes in comes out: the same names, bytes, modes, owners, times and links, seen through the real command."""

import os
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run
from tests.end_to_end.trees import change, difference, facts, grow


def test_a_pulled_tree_equals_the_pushed_one(tmp_path: Path, run: Run) -> None:
    """Into a directory that does not exist yet."""
    grow(tmp_path / "source", 7)

    run("push", tmp_path / "source", f"{tmp_path}/volume::main")
    run("pull", f"{tmp_path}/volume::main", tmp_path / "target")

    assert difference(facts(tmp_path / "source"), facts(tmp_path / "target")) == []


def test_each_snapshot_stays_what_it_was(tmp_path: Path, run: Run) -> None:
    """Five versions; all pull back exactly, the older ones by `@~N`."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    grow(source, 8)
    versions = []
    for seed in range(5):
        change(source, seed)
        versions.append(facts(source))
        run("push", source, f"{volume}::main")

    for age, version in enumerate(reversed(versions)):
        run("pull", "--delete", f"{volume}::main@~{age}", tmp_path / "target")
        assert difference(version, facts(tmp_path / "target")) == []


def test_a_second_push_stores_nothing_and_makes_no_snapshot(tmp_path: Path, run: Run) -> None:
    """Even without the stat cache, which only saves the reading."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    grow(source, 9)
    first = run("push", source, f"{volume}::main", "--json").event("push")

    again = run("push", source, f"{volume}::main", "--json").event("push")

    assert again["new_bytes"] == 0
    assert again["snapshot"] == first["snapshot"]
    assert len([event for event in run("log", f"{volume}::main", "--json").events if event["event"] == "snapshot"]) == 1


def test_a_pull_over_the_previous_version_touches_only_what_changed(tmp_path: Path, run: Run) -> None:
    """An unchanged file keeps its inode and its change time."""
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    grow(source, 10)
    run("push", source, f"{volume}::main")
    run("pull", f"{volume}::main", target)
    kept = os.stat(target / "d1" / "script")
    change(source, 10)
    run("push", source, f"{volume}::main")

    run("pull", "--delete", f"{volume}::main", target)

    assert difference(facts(source), facts(target)) == []
    now = os.stat(target / "d1" / "script")
    assert (now.st_ino, now.st_ctime_ns) == (kept.st_ino, kept.st_ctime_ns)


def test_a_tree_deeper_than_a_path_may_be_long_survives(tmp_path: Path, run: Run) -> None:
    """300 directories of 20 bytes: the path has 6,300 bytes, PATH_MAX is 4,096."""
    top = tmp_path / "source"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for level in range(300):
        name = f"directory-number-{level:03}"
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
        file.write(b"at the bottom")
    os.close(descriptor)

    run("push", top, f"{tmp_path}/volume::main")
    run("pull", f"{tmp_path}/volume::main", tmp_path / "target")

    assert difference(facts(top), facts(tmp_path / "target")) == []


@pytest.mark.slow
def test_a_directory_of_100_000_entries_survives(tmp_path: Path, run: Run) -> None:
    """And one more file among them costs one page, not four hundred."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    source.mkdir()
    for number in range(100_000):
        os.close(os.open(source / f"{number:x}", os.O_CREAT | os.O_WRONLY))
    run("push", source, f"{volume}::main")
    (source / "one more").write_bytes(b"")

    report = run("push", source, f"{volume}::main", "--json").event("push")

    assert report["page_bytes"] < 64 << 10
    run("pull", f"{volume}::main", tmp_path / "target")
    assert difference(facts(source), facts(tmp_path / "target")) == []


def test_a_stream_is_stored_and_read_back(tmp_path: Path, run: Run) -> None:
    """`push -` and `cat` are each other's inverse."""
    stream = os.urandom(5_000_000)

    run("push", "-", f"{tmp_path}/volume::dump", "--name", "db.sql", stdin=stream)

    assert run("cat", f"{tmp_path}/volume::dump:/db.sql").out == stream


def test_a_source_that_is_not_there_is_told_with_what_to_do(tmp_path: Path, run: Run) -> None:
    error = run("push", tmp_path / "missing", f"{tmp_path}/volume::main", "--json", code=1).event("error")

    assert error["code"] == "source-not-found"
    assert error["hint"]
    assert not (tmp_path / "volume").exists()
