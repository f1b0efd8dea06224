"""A real `packetfs serve` on loopback, and the machines that talk to it: each has a data directory of its own."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packetfs.format.location import Endpoint
from packetfs.wire.tls import Tls, client_context, connect, shut
from tests.end_to_end.conftest import COMMAND, Result, environment


class Counting:
    """A proxy on loopback that counts: bytes of TCP payload both ways, and how often one has to wait for the other."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self.turns = 0
        """How often what comes down follows what went up: with TCP's own, the round trips."""
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._went_up = False
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def reset(self) -> None:
        self.bytes = self.turns = 0
        self._went_up = False

    def close(self) -> None:
        shut(self._listener)  # wakes who waits for the next connection
        for thread in self._threads:
            thread.join(20)

    def _run(self) -> None:
        with self._listener:
            while True:
                try:
                    near, _ = self._listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=self._carry, args=(near,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # the server is down
            near.close()
            return
        with near, far:
            down = threading.Thread(target=self._pass, args=(far, near, False), daemon=True)
            down.start()
            self._pass(near, far, True)
            down.join()

    def _pass(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.bytes += len(data)
                    self.turns += self._went_up and not up
                    self._went_up = up
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Served:
    """A root, its server, and commands run by machines that are called by name."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "served"
        self.root.mkdir()
        self.host = "127.0.0.1"
        self.port = 0
        self.err = ""
        """What it wrote to standard error, once it has been stopped."""
        self.device = ""
        self.lines: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, *options: str, host: str = "127.0.0.1", port: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the server; it listens when this returns."""
        self.host = host
        self._process = subprocess.Popen(
            [COMMAND, "serve", "--root", self.root, "--listen", f"{host}:{port}", "--json", *options],
            env=self.environment("server") | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.lines = [json.loads(self._process.stdout.readline() or b"{}")]
        assert self.lines[0].get("event") == "listening", (self.lines, self._process.communicate())
        self.port, self.device = self.lines[0]["port"], self.lines[0]["device"]
        for option in ("--public-read", "--metrics"):
            if option in options:
                self.lines.append(json.loads(self._process.stdout.readline()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell the server to end; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        _, err = self._process.communicate(timeout=60)
        assert b"Traceback" not in err, err
        self.err = err.decode()
        process, self._process = self._process, None
        return process.returncode

    def line(self, event: str) -> dict[str, Any]:
        """The line of that kind that the server wrote when it began."""
        (found,) = (line for line in self.lines if line["event"] == event)
        return found

    def kill(self) -> None:
        """End it in any case."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def kill_within(self, seconds: float) -> None:
        """End it as a power cut would, after a while in which it has no reason to end by itself."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            raise AssertionError("the server has ended by itself")
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __call__(
        self, machine: str, *arguments: str | bytes | Path, code: int | None = 0, stdin: bytes = b""
    ) -> Result:
        """Run a command on `machine`."""
        done = subprocess.run(
            [COMMAND, *arguments], env=self.environment(machine), input=stdin, capture_output=True, check=False
        )
        result = Result(done)
        assert "Traceback" not in result.err, result.err
        if code is not None:
            assert result.code == code, f"exit {result.code}: {result.err}{result.out!r}"
        return result

    def begin(self, machine: str, *arguments: str | bytes | Path) -> subprocess.Popen[bytes]:
        """Start a command on `machine` and leave it running."""
        return subprocess.Popen(
            [COMMAND, *arguments], env=self.environment(machine), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def environment(self, machine: str) -> dict[str, str]:
        return environment(self.place) | {"XDG_DATA_HOME": str(self.place / machine)}

    def invite(self, *options: str) -> str:
        """A token."""
        token = self("server", "serve", "--root", self.root, "--invite", "--json", *options).event("invite")["token"]
        assert isinstance(token, str)
        return token

    def pair(self, machine: str, *options: str) -> Result:
        """Let `machine` in, with the options of the invitation."""
        return self(machine, "pair", self.invite(*options), "--name", machine, "--json")

    def url(self, place: str) -> str:
        return f"pfs://127.0.0.1:{self.port}/{place}"

    def identity(self, machine: str) -> str:
        """The file of its key."""
        return str(self.place / machine / "packetfs" / "identity.pem")

    def tls(self, machine: str) -> Tls:
        """A channel of `machine`, for what no command would say."""
        endpoint = Endpoint("pfs", "127.0.0.1", port=self.port)
        return connect(endpoint, client_context(self.identity(machine)), bytes.fromhex(self.device))

    def audit(self) -> list[dict[str, Any]]:
        """What the server has written down."""
        path = self.root / ".packetfs" / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until(self, true: Callable[[], bool], what: str, turns: int = 400) -> None:
        """Wait for something that the server does by itself; each look is a command, which takes its time."""
        for _ in range(turns):
            if true():
                return
            subprocess.run(["true"], check=True)
            os.sched_yield()
        raise AssertionError(what)
