"""Any part of what was not synced may be on the disk after a power cut.

The volume opens and verifies all the same, and what was acknowledged is exact.
"""

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.end_to_end.conftest import COMMAND, environment
from tests.end_to_end.faults import Commands, commands
from tests.end_to_end.recording import Fate, Recording
from tests.end_to_end.trees import Facts, change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Many = Callable[[int, int], int]


@dataclass(frozen=True)
class World:
    """Two pushes that were recorded, and the tree of each."""

    recording: Recording
    acknowledged: int
    """Calls until the end of the first push."""
    trees: tuple[dict[bytes, Facts], dict[bytes, Facts]]
    source: Path
    place: Path
    run: Commands
    numbers: Iterator[int]

    def check(self, until: int, fate: Callable[[int], Fate]) -> None:
        """What must hold of the state that is left."""
        here = self.place / str(next(self.numbers))
        volume, target = here / "volume", self.place / "target"
        self.recording.state(until, fate, here)
        if until >= self.acknowledged:
            self.run("verify", volume)
            self.run("pull", "--delete", f"{volume}::main", target)
            found = facts(target)
            assert found in self.trees, difference(found, self.trees[0])
            if until == len(self.recording.calls):
                assert found == self.trees[1]
        self.run("push", self.source, f"{volume}::main")
        self.run("verify", volume)
        self.run("pull", "--delete", f"{volume}::main", target)
        assert difference(self.trees[1], facts(target)) == []
        shutil.rmtree(here)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as path:
        top = Path(path)
        source, there = top / "source", top / "there"
        there.mkdir()
        grow(source, 4, files=6, large_bytes=1 << 16)
        env = environment(top)
        recording = Recording(there)
        push = (COMMAND, "push", source, f"{there / 'volume'}::main")
        recording.run(top / "trace", *push, env=env)
        acknowledged, old = len(recording.calls), facts(source)
        change(source, 4)
        recording.run(top / "trace", *push, env=env)
        with commands(env) as run:
            yield World(recording, acknowledged, (old, facts(source)), source, top, run, itertools.count())


def test_a_recording_is_what_happened(world: World) -> None:
    """With all its calls done again there is what the commands left."""
    again, there = world.place / "again", world.source.parent / "there"
    world.recording.state(len(world.recording.calls), kept, again)

    def contents(top: Path) -> dict[Path, bytes]:
        return {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    assert contents(again) == contents(there)
    shutil.rmtree(again)


def lost(_: int) -> Fate:
    return "lost"


def length(_: int) -> Fate:
    return "length"


def kept(_: int) -> Fate:
    return "kept"


@pytest.mark.parametrize("fate", [lost, length, kept], ids=["nothing", "lengths and names", "everything"])
def test_at_every_call_the_disk_may_have_of_what_was_not_synced(
    fate: Callable[[int], Fate], world: World, many: Many
) -> None:
    calls = len(world.recording.calls)
    for until in [*range(0, calls, many(12, 1)), calls]:
        world.check(until, fate)


@settings(max_examples=settings().max_examples // 3)  # each is four commands
@given(
    cut=st.integers(0, 1 << 16),
    seed=st.integers(0, 1 << 32),
    weights=st.sampled_from([(1, 1, 1), (8, 1, 1), (1, 8, 4)]),
)
def test_the_disk_may_have_any_part_of_what_was_not_synced(
    world: World, cut: int, seed: int, weights: tuple[int, int, int]
) -> None:
    until = 1 + cut % len(world.recording.calls)
    asked = world.recording.unsynced(until)
    fates: list[Fate] = random.Random(seed).choices(["kept", "lost", "length"], weights, k=len(asked))
    world.check(until, dict(zip(asked, fates, strict=True)).__getitem__)
