"""borg over ssh, to a `borg serve` at the far side."""

from __future__ import annotations

from pathlib import Path

from bench.harness import HOST, Scene, compared
from bench.movers.mover import Mover


class Borg(Mover):
    """borg over ssh: fills an encrypted repository; there is no tree at the far side."""

    name = "borg"
    program = "borg"
    package = "borgbackup"
    version_command = ("borg", "--version")
    promise = "syncs its segments; AES-256 and lz4; a repository, not a tree"

    def environment(self, scene: Scene) -> dict[str, str]:
        ssh = {"BORG_RSH": scene.machines.ssh_command, "BORG_HOSTNAME_IS_UNIQUE": "yes"}
        return _keyring(scene.near / "borg") | ssh

    def command(self, scene: Scene) -> list[str | Path]:
        repository = f"ssh://{HOST}{self._repository(scene)}"
        if not (self._repository(scene) / "config").exists():
            init: list[str | Path] = ["borg", "init", "--encryption", "repokey", repository]
            scene.machines.run(init, scene.far, self.environment(scene))
        # Names of one length that differ, whenever two archives are made.
        return ["borg", "create", f"{repository}::{{utcnow:%Y%m%dT%H%M%S.%f}}", scene.source]

    def verify(self, scene: Scene) -> list[str]:
        # A keyring of its own: what the near side has cached of the repository must not be needed.
        keyring = _keyring(scene.far / "borg") | {"BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        repository, out = self._repository(scene), scene.far / "out"
        out.mkdir()
        newest = scene.machines.at_far(["borg", "list", "--short", "--last", "1", repository], keyring).strip()
        extract = 'cd "$1" && exec borg extract "$2"'
        scene.machines.at_far(["sh", "-c", extract, "sh", out, f"{repository}::{newest}"], keyring)
        return compared(scene.source, out / scene.source.relative_to("/"), self.forgets)

    def _repository(self, scene: Scene) -> Path:
        return scene.far / "repository"


def _keyring(home: Path) -> dict[str, str]:
    return {"BORG_BASE_DIR": str(home), "BORG_PASSPHRASE": "bench"}
