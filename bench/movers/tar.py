"""`tar` into a TCP connection and out of it at the other end: what a copy of the whole takes, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.harness import FAR, Reading, Scene
from bench.movers.mover import Mover

PORT = 8740
SEND = 'exec tar -C "$1" "${@:4}" -cf - . >"/dev/tcp/$2/$3"'  # bash opens the connection
ZSTD = ("--use-compress-program", "zstd -3")  # tar adds `-d` to extract
# Waits for one connection and becomes the tar that reads it: nothing stands between the network and tar, and nothing
# but tar is counted. Only the bare module of sockets is loaded, for Python's memory until then is counted as well.
RECEIVE = """
import os, sys, _socket
listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
listening.bind((sys.argv[1], int(sys.argv[2])))
listening.listen(1)
os.dup2(listening._accept()[0], 0)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Tar(Mover):
    """`tar -c | tar -x` over a plain connection into an empty directory: everything, whatever is there already."""

    version_command = ("tar", "--version")
    promise = "copies everything, always; in clear, checked by nobody; whole seconds"
    forgets = frozenset({"mtime", "directory mtime"})

    def __init__(self, *, compressed: bool = False) -> None:
        self.name = "tar + zstd -3 over TCP" if compressed else "tar over TCP"
        self.program = self.package = "zstd" if compressed else "tar"  # the one that may be missing
        self._options = ZSTD if compressed else ()
        self._receiver: subprocess.Popen[bytes] | None = None

    def prepare(self, scene: Scene) -> None:
        pass  # what it has brought before does not help it

    def command(self, scene: Scene) -> list[str | Path]:
        host, port = scene.machines.reached(PORT)
        return ["bash", "-c", SEND, "bash", scene.source, host, str(port), *self._options]

    def run(self, scene: Scene) -> Reading:
        receiver = self.receive(scene)
        return scene.machines.run(self.command(scene), scene.far, receiver=receiver)

    def receive(self, scene: Scene) -> subprocess.Popen[bytes]:
        """Start what waits at the far side for one copy, and ends with it."""
        target = self.arrived(scene)
        target.mkdir(exist_ok=True)
        extract: list[str | Path] = ["tar", "-C", target, *self._options, "-xpf", "-"]
        receive: list[str | Path] = [sys.executable, "-I", "-S", "-c", RECEIVE, FAR, str(PORT), *extract]
        self._receiver = scene.machines.serve(receive, PORT)
        return self._receiver

    def clean(self, scene: Scene) -> None:
        if self._receiver is not None and self._receiver.returncode is None:
            scene.machines.end(self._receiver)
        self._receiver = None
