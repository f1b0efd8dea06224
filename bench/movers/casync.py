"""casync over ssh, to a store of chunks at the far side."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.harness import HOST, Scene, compared
from bench.movers.mover import Mover


class Casync(Mover):
    """`casync make` of an index that lies at the far side, its chunks in a store beside it; no tree there."""

    name = "casync"
    program = "casync"
    package = "casync"
    version_command = ("casync", "--version")
    promise = "nothing synced but by the syncfs here; zstd, chunks by SHA-512/256; an index and a store, not a tree"

    def environment(self, scene: Scene) -> dict[str, str]:
        # It takes the path of a program, not a command with options.
        ssh = scene.near / "ssh"
        if not ssh.exists():
            ssh.write_text(f'#!/bin/sh\nexec {shlex.join(scene.machines.ssh)} "$@"\n')
            ssh.chmod(0o755)
        return {"CASYNC_SSH_PATH": str(ssh)}

    def command(self, scene: Scene) -> list[str | Path]:
        store = f"--store={HOST}:{scene.far}/store"
        return ["casync", "make", "--with=best", store, f"{HOST}:{scene.far}/tree.caidx", scene.source]

    def verify(self, scene: Scene) -> list[str]:
        out = scene.far / "out"
        extract: list[str | Path] = ["casync", "extract", f"--store={scene.far}/store", scene.far / "tree.caidx", out]
        scene.machines.at_far(extract)
        return compared(scene.source, out, self.forgets)
