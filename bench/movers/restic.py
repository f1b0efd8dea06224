"""restic over sftp."""

from __future__ import annotations

from pathlib import Path

from bench.harness import HOST, Scene, compared
from bench.movers.mover import Mover


class Restic(Mover):
    """restic over sftp: fills an encrypted repository; there is no tree at the far side."""

    name = "restic"
    program = "restic"
    package = "restic"
    version_command = ("restic", "version")
    promise = "syncs its packs; AES-256 and zstd; a repository, not a tree"

    def environment(self, scene: Scene) -> dict[str, str]:
        return {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(scene.near / "cache")}

    def command(self, scene: Scene) -> list[str | Path]:
        if not (scene.far / "repository/config").exists():
            init = [*self._restic(scene), "init", "--repository-version", "2"]
            scene.machines.run(init, scene.far, self.environment(scene))
        return [*self._restic(scene), "backup", "--quiet", scene.source]

    def verify(self, scene: Scene) -> list[str]:
        local: list[str | Path] = ["restic", "-r", scene.far / "repository", "--no-cache", "--quiet"]
        out = scene.far / "out"
        scene.machines.at_far([*local, "restore", "latest", "--target", out], self.environment(scene))
        return compared(scene.source, out / scene.source.relative_to("/"), self.forgets)

    def _restic(self, scene: Scene) -> list[str | Path]:
        through = f"sftp.command={scene.machines.ssh_command} {HOST} -s sftp"
        return ["restic", "-r", f"sftp:{HOST}:{scene.far}/repository", "-o", through]
