"""The real command, run as a user runs it: a process of its own, the installed entry point."""

import json
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.faults import Commands, commands

if TYPE_CHECKING:
    from tests.end_to_end.served import Served

COMMAND = Path(sysconfig.get_path("scripts")) / "packetfs"


def environment(home: Path) -> dict[str, str]:
    """Nothing of the developer's own settings reaches a test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PACKETFS_", "XDG_"))}
    return kept | {"HOME": str(home), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}


class Result:
    """A finished command: exit code, both streams, and the events of `--json`."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr.decode("utf-8", "replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Objects printed on stdout, in order."""
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        """The one event of that name."""
        (found,) = (event for event in self.events if event["event"] == name)
        return found


Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]
Remote = Callable[..., Result]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the command and leave it running."""

    def begin(*arguments: str | bytes | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [COMMAND, *arguments], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return begin


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command to its end; unless `code` says otherwise it must succeed."""

    def finish(*arguments: str | bytes | Path, code: int | None = 0, stdin: bytes = b"") -> Result:
        done = subprocess.run(
            [COMMAND, *arguments], env=environment(tmp_path), input=stdin, capture_output=True, check=False
        )
        result = Result(done)
        assert "Traceback" not in result.err, result.err
        if code is not None:
            assert result.code == code, f"exit {result.code}: {result.err}"
        return result

    return finish


# What sshd does with a command line, and a place to leave the number of the process, so that a test can kill it.
SSH = """#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift 2
cd "$PACKETFS_TEST_HOME" || exit 255
echo $$ > "$PACKETFS_TEST_HOME/origin.pid"
eval "exec $*"
"""


@pytest.fixture
def ssh(tmp_path: Path) -> Path:
    """A command that takes what ssh takes and runs the far side here, in a home of its own."""
    script = tmp_path / "ssh"
    script.write_text(SSH)
    script.chmod(0o755)
    (tmp_path / "far").mkdir()
    return script


def remote_environment(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path) | {"PACKETFS_TEST_HOME": str(tmp_path / "far")}


@pytest.fixture
def start_remote(tmp_path: Path, ssh: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a command that reaches the far side through `ssh`."""

    def begin(command: str, *arguments: str | bytes | Path, home: str = "near") -> subprocess.Popen[bytes]:
        where = remote_environment(tmp_path) | {"XDG_DATA_HOME": str(tmp_path / home)}
        options = ["-e", str(ssh), "--remote-packetfs", str(COMMAND)]
        return subprocess.Popen(
            [COMMAND, command, *options, *arguments],
            env=where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return begin


@pytest.fixture
def remote(start_remote: Callable[..., subprocess.Popen[bytes]]) -> Remote:
    """Run such a command to its end."""

    def finish(*arguments: str | bytes | Path, code: int | None = 0, home: str = "near", stdin: bytes = b"") -> Result:
        process = start_remote(*arguments, home=home)
        out, err = process.communicate(stdin)
        result = Result(subprocess.CompletedProcess(arguments, process.returncode, out, err))
        assert "Traceback" not in result.err, result.err
        if code is not None:
            assert result.code == code, f"exit {result.code}: {result.err}"
        return result

    return finish


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where there is such a place: for thousands of syncs, none of which has to be true."""
    place = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as path:
        yield Path(path)


@pytest.fixture
def forked(memory: Path) -> Iterator[Commands]:
    """Run the command quickly, with a fault armed or without."""
    with commands(environment(memory)) as run:
        yield run


@pytest.fixture
def served(tmp_path: Path) -> "Iterator[Served]":
    """A server with a root of its own, which the test starts; it is gone when the test ends."""
    from tests.end_to_end.served import Served  # which takes the command from here

    made = Served(tmp_path)
    yield made
    made.kill()
