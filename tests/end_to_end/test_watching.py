"""`push --watch`: what is saved is pushed, together what is written together, also after the far side was gone."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Remote, Run, Start

Process = subprocess.Popen[bytes]


class Watching:
    """A command that goes on, and what it says."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def next(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names; what comes before it is not looked at."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] in names:
                return event
        assert self.process.stderr is not None
        raise AssertionError(f"it has ended: {self.process.stderr.read().decode()}")


@contextmanager
def watching(process: Process) -> Iterator[Watching]:
    """It, until the end of the test; it must leave in good order."""
    with process:
        try:
            yield Watching(process)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate()
            assert process.returncode == 130, err.decode()
            assert json.loads(out.splitlines()[-1])["code"] == "interrupted"
        finally:
            process.kill()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "deep" / "er" / "file").write_bytes(b"first")
    return top


@pytest.mark.slow
def test_each_change_becomes_a_snapshot_and_what_is_excluded_does_not(
    start: Start, run: Run, source: Path, tmp_path: Path
) -> None:
    location = f"{tmp_path}/volume::main"
    options = ["--watch", "--json", "--exclude", "/build/", "--exclude", "*.o"]
    with watching(start("push", *options, source, location)) as watch:
        assert watch.next("push")["files"] == 1
        (source / "deep" / "er" / "file").write_bytes(b"second")
        assert watch.next("push")["new_bytes"] == 6
        (source / "build").mkdir()
        (source / "build" / "out").write_bytes(b"not this")
        (source / "file.o").write_bytes(b"nor this")
        (source / "new" / "directory").mkdir(parents=True)
        (source / "new" / "directory" / "name").write_bytes(b"third")
        while (event := watch.next("push"))["files"] < 2:
            assert event["files"] == 1  # a directory before what is in it
        (source / "deep").rename(source / "new" / "moved")
        assert watch.next("push")["files"] == 2

    run("pull", location, tmp_path / "target")
    found = {str(path.relative_to(tmp_path / "target")) for path in (tmp_path / "target").rglob("*") if path.is_file()}
    assert found == {"new/directory/name", "new/moved/er/file"}


@pytest.mark.slow
def test_a_change_while_it_begins_is_not_missed(start: Start, run: Run, source: Path, tmp_path: Path) -> None:
    location = f"{tmp_path}/volume::main"
    with watching(start("push", "--watch", "--json", source, location)) as watch:
        watch.next("volume-created")  # from here on everything is heard
        (source / "late").write_bytes(b"late")
        while watch.next("push")["files"] < 2:
            pass

    run("pull", location, tmp_path / "target")
    assert (tmp_path / "target" / "late").read_bytes() == b"late"


@pytest.mark.slow
def test_over_ssh_one_connection_serves_until_it_breaks_and_then_another_one(
    start_remote: Callable[..., Process], remote: Remote, source: Path, tmp_path: Path
) -> None:
    pid = tmp_path / "far" / "origin.pid"
    with watching(start_remote("push", "--watch", "--json", source, "host:volume::main")) as watch:
        watch.next("transfer")
        first = pid.read_text()
        (source / "one").write_bytes(b"one")
        assert watch.next("push")["files"] == 2
        assert watch.next("transfer")["round_trips"] == 1
        assert pid.read_text() == first

        os.kill(int(first), signal.SIGKILL)
        (source / "two").write_bytes(b"two")
        assert "trying again" in watch.next("notice")["message"]
        assert watch.next("push")["files"] == 3
        assert pid.read_text() != first

    remote("pull", "host:volume::main", tmp_path / "target", home="other")
    assert (tmp_path / "target" / "two").read_bytes() == b"two"


@pytest.mark.slow
def test_it_gives_up_after_the_time_it_was_given_and_when_what_it_watches_is_gone(
    start_remote: Callable[..., Process], start: Start, source: Path, tmp_path: Path
) -> None:
    with start_remote("push", "--watch", "--retry", "0.5s", "--json", source, "host:volume::main") as process:
        watch = Watching(process)
        watch.next("push")
        (tmp_path / "ssh").unlink()  # nobody is reached any more
        os.kill(int((tmp_path / "far" / "origin.pid").read_text()), signal.SIGKILL)
        (source / "one").write_bytes(b"one")
        assert watch.next("error")["code"] == "peer-unreachable"
        assert process.wait() == 7

    with start("push", "--watch", "--json", source, f"{tmp_path}/volume::main") as process:
        watch = Watching(process)
        watch.next("push")
        source.rename(tmp_path / "elsewhere")
        assert watch.next("error")["code"] == "source-not-found"
        assert process.wait() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "-"], "--watch goes with directories"),
        (["--watch", "-n", "source"], "--watch goes with directories"),
        (["--watch", "--always", "source"], "--watch goes with directories"),
        (["--watch", "source/deep/er/file"], "is no directory"),
        (["--retry", "3s", "source"], "--retry is for --watch"),
        (["--watch", "--retry", "soon", "source"], "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    run: Run, source: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    said = [str(source.parent / argument) if argument.startswith("source") else argument for argument in arguments]

    assert message in run("push", *said, tmp_path / "volume", code=2).err
    assert not (tmp_path / "volume").exists()
