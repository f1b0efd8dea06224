"""The installed command in a process of its own, with nothing of the developer's settings."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sysconfig.get_path("scripts")) / "packetfs"


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode("utf-8").splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        (found,) = (event for event in self.events if event["event"] == name)
        return found


@dataclass(frozen=True, slots=True)
class Cli:
    """Runs commands in a directory of the test's own."""

    home: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PACKETFS_", "XDG_", "_PACKETFS"))
        }
        return kept | {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "TERM": "xterm", **(extra or {})}

    def __call__(
        self,
        *arguments: str | bytes | Path,
        code: int | None = 0,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        """Run `packetfs`; it must end with `code` (None: whatever it is)."""
        return self._run([COMMAND, *arguments], code=code, env=env, stdin=stdin)

    def python(self, script: str, *arguments: str, code: int | None = 0, env: Mapping[str, str] | None = None) -> Done:
        """Run a script that prepares something unusual and then calls the command."""
        return self._run([sys.executable, "-c", script, *arguments], code=code, env=env, stdin=b"")

    def start(self, *arguments: str | bytes | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Begin a command and leave it running."""
        return subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.home,
            env=self.environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _run(self, command: list[Any], *, code: int | None, env: Mapping[str, str] | None, stdin: bytes) -> Done:
        ended = subprocess.run(
            command, cwd=self.home, env=self.environment(env), input=stdin, capture_output=True, check=False
        )
        done = Done(ended.returncode, ended.stdout, ended.stderr.decode("utf-8", "surrogateescape"))
        if code is not None:
            assert done.code == code, f"exit code {done.code}, not {code}: {done.err}{done.out!r}"
        return done


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)
