"""Space is reclaimed again and again while others push and pull, and are killed: nothing that is kept is ever lost."""

import random
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, Start
from tests.end_to_end.kills import Kills
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def collecting_all_the_while(run: Run, volume: Path, stop: threading.Event, done: list[int]) -> None:
    while not stop.is_set():
        run("forget", "--all", "--keep-last", "2", volume, code=None)
        done.append(run("gc", "--grace", "0", "--json", volume, code=None).code)


def test_two_push_and_one_pulls_while_space_is_reclaimed(
    tmp_path: Path, run: Run, many: Callable[[int, int], int]
) -> None:
    """The same content comes and goes in both, so that each points to what the other has left behind."""
    volume = tmp_path / "volume"
    sources = [tmp_path / "one", tmp_path / "two"]
    for source in sources:
        grow(source, 1, files=25, large_bytes=2 << 20)
        run("push", source, f"{volume}::{source.name}")
    stop, done, failed = threading.Event(), list[int](), list[BaseException]()

    def pushing(source: Path) -> None:
        try:
            for number in range(many(3, 200)):
                change(source, 100 + number % 5)
                run("push", source, f"{volume}::{source.name}")
                target = tmp_path / f"target-{source.name}"
                run("pull", "--delete", f"{volume}::{source.name}", target)
                assert difference(facts(source), facts(target)) == []
        except BaseException as error:  # noqa: BLE001 - the test fails by it
            failed.append(error)

    collector = threading.Thread(target=collecting_all_the_while, args=(run, volume, stop, done))
    pushers = [threading.Thread(target=pushing, args=(source,)) for source in sources]
    for thread in (collector, *pushers):
        thread.start()
    for thread in pushers:
        thread.join()
    stop.set()
    collector.join()

    assert failed == []
    assert set(done) <= {0, 6}
    assert 0 in done
    run("verify", volume)
    assert run("status", "--json", volume).event("status")["reclaimed_bytes"] > 0


def test_kept_snapshots_survive_pushes_and_collections_that_are_killed(
    tmp_path: Path, run: Run, start: Start, many: Callable[[int, int], int]
) -> None:
    """SIGKILL at random instants of both; `verify` finds nothing, and what was pushed last is what is pulled."""
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    grow(source, 2, files=25, large_bytes=2 << 20)
    run("push", source, f"{volume}::main")
    kept = [facts(source)]
    choice = random.Random("reclaim")
    kills = Kills(many(3, 600), "reclaim", 0.5)
    for number in kills:
        change(source, 300 + number % 4)
        kept.append(facts(source))
        processes: list[subprocess.Popen[bytes]] = [start("push", source, f"{volume}::main")]
        if choice.random() < 0.5:
            processes[0].communicate()
        run("forget", "--keep-last", "1", f"{volume}::main", code=None)
        processes.append(start("gc", "--grace", "0", volume))
        for process in choice.sample(processes, len(processes)):
            kills.within(process, lambda process=process: process.send_signal(signal.SIGKILL))  # type: ignore[misc]

        run("verify", volume)
        run("pull", "--delete", f"{volume}::main", target)
        assert facts(target) in kept[-3:]
        run("push", source, f"{volume}::main")
        run("forget", "--keep-last", "1", f"{volume}::main")

    run("gc", "--grace", "0", volume)
    run("verify", volume)
    run("pull", "--delete", f"{volume}::main", target)
    assert difference(facts(source), facts(target)) == []
