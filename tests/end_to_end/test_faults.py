"""A disk that is full or broken at the n-th step, for every n, until a command comes through untouched.

Whatever fails, a command says so in one clear error, or has lost nothing but a derived file; what was committed is
there and exact; and the same command completes when the fault is gone.
"""

import errno
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end import crashing
from tests.end_to_end.conftest import COMMAND, environment
from tests.end_to_end.faults import Commands, Ended, Fault, commands
from tests.end_to_end.trees import Facts, change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Many = Callable[[int, int], int]

STRIDE = 6  # of n in the short form

FAULTS = [
    pytest.param(errno.ENOSPC, True, id="full"),
    pytest.param(errno.EIO, False, id="broken once"),
    pytest.param(errno.ENOSPC, False, id="full once"),
    pytest.param(errno.EIO, True, id="broken"),
]


def steps(many: Many, number: int, lasting: bool) -> Iterator[int]:
    """Every n; in the short form each kind of fault takes its share of them, so that together they still meet most."""
    kinds = [tuple(kind.values) for kind in FAULTS]
    return itertools.count(1 + many(kinds.index((number, lasting)), 0), many(STRIDE, 1))


def check_told(ended: Ended, number: int) -> None:
    """It ended well, or in an error that a person can do something about."""
    assert ended.code in (0, 7), (ended.met, ended.err, ended.out)
    if ended.code:
        error = ended.error
        expected = {"disk-full", "disk-failed"} if number == errno.ENOSPC else {"disk-failed"}
        # SQLite tells of a file that could not be made, not why.
        assert error["code"] in expected | {"permission-denied", "volume-failed"}, (ended.met, error)
        assert error["hint"], (ended.met, error)


def copied(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, target, symlinks=True)


class Loop:
    """Counts the steps at which a fault was met."""

    def __init__(self) -> None:
        self.met: list[str] = []

    def is_over(self, ended: Ended) -> bool:
        if ended.met is None:
            assert ended.code == 0, ended.err
            return True
        self.met.append(ended.met)
        return False


@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_a_push_loses_nothing_that_was_committed_wherever_its_disk_fails(
    number: int, lasting: bool, memory: Path, forked: Commands, many: Many
) -> None:
    """From a volume that does not exist yet, and from one with a snapshot."""
    source, before, volume, target = (memory / name for name in ("source", "before", "volume", "target"))
    grow(source, 3, files=12, large_bytes=1 << 20)
    old: dict[bytes, Facts] | None = None
    for _ in range(2):
        new, loop = facts(source), Loop()
        for n in steps(many, number, lasting):
            copied(before, volume)
            ended = forked("--json", "push", source, f"{volume}::main", fault=Fault(n, number, lasting))
            if loop.is_over(ended):
                break

            check_told(ended, number)
            shutil.rmtree(target, ignore_errors=True)
            if old is not None or ended.code == 0:
                forked("verify", volume)
                forked("pull", f"{volume}::main", target)
                assert difference(facts(target), new) == [] or (ended.code and facts(target) == old), ended.met
            forked("push", source, f"{volume}::main")
            forked("verify", volume)
            forked("pull", "--delete", f"{volume}::main", target)
            assert difference(new, facts(target)) == []
        assert loop.met
        copied(volume, before)
        old = new
        change(source, 3)


@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_a_pull_leaves_each_name_old_or_new_wherever_its_disk_fails(
    number: int, lasting: bool, memory: Path, forked: Commands, many: Many
) -> None:
    source, volume, before, target = (memory / name for name in ("source", "volume", "before", "target"))
    grow(source, 6, files=8, large_bytes=1 << 20)
    forked("push", source, f"{volume}::main")
    forked("pull", f"{volume}::main", before)
    old = {path: fact.content for path, fact in facts(before).items()}
    change(source, 6)
    forked("push", source, f"{volume}::main")
    new, loop = facts(source), Loop()
    for n in steps(many, number, lasting):
        copied(before, target)
        pull = ("pull", "--delete", f"{volume}::main", target)
        ended = forked("--json", *pull, fault=Fault(n, number, lasting))
        if loop.is_over(ended):
            break

        check_told(ended, number)
        for path, fact in facts(target).items():
            if not path.startswith(b".packetfs-"):
                assert fact.content in {old.get(path), new[path].content if path in new else None}, ended.met
        assert ended.code or difference(new, facts(target)) == [], ended.met
        forked(*pull)
        assert difference(new, facts(target)) == []
    assert loop.met


