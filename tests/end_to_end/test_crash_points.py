"""Crash at every n-th sync, rename and unlink: not at random instants but at all of them."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import crashing
from tests.end_to_end.conftest import Run, environment
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def crash(tmp_path: Path, n: int, *arguments: str | Path) -> bool:
    """Run the command with the n-th point armed; False when it ended before it came to that point."""
    done = subprocess.run(
        [sys.executable, crashing.__file__, str(n), *arguments],
        env=environment(tmp_path),
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def test_a_push_that_dies_at_any_point_is_old_or_new(tmp_path: Path, run: Run) -> None:
    """From a volume that does not exist yet to a second snapshot: verify is clean and the re-run completes."""
    source, before, volume, target = (tmp_path / name for name in ("source", "before", "volume", "target"))
    grow(source, 3, files=12, large_bytes=1 << 20)
    run("push", source, f"{before}::main")
    old = facts(source)
    change(source, 3)
    new = facts(source)
    points = 0
    while True:
        shutil.rmtree(volume, ignore_errors=True)
        shutil.copytree(before, volume)
        shutil.rmtree(target, ignore_errors=True)
        points += 1
        if not crash(tmp_path, points, "push", source, f"{volume}::main"):
            break

        run("verify", volume)
        run("pull", f"{volume}::main", target)
        assert facts(target) in (old, new), difference(new, facts(target))
        run("push", source, f"{volume}::main")
        run("pull", "--delete", f"{volume}::main", target)
        assert difference(new, facts(target)) == []
    assert points > 4, "a push passes more points than that"


def test_a_first_push_that_dies_at_any_point_can_be_run_again(tmp_path: Path, run: Run) -> None:
    """Nothing half-made stands in the way of the re-run."""
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    grow(source, 4, files=12, large_bytes=1 << 20)
    points = 0
    while True:
        shutil.rmtree(volume, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        points += 1
        if not crash(tmp_path, points, "push", source, f"{volume}::main"):
            break

        run("push", source, f"{volume}::main")
        run("verify", volume)
        run("pull", f"{volume}::main", target)
        assert difference(facts(source), facts(target)) == []
    assert points > 6, "a first push passes more points than that"


def test_a_pull_that_dies_at_any_point_leaves_each_file_old_or_new(tmp_path: Path, run: Run) -> None:
    """And nothing under a temporary name after the re-run."""
    source, volume, before, target = (tmp_path / name for name in ("source", "volume", "before", "target"))
    grow(source, 6, files=8, large_bytes=1 << 20)
    run("push", source, f"{volume}::main")
    run("pull", f"{volume}::main", before)
    old = {path: fact.content for path, fact in facts(before).items()}
    change(source, 6)
    run("push", source, f"{volume}::main")
    new = facts(source)
    points = 0
    while True:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(before, target, symlinks=True)
        points += 1
        if not crash(tmp_path, points, "pull", "--delete", f"{volume}::main", target):
            break

        for path, fact in facts(target).items():
            if not path.startswith(b".packetfs-"):
                assert fact.content in {old.get(path), new[path].content if path in new else None}
        run("pull", "--delete", f"{volume}::main", target)
        assert difference(new, facts(target)) == []
    assert points > 4, "a pull passes more points than that"
