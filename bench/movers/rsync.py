"""rsync, over ssh and to a daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.harness import FAR, HOST, Reading, Scene
from bench.movers.mover import Mover

PORT = 8730
BLOCKS = ("-B4096", "--no-whole-file")  # small blocks: without them the table would flatter us


class Rsync(Mover):
    """`rsync -a --delete` over ssh, with the given options on top."""

    program = "rsync"
    package = "rsync"
    version_command = ("rsync", "--version")
    promise = "nothing synced but by the syncfs here; files checked by digests of their own"

    def __init__(self, *options: str) -> None:
        self._options = options
        short = [option for option in options if option != "--no-whole-file"]
        self.name = " ".join(["rsync -a", *short]).replace("-a -z", "-az")

    def command(self, scene: Scene) -> list[str | Path]:
        target = f"{HOST}:{self.arrived(scene)}/"
        return ["rsync", "-a", "--delete", *self._options, "-e", scene.machines.ssh_command, f"{scene.source}/", target]


class RsyncPull(Rsync):
    """The same called by who receives."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "rsync -a, pulled"

    def command(self, scene: Scene) -> list[str | Path]:
        how: list[str | Path] = ["-e", scene.machines.ssh_command]
        return ["rsync", "-a", "--delete", *how, f"{HOST}:{scene.source}/", f"{self.arrived(scene)}/"]

    def arrived(self, scene: Scene) -> Path:
        return scene.near / "pulled"

    def offer(self, scene: Scene) -> None:
        """What is to be pulled is there."""

    def join(self, scene: Scene) -> None:
        """The near side has its key."""


class RsyncDaemon(Mover):
    """`rsync -a --delete` to a daemon that listens: nothing is encrypted, nobody says who they are."""

    name = "rsync -a daemon"
    program = "rsync"
    package = "rsync"
    version_command = ("rsync", "--version")
    promise = Rsync.promise + "; no ssh: in clear, to everybody"

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def command(self, scene: Scene) -> list[str | Path]:
        host, port = scene.machines.reached(PORT)
        return ["rsync", "-a", "--delete", f"--port={port}", f"{scene.source}/", f"rsync://{host}/copy/"]

    def run(self, scene: Scene) -> Reading:
        if self._server is None:
            self.arrived(scene).mkdir(exist_ok=True)
            config = scene.near / "rsyncd.conf"
            module = f"[copy]\npath = {self.arrived(scene)}\nread only = no\n"
            config.write_text(f"use chroot = no\nuid = root\ngid = root\nreverse lookup = no\n{module}")
            how: list[str | Path] = ["--no-detach", "--address", FAR, "--port", str(PORT), "--config", config]
            self._server = scene.machines.serve(["rsync", "--daemon", *how], PORT)
        return super().run(scene)

    def clean(self, scene: Scene) -> None:
        if self._server is not None:
            scene.machines.end(self._server)
            self._server = None