@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_a_rebuild_can_be_run_again_wherever_its_disk_fails(
    number: int, lasting: bool, memory: Path, forked: Commands, many: Many
) -> None:
    source, before, volume, target = (memory / name for name in ("source", "before", "volume", "target"))
    grow(source, 3, files=12, large_bytes=1 << 10)
    forked("push", source, f"{before}::main")
    (before / "journal.db").write_bytes(b"lost")
    loop = Loop()
    for n in steps(many, number, lasting):
        copied(before, volume)
        ended = forked("--json", "rebuild", volume, fault=Fault(n, number, lasting))
        if loop.is_over(ended):
            break

        check_told(ended, number)
        again = forked("rebuild", volume, code=None)
        assert again.code in (0, 8), "8: there is nothing left to rebuild"
        forked("verify", volume)
        forked("pull", "--delete", f"{volume}::main", target)
        assert difference(facts(source), facts(target)) == []
    assert loop.met


@pytest.mark.parametrize("side", ["near", "far"])
@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_between_machines_nothing_is_lost_wherever_a_disk_fails(
    number: int, lasting: bool, side: str, memory: Path, many: Many
) -> None:
    """A push and a pull, each with a replica that has the snapshot before; the fault is here or at the origin."""
    strides = {"near": 4 * STRIDE, "far": 2 * STRIDE}
    source, volume, before = memory / "source", memory / "volume", memory / "before"
    script = memory / "far-packetfs"
    options: list[str | Path] = ["--remote-packetfs", script, "-e", shell(memory)]
    grow(source, 3, files=12, large_bytes=1 << 20)
    where = {"XDG_DATA_HOME": str(memory / "near"), "MET": str(memory / "met")}
    far = far_command(script)
    with commands(environment(memory) | where) as run:
        far(None)
        run("push", *options, source, f"far:{volume}::main")
        run("pull", *options, f"far:{volume}::main", memory / "target")
        old = facts(source)
        change(source, 3)
        new = facts(source)
        for name in ("near", "volume", "target"):
            copied(memory / name, before / name)
        push: list[str | Path] = ["push", *options, source, f"far:{volume}::main"]
        pull: list[str | Path] = ["pull", "--delete", *options, f"far:{volume}::main", memory / "target"]
        for what in (push, pull):
            met = 0
            for n in itertools.count(1, many(strides[side], 1)):
                for name in ("near", "volume", "target"):
                    copied(before / name, memory / name)
                far(None if side == "near" else Fault(n, number, lasting))
                ended = run("--json", *what, fault=Fault(n, number, lasting) if side == "near" else None, code=None)
                far_met = (memory / "met").exists() and (memory / "met").read_text()
                if not (ended.met or far_met):
                    assert ended.code == 0, ended.out
                    break

                met += 1
                check_told(ended, number)
                far(None)
                run("verify", volume)
                run("pull", f"{volume}::main", memory / "check")
                assert facts(memory / "check") in ((old, new) if ended.code else (new,)), (ended.met, far_met)
                if what == pull and not ended.code:
                    assert difference(new, facts(memory / "target")) == [], (ended.met, far_met)
                run(*what)
                run("verify", volume)
                if what == pull:
                    assert difference(new, facts(memory / "target")) == []
                shutil.rmtree(memory / "check")
            assert met or (what == pull and side == "far"), "an origin writes nothing for a pull"
            for name in ("near", "volume", "target"):
                copied(memory / name, before / name)


def shell(place: Path) -> Path:
    """A command that takes what ssh takes, and runs it here."""
    script = place / "ssh"
    script.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift 2\neval "exec $*"\n')
    script.chmod(0o755)
    return script


def far_command(script: Path) -> Callable[[Fault | None], None]:
    """What answers at the far side, and a way to arm a fault there."""

    def arm(fault: Fault | None) -> None:
        (script.parent / "met").unlink(missing_ok=True)
        command = f"exec {COMMAND}"
        if fault is not None:
            spec = f"{fault.n}:{fault.errno}:{int(fault.lasting)}"
            command = f"exec {sys.executable} {crashing.__file__} {spec}"
        script.write_text(f'#!/bin/sh\n{command} "$@"\n')
        script.chmod(0o755)

    return arm
