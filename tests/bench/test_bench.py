"""The tools that judge must be right before their judgement counts: comparison, costs, the undoing of a change."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import measure
from bench.compare import Row, Table, goals
from bench.packages import Package, unpack
from bench.subjects import Find, PacketFS, Restic, Step
from bench.trees import Size, differences, size
from bench.workloads import LargeFiles, SmallFiles


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two trees, equal in everything that is compared."""
    for name in ("left", "right"):
        tree = tmp_path / name
        (tree / "inner").mkdir(parents=True)
        (tree / "inner/file").write_bytes(b"content")
        (tree / "other").hardlink_to(tree / "inner/file")
        (tree / "link").symlink_to("inner/file")
        for path in (tree / "inner/file", tree / "inner", tree):
            os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    return tmp_path / "left", tmp_path / "right"


def test_equal_trees_have_no_differences(pair: tuple[Path, Path]) -> None:
    assert differences(*pair) == []
    assert size(pair[0]) == Size(files=2, bytes=14)


def keep_mtime(path: Path, act: Callable[[], object]) -> None:
    status = path.stat()
    act()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: keep_mtime(t / "other", lambda: (t / "other").write_bytes(b"CONTENT")), "content differs"),
        (lambda t: (t / "other").write_bytes(b"CONTENT"), "content differs"),  # and the time, which some may forget
        (lambda t: (t / "inner").chmod(0o700), "mode differs: /inner"),
        (lambda t: os.utime(t / "inner", ns=(0, 1)), "directory mtime differs: /inner"),
        (lambda t: os.utime(t / "other", ns=(0, 1)), "mtime differs: /other"),
        (lambda t: keep_mtime(t, (t / "new").touch), "not expected: /new"),
        (lambda t: keep_mtime(t, (t / "link").unlink), "missing: /link"),
    ],
)
def test_each_kind_of_difference_is_named(pair: tuple[Path, Path], change: Callable[[Path], object], line: str) -> None:
    left, right = pair

    change(right)

    assert any(found.startswith(line) for found in differences(left, right))


def test_two_files_in_the_place_of_one_with_two_names_are_a_difference(pair: tuple[Path, Path]) -> None:
    left, right = pair

    def separate() -> None:
        (right / "other").unlink()
        (right / "other").write_bytes(b"content")
        os.utime(right / "other", ns=(0, 1_234_567_890_123_456_789))

    keep_mtime(right, separate)

    assert differences(left, right) == ["hard links differ: /inner/file"]


def test_a_command_that_fails_gives_no_figure(tmp_path: Path) -> None:
    with pytest.raises(measure.CommandFailedError, match="exit 3"):
        measure.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, tmp_path)


@pytest.mark.slow
def test_peak_memory_includes_children(tmp_path: Path) -> None:
    allocate = "import time; held = bytearray(64 << 20); time.perf_counter()\nfor _ in range(3_000_000): pass"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {allocate!r}])"]

    cost = measure.run(command, tmp_path, tmp_path)

    assert cost.rss_anon_bytes > 64 << 20
    assert cost.cpu_s > 0


def test_system_calls_are_read_with_and_without_errors() -> None:
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           6       100         2 openat
 40.00    0.000400           2       200           read
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           3       300         2 total
"""

    assert measure.parse_counts(table) == {"openat": 100, "read": 200}


@pytest.mark.slow
def test_a_change_of_large_files_can_be_undone(tmp_path: Path) -> None:
    workload = LargeFiles(mib=8)
    source = workload.prepare(tmp_path)
    before = {path.name: path.read_bytes() for path in source.iterdir()}

    workload.change(source)
    changed = {path.name: path.read_bytes() for path in source.iterdir()}
    workload.restore(source)

    assert all(changed[name] != before[name] for name in before)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_a_change_of_small_files_can_be_undone(tmp_path: Path) -> None:
    for number in range(250):
        (tmp_path / f"{number:03d}").write_bytes(b"%d" % number)
    workload = SmallFiles()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    workload.change(tmp_path)
    changed = {path.name for path in tmp_path.iterdir() if path.read_bytes() != before[path.name]}
    workload.restore(tmp_path)

    assert changed == {"000", "100", "200"}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_lost_goal_is_said() -> None:
    walls = {
        ("packetfs", Step.COLD): 2.0,
        ("restic", Step.COLD): 4.0,
        ("packetfs", Step.UNCHANGED): 1.0,
        ("find -ls", Step.UNCHANGED): 1.0,
    }
    rows = tuple(Row("small files", who, step, 0, wall, 0, 0, 0, 0) for (who, step), wall in walls.items())
    table = Table("small files", "", Size(1, 1), rows, {})

    lines = goals(table, [PacketFS(), Restic(compressed=True), Find()])

    assert lines == [
        "cold: 2.0 x as fast as restic, goal >= 3 x: **LOST**",
        "unchanged: 1.00 x the time of find -ls, goal < 1.5 x: met",
    ]


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("thing", "thing-1.tar.gz", "0" * 64)
    published = tmp_path / "published"
    published.write_bytes(b"something else")
    monkeypatch.setattr("bench.packages.DATA", tmp_path)
    monkeypatch.setattr("bench.packages._address", lambda _: published.as_uri())

    with pytest.raises(SystemExit, match="pinned is 000"):
        unpack(package, tmp_path / "trees")
