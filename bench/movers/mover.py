"""What most movers answer alike."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.harness import Reading, Scene, compared


class Mover:
    """What most movers answer alike."""

    name = ""
    promise = ""
    program = ""
    package = ""
    version_command: tuple[str, ...] = ()
    forgets: frozenset[str] = frozenset()

    def missing(self) -> str:
        return "" if shutil.which(self.program) else f"not installed: apt-get install {self.package}"

    def version(self) -> str:
        done = subprocess.run(self.version_command, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).splitlines()[0].strip()

    def environment(self, scene: Scene) -> dict[str, str]:
        return {}

    def command(self, scene: Scene) -> list[str | Path]:
        raise NotImplementedError

    def prepare(self, scene: Scene) -> None:
        self.run(scene)

    def run(self, scene: Scene) -> Reading:
        return scene.machines.run(self.command(scene), scene.far, self.environment(scene))

    def interrupt(self, scene: Scene, after_bytes: int) -> Reading:
        """Run, and die once so many bytes are sent."""
        command = self.command(scene)
        return scene.machines.run(command, scene.far, self.environment(scene), kill_after_sent=after_bytes)

    def arrived(self, scene: Scene) -> Path:
        return scene.far / "copy"

    def verify(self, scene: Scene) -> list[str]:
        return compared(scene.source, self.arrived(scene), self.forgets)

    def clean(self, scene: Scene) -> None:
        pass
