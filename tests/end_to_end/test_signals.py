"""Ctrl-C and SIGTERM: one is a clean end with exit code 130, two are an end at once, and running it again finishes."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import COMMAND, Remote, Run, Start, remote_environment
from tests.end_to_end.kills import Kills
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * 3600)]

Many = Callable[[int, int], int]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def hears(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the command has begun to listen to both signals; before that the interpreter ends in its own way."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return all(caught >> (number - 1) & 1 for number in SIGNALS)


def until_it_hears(process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None and not hears(process):
        pass


def stopped(kills: Kills, process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send `number` at some instant; the command has then ended well, or as one that was interrupted."""
    until_it_hears(process)
    err = kills.within(process, lambda: process.send_signal(number))
    assert "Traceback" not in err, err
    assert process.returncode in (0, 130), err
    if process.returncode == 130 and err:
        assert "interrupted" in err
        assert "run the same command again" in err


def alternating(kills: Kills) -> Iterator[tuple[int, signal.Signals]]:
    return ((number, SIGNALS[number % 2]) for number in kills)


def leftovers(*places: Path) -> list[str]:
    """Whatever lies under a temporary name."""
    return [
        str(path)
        for place in places
        for path in place.rglob("*")
        if path.suffix == ".new" or path.name.startswith((".packetfs-", "clock.", "mending")) or ".new-" in path.name
    ]


def test_a_push_that_is_stopped_is_finished_by_running_it_again(
    tmp_path: Path, run: Run, start: Start, many: Many
) -> None:
    source, volume = tmp_path / "source", tmp_path / "volume"
    grow(source, 1)
    began = time.monotonic()
    run("push", source, f"{volume}::main")
    kills = Kills(many(4, 200), "push", time.monotonic() - began)
    for seed, number in alternating(kills):
        change(source, seed)

        stopped(kills, start("push", source, f"{volume}::main"), number)

        run("push", source, f"{volume}::main")
        assert leftovers(volume) == []
    run("verify", volume)
    run("pull", f"{volume}::main", tmp_path / "target")
    assert difference(facts(source), facts(tmp_path / "target")) == []


def test_what_a_stopped_push_has_stored_is_not_stored_again(tmp_path: Path, run: Run) -> None:
    """Also what does not fill a segment."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    source.mkdir()
    run("init", volume)
    (source / "a").write_bytes(random.Random(1).randbytes(20 << 20))
    process = subprocess.Popen(
        [COMMAND, "push", "-", "--name", "a", f"{volume}::main"],
        env=remote_environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write((source / "a").read_bytes())
    process.stdin.flush()
    while sum(path.stat().st_blocks * 512 for path in volume.glob("segments/*.data")) < 8 << 20:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()

    assert process.returncode == 130, err
    again = run("push", source, f"{volume}::main", "--json").event("push")
    assert again["new_bytes"] < 14 << 20


def test_a_pull_that_is_stopped_is_finished_by_running_it_again(
    tmp_path: Path, run: Run, start: Start, many: Many
) -> None:
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    grow(source, 2)
    run("push", source, f"{volume}::main")
    began = time.monotonic()
    run("pull", f"{volume}::main", target)
    kills = Kills(many(4, 200), "pull", time.monotonic() - began)
    for seed, number in alternating(kills):
        change(source, seed)
        run("push", source, f"{volume}::main")

        stopped(kills, start("pull", "--delete", f"{volume}::main", target), number)

        run("pull", "--delete", f"{volume}::main", target)
        assert difference(facts(source), facts(target)) == []
        assert leftovers(target) == []


def test_a_verification_that_is_stopped_goes_on_and_a_rebuild_begins_again(
    tmp_path: Path, run: Run, start: Start, many: Many
) -> None:
    source, volume, whole = tmp_path / "source", tmp_path / "volume", tmp_path / "whole"
    grow(source, 3)
    run("push", source, f"{volume}::main")
    shutil.copytree(volume, whole)
    log = run("log", f"{volume}::main").out
    kills = Kills(many(6, 200), "verify", 0.3)
    for seed, number in alternating(kills):
        if seed % 40 == 0:  # a volume can be rebuilt 64 times
            shutil.rmtree(volume)
            shutil.copytree(whole, volume)
        if seed % 4 < 2:
            stopped(kills, start("verify", volume), number)
        else:
            (volume / "journal.db").unlink()
            stopped(kills, start("rebuild", volume), number)
            run("rebuild", volume, code=None)
        run("verify", volume)
        assert run("log", f"{volume}::main").out == log
        assert leftovers(volume) == []


@pytest.mark.parametrize("command", ["push", "pull", "clone"])
def test_work_on_another_machine_that_is_stopped_ends_there_too_and_is_finished_by_running_it_again(
    command: str,
    tmp_path: Path,
    remote: Remote,
    start_remote: Callable[..., "subprocess.Popen[bytes]"],
    run: Run,
    many: Many,
) -> None:
    source, target, replica = tmp_path / "source", tmp_path / "target", tmp_path / "replica"
    grow(source, 4)
    remote("push", source, "far:volume::main", home="pusher")
    arguments: dict[str, tuple[str | Path, ...]] = {
        "push": (source, "far:volume::main"),
        "pull": ("--delete", "far:volume::main", target),
        "clone": ("--full", "far:volume", replica),
    }
    began = time.monotonic()
    remote(command, *arguments[command])
    kills = Kills(many(4, 100), command, time.monotonic() - began)
    for seed, number in alternating(kills):
        change(source, seed)
        if command != "push":
            remote("push", source, "far:volume::main", home="pusher")
        (tmp_path / "far" / "origin.pid").unlink()

        stopped(kills, start_remote(command, *arguments[command]), number)

        assert origin_has_ended(tmp_path / "far" / "origin.pid")
        remote(command, *arguments[command])
        assert leftovers(tmp_path / "far", tmp_path / "near") == []
    if command == "clone":
        run("verify", replica)
        shutil.rmtree(tmp_path / "far" / "volume")
        run("pull", f"{replica}::main", target)
    elif command == "push":
        run("pull", f"{tmp_path}/far/volume::main", target)
    assert difference(facts(source), facts(target)) == []


def origin_has_ended(written: Path) -> bool:
    """The far side is gone, or goes while we watch: the client waits for it, but not for ever."""
    try:
        number = int(written.read_text())
    except (FileNotFoundError, ValueError):
        return True  # it had not begun
    status = Path(f"/proc/{number}/status")
    while True:
        try:
            if "State:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True


@pytest.mark.parametrize("number", SIGNALS)
def test_a_server_that_is_told_to_end_does(number: signal.Signals, tmp_path: Path, start: Start) -> None:
    process = start("serve", "--stdio")
    until_it_hears(process)
    process.send_signal(number)
    out, err = process.communicate()

    assert process.returncode in (0, 130)
    assert b"Traceback" not in err
    assert out == b""


def test_the_second_signal_is_not_waited_for(tmp_path: Path) -> None:
    """The first one cleans up, and that never ends."""
    script = (
        "import sys, threading\n"
        "from packetfs.cli import main, version\n"
        "def hang(*_, **__):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        threading.Event().wait()\n"
        "    finally:\n"
        "        print('cleaning', flush=True)\n"
        "        while True: pass\n"
        "version.version.callback = hang\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "version"],
        env=remote_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == b"cleaning\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()

    assert process.returncode == 130
    assert err == b""
