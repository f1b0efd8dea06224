"""The power goes at the n-th step that shows, for all n: what was acknowledged is there and exact, the rest old or new.

The process is killed at that instant, then its file system is shut down without its log: what was not synced is lost,
as the file system's own code for that has it. Then it is mounted anew.
"""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.disks import Disk, disk
from tests.end_to_end.faults import Commands, Fault
from tests.end_to_end.trees import Facts, change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Many = Callable[[int, int], int]


@pytest.fixture(params=["ext4", "xfs"])
def there(request: pytest.FixtureRequest, memory: Path) -> Iterator[Disk]:
    with disk(request.param, memory, 320 if request.param == "xfs" else 64) as made:
        yield made


def cuts(there: Disk, run: Commands, many: Many, before: str, *arguments: str | Path) -> Iterator[bool]:
    """Cut the power at each n in turn, from the state `before` on; the last time, when the command had just ended.

    Yields, with the machine up again, whether the command was cut off.
    """
    for n in itertools.count(1, many(4, 1)):
        there.restore(before)
        ended = run(*arguments, fault=Fault(n))
        assert ended.code in (0, -signal.SIGKILL), ended.err
        there.cut_power()
        there.restart()
        yield ended.code != 0
        if ended.code == 0:
            assert n > 4, "it passes more steps than that"
            return


def check(run: Commands, volume: Path, aside: Path, *trees: dict[bytes, Facts]) -> None:
    """The volume is sound, and its ref names one of `trees`, exact."""
    run("verify", volume)
    run("pull", "--delete", f"{volume}::main", aside)
    found = facts(aside)
    assert found in trees, [difference(found, tree) for tree in trees]


def test_a_first_push_whose_power_is_cut_at_any_step_can_be_run_again(
    there: Disk, memory: Path, forked: Commands, many: Many
) -> None:
    source, aside, volume = memory / "source", memory / "aside", there.path / "volume"
    grow(source, 4, files=6, large_bytes=1 << 18)
    there.save("empty")
    push = ("push", source, f"{volume}::main")
    for was_cut in cuts(there, forked, many, "empty", *push):
        if was_cut:
            forked(*push)
        check(forked, volume, aside, facts(source))


def test_a_snapshot_that_was_acknowledged_outlives_a_power_cut_at_any_step_of_the_next_push(
    there: Disk, memory: Path, forked: Commands, many: Many
) -> None:
    source, aside, volume = memory / "source", memory / "aside", there.path / "volume"
    grow(source, 4, files=6, large_bytes=1 << 18)
    push = ("push", source, f"{volume}::main")
    forked(*push)
    there.save("first")
    old = facts(source)
    change(source, 4)
    new = facts(source)
    for was_cut in cuts(there, forked, many, "first", *push):
        check(forked, volume, aside, *((old, new) if was_cut else (new,)))
        forked(*push)
        check(forked, volume, aside, new)


def test_a_pull_whose_power_is_cut_at_any_step_leaves_each_name_old_or_new(
    there: Disk, memory: Path, forked: Commands, many: Many
) -> None:
    source, aside = memory / "source", memory / "aside"
    volume, target = there.path / "volume", there.path / "target"
    grow(source, 4, files=6, large_bytes=1 << 18)
    forked("push", source, f"{volume}::main")
    forked("pull", f"{volume}::main", target)
    old = {path: fact.content for path, fact in facts(target).items()}
    change(source, 4)
    forked("push", source, f"{volume}::main")
    there.save("old")
    new = facts(source)
    pull = ("pull", "--delete", f"{volume}::main", target)
    for was_cut in cuts(there, forked, many, "old", *pull):
        for path, fact in facts(target).items():
            if not path.startswith(b".packetfs-"):
                assert fact.content in {old.get(path), new[path].content if path in new else None}, (was_cut, path)
        forked(*pull)
        assert difference(new, facts(target)) == []
        check(forked, volume, aside, new)


def test_what_was_not_synced_is_lost_in_a_power_cut(there: Disk) -> None:
    """Or the tests above would prove nothing."""
    for name, is_synced in (("synced", True), ("not synced", False)):
        with open(there.path / name, "wb") as file:
            file.write(name.encode())
            if is_synced:
                file.flush()
                os.fsync(file.fileno())

    there.cut_power()
    there.restart()

    assert (there.path / "synced").read_bytes() == b"synced"
    lost = there.path / "not synced"
    assert not lost.exists() or lost.read_bytes() != b"not synced"
