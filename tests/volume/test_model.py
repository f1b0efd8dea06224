"""A volume against a dictionary: whatever is done in whatever order, killed or not, both say the same."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from packetfs.errors import NotFoundError
from packetfs.format.when import Back
from packetfs.volume import Volume, forget, gc, sources_of
from packetfs.volume.rebuild import rebuild
from packetfs.volume.retention import Rules
from tests.volume.conftest import Tree, on_disk, stored

REFS = st.sampled_from(["main", "other"])
NAMES = st.sampled_from(["a", "b", "d/a", "d/c", "d/e/f", "\udcff"])
# Beginnings of a few long contents, so that files share chunks, and sizes on both sides of one chunk.
CONTENTS = st.builds(
    lambda seed, length: random.Random(seed).randbytes(length),
    st.integers(1, 3),
    st.sampled_from([0, 1, 8191, 40_000, 300_000]),
)

COLLECT = """
import sys
from packetfs import kernel
from packetfs.volume import Volume, gc
with Volume.open(sys.argv[1]) as volume:
    kernel.crash_at(int(sys.argv[2]))
    gc.collect(volume, grace_s=0)
"""
PUSH = """
import sys
from packetfs import kernel
from packetfs.volume import Volume, sources_of
with Volume.open(sys.argv[1]) as volume:
    kernel.crash_at(int(sys.argv[4]))
    volume.push(sources_of([sys.argv[2]]), sys.argv[3])
