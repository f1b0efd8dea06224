"""kill -9 at any instant: what was committed is exact, what was pulled is old or new, and the re-run completes."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, Start
from tests.end_to_end.kills import Kills
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * 3600)]

Many = Callable[[int, int], int]


def test_a_push_killed_at_any_instant_leaves_committed_snapshots_exact(
    tmp_path: Path, run: Run, start: Start, many: Many
) -> None:
    """Half of the kills. After each: verify is clean, the head is a state that was pushed, and the re-run completes."""
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    grow(source, 1)
    began = time.monotonic()
    run("push", source, f"{volume}::main")
    kills = Kills(many(20, 500), "push", time.monotonic() - began)
    committed = facts(source)
    for seed in kills:
        change(source, seed)
        pushed = facts(source)

        process = start("push", source, f"{volume}::main")
        assert "Traceback" not in kills.within(process, process.kill)

        run("verify", volume)
        run("pull", "--delete", f"{volume}::main", target)
        now = facts(target)
        assert now in (committed, pushed), difference(pushed, now)
        run("push", source, f"{volume}::main")
        run("pull", "--delete", f"{volume}::main", target)
        assert difference(pushed, facts(target)) == []
        committed = pushed
    shutil.rmtree(target)


def test_a_pull_killed_at_any_instant_leaves_each_file_old_or_new(
    tmp_path: Path, run: Run, start: Start, many: Many
) -> None:
    """The other half. A name in the target is what it was, or what it was to become; the re-run completes."""
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    grow(source, 2)
    run("push", source, f"{volume}::main")
    began = time.monotonic()
    run("pull", f"{volume}::main", target)
    kills = Kills(many(20, 500), "pull", time.monotonic() - began)
    for seed in kills:
        old = {path: fact.content for path, fact in facts(target).items()}
        change(source, seed)
        run("push", source, f"{volume}::main")
        new = facts(source)

        process = start("pull", "--delete", f"{volume}::main", target)
        assert "Traceback" not in kills.within(process, process.kill)

        for path, fact in facts(target).items():
            if not path.startswith(b".packetfs-"):
                allowed = {old.get(path), new[path].content if path in new else None}
                assert fact.content in allowed, f"{path!r} is neither old nor new"
        run("pull", "--delete", f"{volume}::main", target)
        assert difference(new, facts(target)) == []
