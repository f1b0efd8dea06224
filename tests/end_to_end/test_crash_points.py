"""Crash at every n-th sync, rename and removal, SQLite's included: not at random instants but at all of them."""

import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from packetfs.errors import NotFoundError
from packetfs.sync import scrub
from packetfs.volume import Volume, forget, gc, sources_of
from tests.end_to_end.faults import Commands, Fault
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def crash(run: Commands, n: int, *arguments: str | Path) -> bool:
    """Run the command with the n-th point armed; False when it ended before it came to that point."""
    ended = run(*arguments, fault=Fault(n))
    assert ended.code in (0, -signal.SIGKILL), ended.err
    return ended.code != 0


def test_a_push_that_dies_at_any_point_is_old_or_new(memory: Path, forked: Commands) -> None:
    """From a volume that does not exist yet to a second snapshot: verify is clean and the re-run completes."""
    source, before, volume, target = (memory / name for name in ("source", "before", "volume", "target"))
    grow(source, 3, files=12, large_bytes=1 << 20)
    forked("push", source, f"{before}::main")
    old = facts(source)
    change(source, 3)
    new = facts(source)
    points = 0
    while True:
        shutil.rmtree(volume, ignore_errors=True)
        shutil.copytree(before, volume)
        shutil.rmtree(target, ignore_errors=True)
        points += 1
        if not crash(forked, points, "push", source, f"{volume}::main"):
            break

        forked("verify", volume)
        forked("pull", f"{volume}::main", target)
        assert facts(target) in (old, new), difference(new, facts(target))
        forked("push", source, f"{volume}::main")
        forked("pull", "--delete", f"{volume}::main", target)
        assert difference(new, facts(target)) == []
    assert points > 4, "a push passes more points than that"


def test_a_first_push_that_dies_at_any_point_can_be_run_again(memory: Path, forked: Commands) -> None:
    """Nothing half-made stands in the way of the re-run."""
    source, volume, target = memory / "source", memory / "volume", memory / "target"
    grow(source, 4, files=12, large_bytes=1 << 20)
    points = 0
    while True:
        shutil.rmtree(volume, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        points += 1
        if not crash(forked, points, "push", source, f"{volume}::main"):
            break

        forked("push", source, f"{volume}::main")
        forked("verify", volume)
        forked("pull", f"{volume}::main", target)
        assert difference(facts(source), facts(target)) == []
    assert points > 6, "a first push passes more points than that"


def test_a_pull_that_dies_at_any_point_leaves_each_file_old_or_new(memory: Path, forked: Commands) -> None:
    """And nothing under a temporary name after the re-run."""
    source, volume, before, target = (memory / name for name in ("source", "volume", "before", "target"))
    grow(source, 6, files=8, large_bytes=1 << 20)
    forked("push", source, f"{volume}::main")
    forked("pull", f"{volume}::main", before)
    old = {path: fact.content for path, fact in facts(before).items()}
    change(source, 6)
    forked("push", source, f"{volume}::main")
    new = facts(source)
    points = 0
    while True:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(before, target, symlinks=True)
        points += 1
        if not crash(forked, points, "pull", "--delete", f"{volume}::main", target):
            break

        for path, fact in facts(target).items():
            if not path.startswith(b".packetfs-"):
                assert fact.content in {old.get(path), new[path].content if path in new else None}
        forked("pull", "--delete", f"{volume}::main", target)
        assert difference(new, facts(target)) == []
    assert points > 4, "a pull passes more points than that"


def read_back(volume: Volume, ref: str) -> dict[bytes, bytes]:
    """Every file of a snapshot, verified, and where its links lead."""
    found: dict[bytes, bytes] = {}
    waiting = [(b"", volume.root(volume.resolve(ref)))]
    while waiting:
        path, entry = waiting.pop()
        if entry.page is not None:
            waiting += [(path + b"/" + inner.name, inner) for inner in volume.entries(entry)]
        else:
            found[path] = b"".join(volume.read(entry)) if entry.kind == "file" else entry.target
    return found


def test_forgetting_and_reclaiming_that_die_at_any_point_lose_nothing_that_is_kept(
    memory: Path, forked: Commands
) -> None:
    """What was kept is whole, running it again completes, and nothing is left in the end."""
    source, before, volume = (memory / name for name in ("source", "before", "volume"))
    grow(source, 5, files=8, large_bytes=300_000)
    with Volume.create(before) as made:
        for seed in (5, 6, 7):
            for ref in ("main", "side"):
                made.push(sources_of([source]), ref, always=True)
            change(source, seed)
        made.push(sources_of([source]), "main")
        kept = read_back(made, "main")
    commands: list[tuple[tuple[str, ...], Callable[[Volume], object]]] = [
        (("forget", "--keep-last", "2", "{}::main"), lambda opened: None),
        (("rm", "{}::side"), lambda opened: forget.remove(opened, "side")),
        (("gc", "--grace", "0", "{}"), lambda opened: gc.collect(opened, grace_s=0)),
    ]
    points = []
    for command, again in commands:
        there = [word.format(volume) for word in command]
        count = 0
        while True:
            shutil.rmtree(volume, ignore_errors=True)
            shutil.copytree(before, volume)
            count += 1
            if not crash(forked, count, *there):
                break

            with Volume.open(volume) as opened:
                assert scrub.verify(opened).sound
                assert read_back(opened, "main") == kept
                opened.push(sources_of([source]), "again", always=True)
                with suppress(NotFoundError):  # a ref that is gone already
                    again(opened)
                gc.collect(opened, grace_s=0)
                assert scrub.verify(opened).sound
                assert gc.collect(opened, grace_s=0, dry_run=True).unreached_bytes == 0
                assert read_back(opened, "main") == kept == read_back(opened, "again")
        points.append(count)
        shutil.rmtree(before)
        shutil.copytree(volume, before)
    assert min(points) > 3, "each passes more points than that"
