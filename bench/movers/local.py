"""What stays on one machine, as a bound: looking at every file, copying every byte. Nothing travels."""

from __future__ import annotations

from pathlib import Path

from bench.harness import Scene
from bench.movers.mover import Mover


class Find(Mover):
    """`find`, which looks at every file: nobody who is to notice a change can do with less."""

    name = "find, here"
    promise = "carries nothing: what it takes to ask for the state of every file"
    program = "find"
    package = "findutils"
    version_command = ("find", "--version")

    def prepare(self, scene: Scene) -> None:
        pass

    def command(self, scene: Scene) -> list[str | Path]:
        return ["find", scene.source, "-newermt", "@9000000000"]  # asked of every file, true of none

    def verify(self, scene: Scene) -> list[str]:
        return []


class Copy(Mover):
    """`cp -a`: every byte once through one machine's memory and file system."""

    name = "cp -a, here"
    promise = "carries nothing: what it takes to write every byte once"
    program = "cp"
    package = "coreutils"
    version_command = ("cp", "--version")

    def prepare(self, scene: Scene) -> None:
        pass

    def command(self, scene: Scene) -> list[str | Path]:
        return ["cp", "-aT", scene.source, self.arrived(scene)]