"""


class VolumeMachine(RuleBasedStateMachine):
    """`refs` is what the volume should hold: for each ref its trees, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="packetfs-model-"))
        self.source = self.directory / "source"
        self.source.mkdir()
        self.path = self.directory / "volume"
        self.volume = Volume.create(self.path)
        self.refs: dict[str, list[Tree]] = {}
        self.killed: list[tuple[str, Tree]] = []
        """Pushes since the last commit that were killed: their entry may be durable, only a rebuild can tell."""

    def teardown(self) -> None:
        self.volume.check_journal()
        for segment, head, _ in self.volume.segments():
            assert self.volume.space.verify(segment, 0, 1 << 30)[1:] == (head, [])
        self.volume.close()
        shutil.rmtree(self.directory)

    @initialize(content=CONTENTS)
    def begin(self, content: bytes) -> None:
        (self.source / "first").write_bytes(content)

    @rule(name=NAMES, content=CONTENTS)
    def write(self, name: str, content: bytes) -> None:
        (self.source / name).parent.mkdir(parents=True, exist_ok=True)
        (self.source / name).write_bytes(content)

    @rule(name=st.sampled_from(["a", "b", "d/a", "d/e", "d"]))
    def remove(self, name: str) -> None:
        path = self.source / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @rule(ref=REFS, always=st.booleans())
    def push(self, ref: str, always: bool) -> None:
        """Metadata count as well, so that a push may move the ref although the contents are the same."""
        report = self.volume.push(sources_of([self.source]), ref, always=always)

        trees = self.refs.setdefault(ref, [])
        if report.changed:
            trees.append(on_disk(self.source))
            self.killed.clear()
        assert report.changed or not always
        assert trees[-1] == on_disk(self.source)
        self.check(ref)

    @rule(ref=REFS)
    def push_dry(self, ref: str) -> None:
        before = self.volume.position

        report = self.volume.push(sources_of([self.source]), ref, dry_run=True)

        assert self.volume.position == before
        assert report.changed or self.refs[ref][-1] == on_disk(self.source)

    @rule(ref=REFS, point=st.integers(1, 12))
    def push_killed(self, ref: str, point: int) -> None:
        """At the n-th sync or rename: the ref has moved or has not, and nothing else has happened."""
        before = self.volume.position
        ended = subprocess.run(
            [sys.executable, "-c", PUSH, self.path, self.source, ref, str(point)], capture_output=True, check=False
        )
        assert ended.returncode in (0, -9), ended.stderr

        if self.volume.position != before:
            assert self.volume.position.seq == before.seq + 1
            self.refs.setdefault(ref, []).append(on_disk(self.source))
            self.killed.clear()
        else:
            self.killed.append((ref, on_disk(self.source)))
        self.check(ref)

    @rule(ref=REFS, data=st.data())
    def forget_some(self, ref: str, data: st.DataObject) -> None:
        """Any but the newest."""
        trees = self.refs.get(ref, [])
        going = data.draw(st.sets(st.integers(0, len(trees) - 2))) if len(trees) > 1 else set()
        if not going:
            return
        seqs = [choice.seq for choice in forget.choose(self.volume, ref, Rules())][::-1]

        forget.forget(self.volume, ref, [seqs[number] for number in going])

        self.refs[ref] = [tree for number, tree in enumerate(trees) if number not in going]
        self.killed.clear()
        self.check(ref)

    @rule(ref=REFS)
    def remove_ref(self, ref: str) -> None:
        if self.refs.pop(ref, None):
            forget.remove(self.volume, ref)
            self.killed.clear()
        self.check(ref)

    @rule()
    def collect(self) -> None:
        """Nothing that is kept is lost, and nothing that is not is left."""
        before = self.volume.position
        done = gc.collect(self.volume, grace_s=0, dry_run=True)
        assert self.volume.position == before

        assert gc.collect(self.volume, grace_s=0).unreached_bytes >= done.unreached_bytes

        if self.volume.position != before:
            self.killed.clear()
        assert gc.collect(self.volume, grace_s=0, dry_run=True).unreached_bytes == 0
        for ref in ("main", "other"):
            self.check(ref)

    @rule(point=st.integers(1, 14))
    def collect_killed(self, point: int) -> None:
        """At the n-th sync or rename; the volume is not open here, or it would be waited for."""
        before = self.volume.position
        self.volume.close()
        ended = subprocess.run([sys.executable, "-c", COLLECT, self.path, str(point)], capture_output=True, check=False)
        assert ended.returncode in (0, -9), ended.stderr
        self.volume = Volume.open(self.path)
        if self.volume.position != before:
            self.killed.clear()
        for ref in ("main", "other"):
            self.check(ref)

    @rule()
    def open_again(self) -> None:
        self.volume.close()
        self.volume = Volume.open(self.path)

    @rule()
    def lose_the_journal(self) -> None:
        self.volume.close()
        os.truncate(self.path / "journal.db", 0)
        rebuild(self.path)
        self.volume = Volume.open(self.path)
        for ref, _ in self.killed:
            if self.count(ref) == len(self.refs.get(ref, [])) + 1:
                assert stored(self.volume, self.volume.resolve(ref)) in [t for r, t in self.killed if r == ref]
                self.refs.setdefault(ref, []).append(stored(self.volume, self.volume.resolve(ref)))
        self.killed.clear()
        for ref in ("main", "other"):
            self.check(ref)

    @rule()
    def lose_what_is_derived(self) -> None:
        self.volume.close()
        shutil.rmtree(self.path / "index", ignore_errors=True)
        shutil.rmtree(self.path / "cache", ignore_errors=True)
        self.volume = Volume.open(self.path)

    def count(self, ref: str) -> int:
        """How many snapshots `ref` has."""
        return sum(name == ref for name, _, _ in self.volume.snapshots())

    def check(self, ref: str) -> None:
        """The newest tree and the oldest, and how many there are."""
        trees = self.refs.get(ref, [])
        if not trees:
            with pytest.raises(NotFoundError):
                self.volume.resolve(ref)
            return
        assert len(list(self.volume.log(ref))) == self.count(ref) == len(trees)
        assert stored(self.volume, self.volume.resolve(ref)) == trees[-1]
        assert stored(self.volume, self.volume.resolve(ref, Back(len(trees) - 1))) == trees[0]


@pytest.mark.slow
def test_a_volume_and_a_dictionary_agree(many: Callable[[int, int], int]) -> None:
    run_state_machine_as_test(
        VolumeMachine,
        # Not shrunk: every step that is tried again costs a process.
        settings=settings(max_examples=many(12, 1000), stateful_step_count=many(15, 40), phases=[Phase.generate]),
    )
