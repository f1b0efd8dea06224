"""What a push selects: git is the judge of patterns, and a push without a stat cache of one with."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packetfs.errors import UsageError
from packetfs.volume import Selection, Snapshot, Volume, sources_of
from tests.volume.conftest import Tree, grown, rested, stored

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
FILTER = ".pick"
NAMES = ["a", "b", "ab", "a.o", "é", "à", "a ", os.fsdecode(b"\xff"), "{a,b}", "[a]", "#a#", "!a", "x y", "-"]
PARTS = [
    "a",
    "b",
    ".o",
    "*",
    "**",
    "?",
    "/",
    "[ab]",
    "[!a]",
    "[^[:alpha:]]",
    "[a-é]",
    "\\*",
    "é",
    "à",
    os.fsdecode(b"\xff"),
]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
LINES = st.lists(st.sampled_from([*PARTS, "{a,b}", "#", "!", " ", "\\ ", "]", "-"]), min_size=1, max_size=5).map(
    "".join
)
DIRECTORIES = st.one_of(st.just(""), st.sampled_from(["a", "b", "a/b", "a/a"]))
FILTERS = st.dictionaries(DIRECTORIES, st.lists(LINES, max_size=3), max_size=2)


def push(volume: Volume, source: Path, selection: Selection, *, ref: str = "main", checksum: bool = False) -> Snapshot:
    snapshot = volume.push(sources_of([source]), ref, selection=selection, checksum=checksum).snapshot
    assert snapshot is not None
    return snapshot


def files(tree: Tree) -> set[str]:
    return {path for path, content in tree.items() if content is not None}


def plant(source: Path, paths: Sequence[str], filters: dict[str, list[str]]) -> None:
    """Make files and filter files where nothing is in the way."""
    for path in paths:
        if all(not (source / above).is_file() for above in Path(path).parents) and not (source / path).exists():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(os.fsencode(path))
    for directory, lines in filters.items():
        if (source / directory).is_dir():
            (source / directory / FILTER).write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))


def judged(source: Path, exclude: Sequence[str], *, filter_file: bool) -> set[str]:
    """The files that git would not ignore."""
    with tempfile.TemporaryDirectory() as repository:
        git = ["git", "--git-dir", repository, "--work-tree", str(source)]
        subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
        options = [option for line in exclude for option in ("-x", line)]
        options += ["--exclude-per-directory", FILTER] if filter_file else []
        listed = subprocess.run(
            [*git, "ls-files", "--others", "-z", *options], capture_output=True, check=True, cwd=source
        )
    return {os.fsdecode(path) for path in listed.stdout.split(b"\0") if path}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge")
def test_patterns_and_filter_files_mean_what_they_mean_to_git_whatever_changed(many: Callable[[int, int], int]) -> None:
    @settings(max_examples=many(60, 3000))
    @given(
        steps=st.lists(st.tuples(st.lists(PATHS, max_size=6), FILTERS, st.booleans()), min_size=1, max_size=3),
        exclude=st.lists(LINES, max_size=4),
        filter_file=st.booleans(),
    )
    def check(steps: list[tuple[list[str], dict[str, list[str]], bool]], exclude: list[str], filter_file: bool) -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            source = Path(directory) / "source"
            source.mkdir()
            selection = Selection(exclude=exclude, filter_file=FILTER if filter_file else None)
            with Volume.create(Path(directory) / "volume") as volume:
                for paths, filters, removes in steps:
                    if removes:
                        for name in sorted(os.listdir(source))[::2]:
                            shutil.rmtree(source / name) if (source / name).is_dir() else (source / name).unlink()
                    plant(source, paths, filters)
                    rested(source)
                    try:
                        cached = push(volume, source, selection)
                    except UsageError:
                        return  # git takes it for a pattern that matches nothing
                    fresh = push(volume, source, selection, ref="fresh", checksum=True)

                    found = {path for path in files(stored(volume, cached)) if not is_filter(path)}
                    expected = {
                        path for path in judged(source, exclude, filter_file=filter_file) if not is_filter(path)
                    }
                    assert found == expected
                    assert cached.root_digest == fresh.root_digest

    def is_filter(path: str) -> bool:
        return path == FILTER or path.endswith(f"/{FILTER}")

    check()


def names(volume: Volume, snapshot: Snapshot) -> list[str]:
    return list(stored(volume, snapshot))


def test_the_command_line_has_the_last_word_over_filter_files_and_the_nearest_file_over_others(
    volume: Volume, tmp_path: Path
) -> None:
    tree: Tree = {
        FILTER: b"*.log\n*.tmp\n",
        "d/" + FILTER: b"!keep.tmp\n",
        "d/keep.tmp": b"1",
        "d/x.tmp": b"2",
        "y.log": b"3",
    }
    source = grown(tmp_path / "source", tree)

    snapshot = push(volume, source, Selection(exclude=["!*.log"], filter_file=FILTER))

    assert names(volume, snapshot) == [FILTER, "d", f"d/{FILTER}", "d/keep.tmp", "y.log"]


def test_a_changed_filter_file_counts_for_what_has_not_changed_beneath_it(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "source", {FILTER: b"*.o\n", "d/e/a.o": b"1", "d/e/a.c": b"2"})
    selection = Selection(filter_file=FILTER)
    push(volume, rested(source), selection)
    (source / FILTER).write_bytes(b"*.c\n")
    changed = push(volume, rested(source), selection)
    (source / FILTER).unlink()

    removed = push(volume, rested(source), selection)

    assert names(volume, changed) == [FILTER, "d", "d/e", "d/e/a.o"]
    assert names(volume, removed) == ["d", "d/e", "d/e/a.c", "d/e/a.o"]


def test_a_filter_file_is_stored_whatever_patterns_say(volume: Volume, tmp_path: Path) -> None:
    """A push must see that it has changed; what decides what is stored is stored."""
    source = grown(tmp_path / "source", {FILTER: b".*\nx\n", "x": b"1"})

    snapshot = push(volume, source, Selection(exclude=["*"], filter_file=FILTER, size_max=1))

    assert names(volume, snapshot) == [FILTER]


def test_of_a_cache_only_its_tag_is_stored_as_long_as_it_is_valid(volume: Volume, tmp_path: Path) -> None:
    tag = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n"
    source = grown(
        tmp_path / "source", {"c/CACHEDIR.TAG": tag, "c/d/e": b"1", "c/f": b"2", "n/CACHEDIR.TAG": b"no", "n/g": b"3"}
    )
    selection = Selection(exclude_caches=True)
    valid = push(volume, rested(source), selection)
    (source / "c/CACHEDIR.TAG").write_bytes(b"x" * len(tag))

    invalid = push(volume, rested(source), selection)

    assert names(volume, valid) == ["c", "c/CACHEDIR.TAG", "n", "n/CACHEDIR.TAG", "n/g"]
    assert names(volume, invalid) == ["c", "c/CACHEDIR.TAG", "c/d", "c/d/e", "c/f", "n", "n/CACHEDIR.TAG", "n/g"]


def test_a_file_that_shrinks_or_grows_over_the_limit_comes_and_goes(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "source", {"d/large": b"12345", "d/small": b"123"})
    selection = Selection(size_max=4)
    first = push(volume, rested(source), selection)
    os.truncate(source / "d/large", 4)
    os.truncate(source / "d/small", 5)

    second = push(volume, rested(source), selection)

    assert (names(volume, first), names(volume, second)) == (["d", "d/small"], ["d", "d/large"])


def test_a_list_brings_directories_on_the_way_and_all_that_is_in_what_it_names(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "source", {"a/b/c": b"1", "a/b/d": b"2", "a/e": b"3", "f/g": b"4", "h": b"5"})
    selection = Selection(names=["a/b/c", "/f/", "./gone/x", "h/x"])

    report = volume.push(sources_of([source]), "main", selection=selection)

    assert report.snapshot is not None
    assert names(volume, report.snapshot) == ["a", "a/b", "a/b/c", "f", "f/g"]
    assert [(problem.path, problem.kind) for problem in report.problems] == [(b"gone", "missing"), (b"h", "missing")]


def test_patterns_are_relative_to_each_source(volume: Volume, tmp_path: Path) -> None:
    sources = [grown(tmp_path / name, {"x": b"1", "d/x": b"2"}) for name in ("one", "two")]

    report = volume.push(sources_of(sources), "main", selection=Selection(exclude=["/x"]))

    assert report.snapshot is not None
    assert names(volume, report.snapshot) == ["one", "one/d", "one/d/x", "two", "two/d", "two/d/x"]
    assert report.excluded == 2


def test_an_excluded_directory_is_not_opened(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "source", {"kept/a": b"1", "left/a": b"2"})
    for name in ("kept", "left"):
        os.utime(
            source / name, ns=(1, 2)
        )  # read before it was written: the next listing is noted, however it is mounted
    before = {name: (source / name).stat().st_atime_ns for name in ("kept", "left")}

    push(volume, source, Selection(exclude=["left/"]))

    after = {name: (source / name).stat().st_atime_ns for name in ("kept", "left")}
    if after["kept"] == before["kept"]:
        pytest.skip("this file system does not note when a directory is read")
    assert after["left"] == before["left"]


def test_names_of_one_file_stay_one_file_where_one_of_them_is_left_out(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "source", {"a": b"1", "d/z": b"2"})
    for name in ("b.o", "c", "d/e"):
        os.link(source / "a", source / name)
    selection = Selection(exclude=["*.o", "/a"])
    first = push(volume, rested(source), selection)
    (source / "d/z").write_bytes(b"3")

    second = push(volume, rested(source), selection)

    for snapshot in (first, second):
        links = {name: volume.entry(snapshot, name).link_id for name in (b"c", b"d/e")}
        assert links[b"c"] == links[b"d/e"] != 0


def test_with_checksum_a_change_behind_an_unchanged_time_is_seen(volume: Volume, tmp_path: Path) -> None:
    """As a disk that loses bits, or a program that sets the time back and the clock with it."""
    source = grown(tmp_path / "source", {"a": b"one"})
    before = volume.push(sources_of([rested(source)]), "main")

    read = volume.push(sources_of([source]), "main", checksum=True)

    assert (before.statistics.unchanged_files, read.statistics.unchanged_files, read.changed) == (0, 0, False)
    assert volume.push(sources_of([source]), "main").statistics.unchanged_files == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_point_is_stored_empty(volume: Volume, tmp_path: Path) -> None:
    source = grown(tmp_path / "source", {"a/b": b"1", "mounted/under": b"2"})
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "mounted"], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    try:
        (source / "mounted" / "over").write_bytes(b"3")
        snapshot = push(volume, source, Selection(one_file_system=True))
        everything = push(volume, source, Selection())
    finally:
        subprocess.run(["umount", source / "mounted"], check=True)

    assert names(volume, snapshot) == ["a", "a/b", "mounted"]
    assert names(volume, everything) == ["a", "a/b", "mounted", "mounted/over"]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(exclude=["[a"]),
        Selection(exclude="*.o"),  # a list is meant
        Selection(filter_file="a/b"),
        Selection(names=["../x"]),
        Selection(size_max=-1),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    volume: Volume, source: Path, selection: Selection
) -> None:
    with pytest.raises(UsageError):
        volume.push(sources_of([source]), "main", selection=selection)

    assert volume.refs() == []
