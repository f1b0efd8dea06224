"""The real command against the real command at the other end of a pipe that stands in for ssh."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Remote, Run
from tests.end_to_end.kills import Kills
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = pytest.mark.slow

Many = Callable[[int, int], int]


def test_everyday_work_on_a_volume_that_is_on_another_machine(tmp_path: Path, remote: Remote, run: Run) -> None:
    source = tmp_path / "source"
    grow(source, 1)

    first = remote("push", source, "far:volumes/main volume::main", "--json", home="none", code=None)
    assert first.code == 1  # there is no directory `volumes` there
    (tmp_path / "far" / "volumes").mkdir()
    remote("push", source, "far:volumes/main volume::main")
    again = remote("push", source, "far:volumes/main volume::main", "--json")
    change(source, 1)
    changed = remote("push", source, "far:volumes/main volume::main", "--json")
    remote("pull", "far:volumes/main volume::main", tmp_path / "target", home="other")
    listed = remote("ls", "-R", "far:volumes/main volume::main@~1")
    log = remote("log", "far:volumes/main volume::main", "--json")
    diff = remote("diff", "far:volumes/main volume::main@~1", "far:volumes/main volume::main", "--json")
    cat = remote("cat", "far:volumes/main volume::main:/large", home="third")
    status = remote("status", "far:volumes/main volume", "--json")
    refs = remote("refs", "far:volumes/main volume", "--json")
    streamed = remote("push", "-", "--name", "x", "far:volumes/main volume::stream", "--json", stdin=b"x" * 100_000)

    assert again.event("push")["created"] is False
    assert again.event("transfer")["sent_bytes"] + again.event("transfer")["received_bytes"] < 1000
    assert changed.event("transfer")["literal_bytes"] > 0
    assert difference(facts(source), facts(tmp_path / "target")) == []
    assert b"large\n" in listed.out
    assert len(log.events) == 2
    assert {event["change"] for event in diff.events if event["event"] == "difference"} >= {"added", "changed"}
    assert cat.out == (source / "large").read_bytes()
    assert status.event("status")["snapshots"] == 2
    assert refs.event("ref")["ref"] == "main"
    assert streamed.event("push")["created"] is True
    run("verify", tmp_path / "far" / "volumes" / "main volume")


def test_a_whole_clone_is_read_without_its_origin(tmp_path: Path, remote: Remote, run: Run) -> None:
    source = tmp_path / "source"
    grow(source, 2)
    remote("push", source, "far:volume::main")
    before = facts(source)
    change(source, 2)
    remote("push", source, "far:volume::main")

    remote("clone", "--full", "far:volume", tmp_path / "clone")
    shutil.rmtree(tmp_path / "far" / "volume")
    run("pull", f"{tmp_path}/clone::main", tmp_path / "new")
    run("pull", f"{tmp_path}/clone::main@~1", tmp_path / "old")

    assert difference(facts(source), facts(tmp_path / "new")) == []
    assert difference(before, facts(tmp_path / "old")) == []
    assert len(run("log", f"{tmp_path}/clone::main", "--json").events) == 2
    for command in (["rm", f"{tmp_path}/clone::main"], ["gc", tmp_path / "clone"]):
        assert run(*command, "--json", code=8).event("error")["code"] == "not-origin"


def test_a_clone_that_is_not_whole_asks_its_origin(tmp_path: Path, remote: Remote) -> None:
    source = tmp_path / "source"
    grow(source, 3)
    remote("push", source, "far:volume::main")

    cloned = remote("clone", "far:volume", tmp_path / "clone", "--json")
    remote("pull", f"{tmp_path}/clone::main", tmp_path / "target")
    change(source, 3)
    remote("push", source, f"{tmp_path}/clone::main")
    remote("pull", "far:volume::main", tmp_path / "again", home="other")

    assert cloned.event("clone")["received_bytes"] < 50_000  # the trees, and no content
    assert difference(facts(source), facts(tmp_path / "again")) == []


def test_what_is_wrong_is_said_with_what_to_do(tmp_path: Path, remote: Remote, ssh: Path, run: Run) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x")

    missing = run("push", source, "far:v::main", "-e", str(ssh), "--remote-packetfs", "/no/packetfs", code=7)
    unreachable = run("pull", "far:v::main", tmp_path / "t", "-e", "/bin/false", code=7)
    nothing = remote("pull", "far:v::main", tmp_path / "t", code=1)
    later = run("push", source, "pfs://far/v:main", code=2)

    assert "--remote-packetfs" in missing.err or "packetfs" in missing.err
    assert unreachable.err
    assert "no volume" in nothing.err
    assert "ssh" in later.err


def kill_origin(tmp_path: Path) -> None:
    """SIGKILL the far side, if it has begun and not ended."""
    try:
        os.kill(int((tmp_path / "far" / "origin.pid").read_text()), signal.SIGKILL)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        pass


@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("victim", ["client", "origin"])
def test_a_push_killed_on_either_side_leaves_the_origin_old_or_new_and_is_finished_by_running_it_again(
    victim: str,
    tmp_path: Path,
    remote: Remote,
    start_remote: Callable[..., subprocess.Popen[bytes]],
    run: Run,
    many: Many,
) -> None:
    source, volume, target = tmp_path / "source", tmp_path / "far" / "volume", tmp_path / "target"
    grow(source, 4)
    began = time.monotonic()
    remote("push", source, "far:volume::main")
    kills = Kills(many(10, 250), victim, time.monotonic() - began)
    committed = facts(source)
    for seed in kills:
        change(source, seed)
        pushed = facts(source)

        process = start_remote("push", source, "far:volume::main")
        kill = process.kill if victim == "client" else partial(kill_origin, tmp_path)
        assert "Traceback" not in kills.within(process, kill)

        run("verify", volume)
        run("pull", "--delete", f"{volume}::main", target)
        assert facts(target) in (committed, pushed), difference(pushed, facts(target))
        remote("push", source, "far:volume::main")
        run("pull", "--delete", f"{volume}::main", target)
        assert difference(pushed, facts(target)) == []
        committed = pushed


@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("victim", ["client", "origin"])
def test_a_pull_killed_on_either_side_is_finished_by_running_it_again(
    victim: str,
    tmp_path: Path,
    remote: Remote,
    start_remote: Callable[..., subprocess.Popen[bytes]],
    run: Run,
    many: Many,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    grow(source, 5)
    remote("push", source, "far:volume::main", home="pusher")
    began = time.monotonic()
    remote("pull", "far:volume::main", target)
    kills = Kills(many(10, 250), victim, time.monotonic() - began)
    for seed in kills:
        old = {path: fact.content for path, fact in facts(target).items()}
        change(source, seed)
        remote("push", source, "far:volume::main", home="pusher")
        new = facts(source)

        process = start_remote("pull", "--delete", "far:volume::main", target)
        kill = process.kill if victim == "client" else partial(kill_origin, tmp_path)
        assert "Traceback" not in kills.within(process, kill)

        for path, fact in facts(target).items():
            if not path.startswith(b".packetfs-"):
                assert fact.content in {old.get(path), new[path].content if path in new else None}
        remote("pull", "--delete", "far:volume::main", target)
        assert difference(new, facts(target)) == []
    run("verify", tmp_path / "far" / "volume")


def test_a_push_that_was_killed_sends_only_the_rest_when_it_is_run_again(
    tmp_path: Path, remote: Remote, start_remote: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Two segments arrive, the third does not; the origin keeps what it has."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "noise").write_bytes(random.Random(9).randbytes(200 << 20))
    process = start_remote("push", source, "far:volume::main")
    segments = tmp_path / "far" / "volume" / "segments"
    while sum(path.stat().st_blocks * 512 for path in segments.glob("*.data")) < 130 << 20:
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()

    again = remote("push", source, "far:volume::main", "--json")

    assert again.event("transfer")["sent_bytes"] < 110 << 20
