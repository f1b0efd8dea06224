"""Unison over ssh."""

from __future__ import annotations

from pathlib import Path

from bench.harness import HOST, Scene
from bench.movers.mover import Mover


class Unison(Mover):
    """Unison, the near side preferred; keeps an archive at either side."""

    name = "unison"
    program = "unison"
    package = "unison"
    version_command = ("unison", "-version")
    promise = "nothing synced but by the syncfs here; checked by digests; whole seconds, none of directories"
    forgets = frozenset({"mtime", "directory mtime"})

    def environment(self, scene: Scene) -> dict[str, str]:
        return {"UNISON": str(scene.near / "unison")}

    def command(self, scene: Scene) -> list[str | Path]:
        config = " ".join(scene.machines.ssh[1:])
        roots: list[str | Path] = [scene.source, f"ssh://{HOST}/{self.arrived(scene)}"]
        how: list[str | Path] = [
            "-ui",
            "text",
            "-batch",
            "-times",
            "-perms",
            "-1",
            "-confirmbigdel=false",
            "-force",
            scene.source,
        ]
        return ["unison", *roots, *how, "-sshargs", config, "-logfile", scene.near / "unison.log"]
