"""Commands with a fault armed: the real ones, each in a process forked from one that has everything imported.

That makes a command cost 20 ms and not 300, so that loops over all n fit into a test run. SQLite's own writes are
steps, too: a VFS around the usual one passes the kernel's fault points. This file runs commands and asserts nothing.
"""

import errno
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import apsw

from packetfs import kernel


@dataclass(frozen=True, slots=True)
class Fault:
    """What is armed. Without `errno` the process dies by SIGKILL at the n-th step that shows."""

    n: int
    errno: int = 0
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: by exit code, or a signal's number, negative."""

    code: int
    out: str
    err: str
    met: str | None
    """The step that failed and where; None if the command did not come to it."""

    @property
    def error(self) -> dict[str, Any]:
        """The error event of `--json`."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        assert found["event"] == "error", self.out
        return found


class Commands:
    """Runs commands, with or without a fault."""

    def __init__(self, mother: subprocess.Popen[bytes]) -> None:
        self._mother = mother

    def __call__(self, *arguments: str | Path, fault: Fault | None = None, code: int | None = 0) -> Ended:
        """Run `packetfs`; without a fault it must end with `code`."""
        armed = None if fault is None else (fault.n, fault.errno, fault.lasting)
        asked = json.dumps({"arguments": [str(argument) for argument in arguments], "fault": armed})
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        self._mother.stdin.write(asked.encode() + b"\n")
        self._mother.stdin.flush()
        ended = Ended(**json.loads(self._mother.stdout.readline()))
        assert "Traceback" not in ended.err + ended.out, ended.err
        if fault is None and code is not None:
            assert ended.code == code, f"{arguments}: exit {ended.code}: {ended.err}{ended.out}"
        return ended


@contextmanager
def commands(environment: dict[str, str]) -> Iterator[Commands]:
    """The process that all commands are forked from, for the length of the block."""
    with subprocess.Popen(
        [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as mother:
        yield Commands(mother)
        assert mother.stdin is not None
        mother.stdin.close()


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's names
        _before("write")
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        _before("resize")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        _before("sync")
        super().xSync(flags)


class _Disk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("faults", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        assert name is not None, "no temporary file is ever needed"
        path = name if isinstance(name, str) else name.filename()
        if flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.exists(path):
            _before("create")
        return _File(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        _before("remove")
        super().xDelete(filename, syncdir)


def _before(step: str) -> None:
    try:
        kernel.fault_point(step)
    except OSError as error:
        # As SQLite's own layer answers: only a write that finds no room says so.
        kind = apsw.CantOpenError if step == "create" else apsw.IOError
        raise (apsw.FullError if (step, error.errno) == ("write", errno.ENOSPC) else kind)(error.strerror) from None


def _child(asked: dict[str, Any], out: IO[bytes], err: IO[bytes], told: int) -> None:
    """The command itself; does not return."""
    from packetfs.cli.guard import run

    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    disk = _Disk()  # held: SQLite does not
    if asked["fault"] is not None:
        n, number, lasting = asked["fault"]
        if number:
            kernel.fail_at(n, number, lasting)
        else:
            kernel.crash_at(n)
    code = run(asked["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(told, (kernel.fault_met() or "").encode())
    assert disk is not None
    os._exit(code)


def _mother() -> None:
    """Fork a child for each line that is read, and say how it ended."""
    for name in ("api", "cli.app", "sync.checkout", "sync.scrub", "sync.transfer", "volume.rebuild"):
        importlib.import_module(f"packetfs.{name}")
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        hears, tells = os.pipe()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                try:
                    _child(asked, out, err, tells)
                finally:
                    os._exit(99)
            os.close(tells)
            _, status = os.waitpid(child, 0)
            out.seek(0)
            err.seek(0)
            with open(hears, "rb") as hearing:
                met = hearing.read().decode()
            said = {"out": out.read().decode("utf-8", "replace"), "err": err.read().decode("utf-8", "replace")}
        answer = {"code": os.waitstatus_to_exitcode(status), "met": met or None, **said}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _mother()
