"""What a pull leaves alone, and what it keeps of what it replaces."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import packetfs
from packetfs.events import Change

pytestmark = pytest.mark.slow

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
Tree = dict[str, bytes]
NAMES = ["a", "b", "c.o"]
TREES = st.dictionaries(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), st.binary(max_size=2), max_size=6
)
PATTERNS = st.lists(st.sampled_from(["*.o", "/a", "a/", "b/a", "!c.o", "b/*", "!/a", "a/**/b"]), max_size=3)

PULL = """
import sys
import packetfs
from packetfs import kernel
with packetfs.open(sys.argv[1]) as volume:
    kernel.crash_at(int(sys.argv[4]))
    packetfs.pull(volume, "main", sys.argv[2], delete=True, backup=sys.argv[3])
"""


def plant(directory: Path, tree: Tree) -> Path:
    """Make what has room: a file where another one needs a directory gives way."""
    directory.mkdir(exist_ok=True)
    for name, content in sorted(tree.items()):
        path = directory / name
        if any((directory / above).is_file() for above in Path(name).parents) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def files(directory: Path) -> Tree:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and ".packetfs-" not in str(path)
    }


def excluded(directory: Path, patterns: list[str]) -> Tree:
    """The files that git would ignore, or that lie in a directory that it would."""
    with tempfile.TemporaryDirectory() as repository:
        git = ["git", "--git-dir", repository, "--work-tree", str(directory)]
        subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
        options = [option for line in patterns for option in ("-x", line)]
        listed = subprocess.run(
            [*git, "ls-files", "-o", "-z", *options], capture_output=True, check=True, cwd=directory
        )
    kept = {os.fsdecode(path) for path in listed.stdout.split(b"\0") if path}
    return {path: content for path, content in files(directory).items() if path not in kept}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge")
def test_a_pull_with_delete_touches_nothing_that_is_excluded_and_everything_else(
    many: Callable[[int, int], int],
) -> None:
    @settings(max_examples=many(30, 3000))
    @given(TREES, TREES, PATTERNS)
    @example({"a/a": b""}, {"a": b""}, ["a/"])  # what is excluded as a directory is a file there
    def check(tree: Tree, before: Tree, patterns: list[str]) -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            source, target = plant(Path(directory) / "source", tree), plant(Path(directory) / "target", before)
            spared = excluded(target, patterns)
            stored = {
                path: content for path, content in files(source).items() if path not in excluded(source, patterns)
            }
            with packetfs.create(Path(directory) / "volume") as volume:
                packetfs.push(volume, [source])
                try:
                    packetfs.pull(volume, "main", target, delete=True, exclude=patterns)
                except packetfs.RefusedError:
                    # Only where what is spared stands in the way.
                    assert any(other.startswith(f"{path}/") for path in stored for other in spared)
                    assert excluded(target, patterns) == spared
                    return

            found = files(target)

            in_the_way = {
                path
                for path in stored
                if any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in spared)
            }
            assert found == {path: content for path, content in stored.items() if path not in in_the_way} | spared

    check()


def test_what_a_killed_pull_was_to_replace_or_delete_is_in_its_place_or_in_the_backup(tmp_path: Path) -> None:
    old = {"same": b"s", "changed": b"old", "gone": b"g", "d/gone": b"h", "dir/x": b"x", "file": b"f"}
    new = {"same": b"s", "changed": b"new!", "added": b"a", "d/kept": b"k", "dir": b"now a file", "file/y": b"y"}
    source = plant(tmp_path / "source", new)
    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [source])
    lost = {path: content for path, content in old.items() if new.get(path) != content}
    for crash_at in range(1, 100):
        target, backup = plant(tmp_path / f"target{crash_at}", old), tmp_path / f"backup{crash_at}"
        script = [sys.executable, "-c", PULL, *map(str, (tmp_path / "volume", target, backup))]

        killed = subprocess.run([*script, str(crash_at)], check=False, capture_output=True).returncode != 0

        kept = files(backup) if backup.exists() else {}
        for path, content in lost.items():
            assert files(target).get(path) == content or kept.get(path) == content
        subprocess.run([*script, "0"], check=True)
        assert files(target) == new
        assert files(backup) == old  # `same` has another time
        if not killed:
            break
    assert crash_at > 5


def test_an_older_backup_gives_way_and_directories_are_merged(tmp_path: Path) -> None:
    target, backup = tmp_path / "target", tmp_path / "target" / "old"
    with packetfs.create(tmp_path / "volume") as volume:
        for number, surplus in enumerate(({"d/a": b"1", "d/b": b"1", "x": b"1"}, {"d/b": b"2", "x/y": b"2"})):
            plant(target, surplus)
            packetfs.push(volume, [plant(tmp_path / f"source{number}", {"f": b"new" + bytes([number])})])
            packetfs.pull(volume, "main", target, delete=True, backup=backup)

    assert files(backup) == {"d/a": b"1", "d/b": b"2", "x/y": b"2", "f": b"new\0"}
    assert (target / "f").read_bytes() == b"new\1"


def test_more_deletions_than_allowed_are_none_and_all_in_a_directory_count(tmp_path: Path) -> None:
    source = plant(tmp_path / "source", {"new": b"n"})
    target = plant(tmp_path / "target", {"d/a": b"1", "d/b": b"2"})
    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [source])

        refused = packetfs.pull(volume, "main", target, delete=True, delete_max=2)
        untouched = files(target)
        allowed = packetfs.pull(volume, "main", target, delete=True, delete_max=3)

    assert (refused.not_deleted, refused.deleted, refused.created) == (3, 0, 1)
    assert untouched == {"new": b"n", "d/a": b"1", "d/b": b"2"}
    assert (allowed.not_deleted, allowed.deleted, files(target)) == (0, 1, {"new": b"n"})


def test_by_content_a_file_is_replaced_for_what_it_holds_and_nothing_else(tmp_path: Path) -> None:
    source = plant(tmp_path / "source", {"time": b"t" * 300_000, "rot": b"r" * 300_000, "same": b"s"})
    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [source])
        target = tmp_path / "target"
        packetfs.pull(volume, "main", target)
        numbers = {name: (target / name).stat().st_ino for name in ("time", "rot", "same")}
        rotten = (target / "rot").stat()
        (target / "rot").write_bytes(b"r" * 299_999 + b"x")
        os.utime(target / "rot", ns=(rotten.st_atime_ns, rotten.st_mtime_ns))
        os.utime(target / "time", ns=(1, 1))
        told: list[Change] = []

        by_time = packetfs.pull(volume, "main", target, dry_run=True)
        packetfs.pull(volume, "main", target, checksum=True, report=told.extend)

    assert (by_time.replaced, by_time.unchanged) == (1, 2)
    assert files(target) == files(source)
    assert {change.path: change.letters for change in told} == {b"rot": ">fc........", b"time": ".f..t......"}
    assert (target / "time").stat().st_ino == numbers["time"]
    assert (target / "rot").stat().st_ino != numbers["rot"]


@pytest.mark.parametrize("backup", ["target", "volume", "volume/x", "/proc", "."])
def test_a_backup_that_cannot_be_is_refused_before_anything_happens(tmp_path: Path, backup: str) -> None:
    source, target = plant(tmp_path / "source", {"a": b"new"}), plant(tmp_path / "target", {"a": b"old", "b": b"b"})
    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [source])

        with pytest.raises((packetfs.UsageError, packetfs.RefusedError)):
            packetfs.pull(volume, "main", target, delete=True, backup=tmp_path / backup)

    assert files(target) == {"a": b"old", "b": b"b"}


@pytest.mark.parametrize("place", ["target", "volume"])
def test_a_backup_never_takes_the_place_of_the_target_or_of_the_volume(tmp_path: Path, place: str) -> None:
    """Each has the name of a file that is to go, and lies where that would be moved to."""
    places = {"target": tmp_path / "other/target", "volume": tmp_path / "some/volume"}
    places[place] = tmp_path / "backup" / place
    for path in places.values():
        path.parent.mkdir()
    target = plant(places["target"], {place: b"to be replaced", "kept": b"k", "gone": b"g"})
    before = files(target)
    with packetfs.create(places["volume"]) as volume:
        packetfs.push(volume, [plant(tmp_path / "source", {place: b"new", "kept": b"k"})])

        with pytest.raises(packetfs.UsageError, match="could replace it"):
            packetfs.pull(volume, "main", target, delete=True, backup=tmp_path / "backup")

        assert files(target) == before
        packetfs.pull(volume, "main", tmp_path / "again")
    assert files(tmp_path / "again") == {place: b"new", "kept": b"k"}


def test_a_name_goes_also_where_the_backup_is_a_second_name_of_its_file(tmp_path: Path) -> None:
    """As it is when a pull is killed between the backup and the move: a rename would leave both."""
    target, backup = plant(tmp_path / "target", {"gone": b"g", "d/gone": b"d"}), tmp_path / "backup"
    (backup / "d").mkdir(parents=True)
    for name in ("gone", "d/gone"):
        (backup / name).hardlink_to(target / name)
    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [plant(tmp_path / "source", {"new": b"n"})])

        packetfs.pull(volume, "main", target, delete=True, backup=backup)

    assert files(target) == {"new": b"n"}
    assert files(backup) == {"gone": b"g", "d/gone": b"d"}


def test_a_dry_run_says_nothing_of_a_backup_for_a_target_that_is_not_there(tmp_path: Path) -> None:
    """The directory that stands in for it may be on any file system."""
    (tmp_path / "backup").mkdir()
    with packetfs.create(tmp_path / "volume") as volume:
        packetfs.push(volume, [plant(tmp_path / "source", {"new": b"n"})])

        done = packetfs.pull(volume, "main", tmp_path / "target", dry_run=True, backup=tmp_path / "backup")

    assert (done.created, (tmp_path / "target").exists()) == (1, False)


def alike(directory: Path, content: bytes) -> Path:
    """A tree of files that have one size and one time, as some builds make them."""
    plant(directory, {name: content + name.encode() for name in ("a", "b", "d/c")})
    for path in (*directory.rglob("*"), directory):
        os.utime(path, ns=(1, 1))
    return directory


@pytest.mark.parametrize("ends", ["stopped", "excludes", "single"])
def test_after_a_part_of_another_tree_the_first_one_comes_back_behind_equal_size_and_time(
    tmp_path: Path, ends: str
) -> None:
    target = tmp_path / "target"

    def stop(changes: object) -> None:
        raise KeyboardInterrupt

    with packetfs.create(tmp_path / "volume") as volume:
        for number in range(3):
            packetfs.push(volume, [alike(tmp_path / f"source{number}", b"version %d of " % number)])
        packetfs.pull(volume, "main@~2", target)
        if ends == "stopped":  # after it has shown what there is
            with pytest.raises(KeyboardInterrupt):
                packetfs.pull(volume, "main@~1", target, report=stop)
        elif ends == "excludes":
            packetfs.pull(volume, "main@~1", target, exclude=["b"])
        else:
            packetfs.pull(volume, "main@~1:/a", target)
        assert files(target) != files(tmp_path / "source0")

        packetfs.pull(volume, "main@~2", target)
        assert files(target) == files(tmp_path / "source0")
        packetfs.pull(volume, "main", target)

    assert files(target) == files(tmp_path / "source2")


def test_a_pull_that_was_stopped_goes_on_and_is_remembered(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def stop(changes: object) -> None:
        raise KeyboardInterrupt

    with packetfs.create(tmp_path / "volume") as volume:
        for number in range(2):
            packetfs.push(volume, [alike(tmp_path / f"source{number}", b"version %d of " % number)])
        packetfs.pull(volume, "main@~1", target)
        with pytest.raises(KeyboardInterrupt):
            packetfs.pull(volume, "main", target, report=stop)
        packetfs.pull(volume, "main", target)
        again = packetfs.pull(volume, "main", target)
        packetfs.pull(volume, "main@~1", target)

    assert (again.replaced, again.written_bytes) == (0, 0)
    assert files(target) == files(tmp_path / "source0")
    assert not list((tmp_path / "volume/cache").glob("*.going"))
