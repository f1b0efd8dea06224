"""rclone to its sftp backend."""

from __future__ import annotations

import getpass
from pathlib import Path

from bench.harness import SSH_PORT, Scene
from bench.movers.mover import Mover


class Rclone(Mover):
    """`rclone sync` over sftp, with the ssh that is built into it and its own defaults."""

    name = "rclone"
    program = "rclone"
    package = "rclone"
    version_command = ("rclone", "version")
    promise = (
        "nothing synced but by the syncfs here; checked by md5sum at the far side; compares size and time; "
        "whole seconds, none of directories; no modes, no links"
    )
    forgets = frozenset({"mtime", "directory mtime", "mode"})

    def environment(self, scene: Scene) -> dict[str, str]:
        return {"RCLONE_CONFIG": "", "RCLONE_CACHE_DIR": str(scene.near / "rclone")}  # no file, only what is below

    def command(self, scene: Scene) -> list[str | Path]:
        host, port = scene.machines.reached(SSH_PORT)
        known = scene.near / "rclone-known-hosts"
        key = (scene.machines.directory / "host_key.pub").read_text()
        known.write_text(f"[{host}]:{port} {key}")
        how = [f"--sftp-host={host}", f"--sftp-port={port}", f"--sftp-user={getpass.getuser()}"]
        how += [f"--sftp-key-file={scene.machines.directory}/user_key", f"--sftp-known-hosts-file={known}"]
        keep = ["--create-empty-src-dirs", "--copy-links", "--stats=0"]
        return ["rclone", "sync", *keep, *how, scene.source, f":sftp:{self.arrived(scene)}"]
