"""Whatever happens: one message, one exit code, no traceback."""

import base64
import io
import os
import signal
import subprocess
from pathlib import Path
from typing import IO, Any, cast

import pytest

from packetfs import errors
from packetfs.cli.output import Output
from tests.cli.conftest import COMMAND, Cli

RAISING = """
import sys
from packetfs.cli import main, version
def fail(*_, **__):
    {statement}
version.version.callback = fail
main()
"""


@pytest.mark.parametrize(
    ("statement", "code", "says"),
    [
        ("from packetfs.errors import ConflictError; raise ConflictError('m', code='ref-moved', hint='h')", 4, "m"),
        ("from packetfs.errors import PartialError; raise PartialError('some')", 3, "some"),
        ("from packetfs.errors import BusyError; raise BusyError('held')", 6, "held"),
        ("open('/does/not/exist')", 7, "cannot use '/does/not/exist': No such file or directory"),
        ("import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", 7, "No space left on device"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("raise MemoryError", 7, "no memory"),
        ("raise ZeroDivisionError('by nothing')", 1, "this is a bug in PacketFS: ZeroDivisionError: by nothing"),
        ("class PanicException(BaseException): pass\n    raise PanicException('oh')", 1, "this is a bug in PacketFS"),
    ],
)
def test_every_failure_is_a_message_and_an_exit_code(cli: Cli, statement: str, code: int, says: str) -> None:
    script = RAISING.format(statement=statement)

    human = cli.python(script, "version", code=code)
    machine = cli.python(script, "version", "--json", code=code)

    assert says in human.err
    assert "Traceback" not in human.err
    assert human.out == b""
    assert machine.err.replace("\n", "") == ""
    assert machine.event("error")["exit"] == code
    assert says in machine.event("error")["message"]


def test_a_bug_leaves_its_traceback_in_a_file(cli: Cli) -> None:
    failed = cli.python(RAISING.format(statement="raise ZeroDivisionError"), "version", code=1)

    (report,) = (cli.home / ".local/state/packetfs").iterdir()
    assert str(report) in failed.err
    assert "Traceback" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


def test_a_bug_shows_its_traceback_to_whoever_asks(cli: Cli) -> None:
    failed = cli.python(
        RAISING.format(statement="raise ZeroDivisionError"), "version", code=1, env={"PACKETFS_DEBUG": "1"}
    )

    assert "Traceback" in failed.err


def test_a_message_cannot_paint_the_terminal(cli: Cli) -> None:
    statement = "from packetfs.errors import NotFoundError; raise NotFoundError('no \\x1b[31m\\nfile \\u202e')"
    failed = cli.python(RAISING.format(statement=statement), "version", code=1)

    assert failed.err == "packetfs: no \\x1b[31m\\nfile \\u202e\n"


def test_a_name_that_is_not_utf8_can_be_complained_about(cli: Cli) -> None:
    human = cli("refs", b"no \xff", code=1)
    machine = cli("refs", b"no \xff", "--json", code=1).event("error")

    assert "Traceback" not in human.err
    assert machine["code"] == "volume-not-found"
    assert base64.b64decode(machine["values"]["path_b64"]) == os.fsencode(cli.home) + b"/no \xff"


def test_a_reader_that_leaves_is_no_error(cli: Cli) -> None:
    statement = "[sys.stdout.buffer.write(b'x' * (1 << 20)) for _ in range(64)]"
    script = cli.home / "fail.py"
    script.write_text(RAISING.format(statement=statement))
    done = subprocess.run(
        ["bash", "-c", '"$0" "$1" version | head -c 1; echo "${PIPESTATUS[0]}"', os.sys.executable, script],  # type: ignore[attr-defined]
        env=cli.environment(),
        capture_output=True,
        check=True,
    )

    assert done.stdout == b"x141\n"
    assert done.stderr == b""


def test_a_full_disk_under_standard_output_is_told(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, "version"], env=cli.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert done.returncode == 7
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(cli: Cli, closed: str) -> None:
    (cli.home / "source").mkdir()
    for command in ("version", "push source volume::main", "ls volume::main", "verify volume"):
        subprocess.run(["bash", "-c", f"{COMMAND} {command} {closed}"], cwd=cli.home, env=cli.environment(), check=True)

    assert cli("push", "source", "volume::main", "--json").event("push")["created"] is False


# A shell lets what it runs in the background ignore the keyboard, and so this test where it is run there.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def test_an_interrupt_from_the_keyboard_ends_with_130(cli: Cli) -> None:
    script = RAISING.format(statement="print('ready', flush=True); import threading; threading.Event().wait()")
    running = subprocess.Popen(
        [os.sys.executable, "-c", HEARING + script, "version"],  # type: ignore[attr-defined]
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)

    assert running.returncode == errors.EXIT_INTERRUPTED
    assert b"Traceback" not in err
    assert b"run the same command again" in err


def test_a_configuration_that_cannot_be_read_is_told(cli: Cli) -> None:
    unusable = {"PACKETFS_CONFIG": str(cli.home)}

    human = cli("refs", "v", code=2, env=unusable)
    machine = cli("refs", "v", code=2, env=unusable | {"PACKETFS_JSON": "1"})

    assert "Is a directory" in human.err
    assert machine.event("error")["code"] == "bad-config"
    assert machine.err == ""
    assert cli("refs", "v", code=2, env={"PACKETFS_JSON": "perhaps"}).err.startswith("packetfs: PACKETFS_JSON")


def test_a_stream_that_takes_a_little_at_a_time_gets_everything() -> None:
    taken: list[bytes] = []

    class Narrow(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, piece: Any, /) -> int:
            taken.append(bytes(piece[:1000]))
            return len(taken[-1])

    output = Output(json=False, verbosity=0, progress=False, stdout=cast("IO[bytes]", Narrow()))

    output.content(b"0123456789" * 1234)

    assert b"".join(taken) == b"0123456789" * 1234


def test_content_that_does_not_fit_is_told_also_without_a_buffer(cli: Cli) -> None:
    (cli.home / "file").write_bytes(os.urandom(300_000))
    cli("push", "file", "volume::main")
    limited = f"ulimit -f 100; PYTHONUNBUFFERED=1 exec {COMMAND} cat volume::main:/file > out"

    done = subprocess.run(
        ["bash", "-c", limited], cwd=cli.home, env=cli.environment(), capture_output=True, check=False
    )

    assert done.returncode == 7, done.stderr
    assert b"File too large" in done.stderr


def test_wrong_use_is_2_with_a_way_out(cli: Cli, tmp_path: Path) -> None:
    for arguments in (
        ["pull"],
        ["pull", "a", "b", "c"],
        ["ls", "--long-ago", "v::main"],
        ["brew"],
        ["ls", "--json", "v::"],
    ):
        failed = cli(*arguments, code=None)
        assert failed.code in (1, 2)
    assert "did you mean pull" in cli("pul", "v::main", code=2).err
    assert "packetfs pull --help" in cli("pull", code=2).err
    assert cli("pull", "--json", code=2).event("error")["code"] == "usage"
    assert cli("pull", code=2, env={"PACKETFS_JSON": "1"}).event("error")["exit"] == 2
    assert cli("refs", "v", code=2, env={"PACKETFS_LOCK_WAIT": "soon"}).err.startswith("packetfs: PACKETFS_LOCK_WAIT")
    assert cli("refs", "v", "--lock-wait", "soon", code=2).err.startswith("packetfs: --lock-wait")
