"""What comes with OpenSSH: its channel alone, and scp."""

from __future__ import annotations

from pathlib import Path

from bench.harness import HOST, Scene
from bench.movers.mover import Mover


class SshAlone(Mover):
    """`ssh far true`: what the channel costs before anybody says anything; taken off where a row is net of ssh."""

    name = "ssh alone"
    promise = "carries nothing"
    program = "ssh"
    package = "openssh-client"
    version_command = ("ssh", "-V")

    def prepare(self, scene: Scene) -> None:
        pass

    def command(self, scene: Scene) -> list[str | Path]:
        return [*scene.machines.ssh, HOST, "true"]

    def verify(self, scene: Scene) -> list[str]:
        return []


class Scp(Mover):
    """`scp -rp`: copies everything, always."""

    name = "scp"
    program = "scp"
    package = "openssh-client"
    version_command = ("ssh", "-V")
    promise = "nothing synced but by the syncfs here; follows symbolic links; whole seconds"
    forgets = frozenset({"mtime", "directory mtime"})

    def command(self, scene: Scene) -> list[str | Path]:
        config = scene.machines.ssh[1:]
        return ["scp", *config, "-rpq", scene.source, f"{HOST}:{self.arrived(scene)}"]
