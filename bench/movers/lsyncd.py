"""lsyncd: watches a directory and runs rsync; what can be compared is the pass that it begins with."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import deque
from pathlib import Path

from bench import measure
from bench.harness import HOST, Reading, Scene
from bench.movers.mover import Mover


class Lsyncd(Mover):
    """From its start until it says that its first pass is done: one `rsync` of the whole tree, and its watches."""

    name = "lsyncd, start"
    program = "lsyncd"
    package = "lsyncd"
    version_command = ("lsyncd", "-version")
    promise = "rsync -a --delete over ssh by itself; ended when it has said that its first pass is done"

    delay_s = 15  # for which it gathers changes, as it does unless told otherwise

    def command(self, scene: Scene) -> list[str | Path]:
        how = f'archive = true, rsh = "{scene.machines.ssh_command}"'
        target = f"{HOST}:{self.arrived(scene)}/"
        config = scene.near / "lsyncd.conf"
        config.write_text(
            f'settings {{ nodaemon = true }}\nsync {{ default.rsync, source = "{scene.source}/", target = "{target}", '
            f"delete = true, delay = {self.delay_s}, rsync = {{ {how} }} }}\n"
        )
        return ["lsyncd", config]

    def run(self, scene: Scene) -> Reading:
        command = self.command(scene)
        with scene.machines.measured(scene.far) as meter:
            process = self.started(scene, command)
            meter.command_ended()
            scene.machines.wait_until_quiet()
            scene.machines.end(process)
        return meter.reading

    def started(self, scene: Scene, command: list[str | Path]) -> subprocess.Popen[str]:
        """Start it, and wait until it has said that its first pass is done."""
        said: deque[str] = deque(maxlen=20)
        process = scene.machines.converse(command, {})
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if re.search(r"Startup of .* finished", line):
                return process
        raise measure.CommandFailedError(f"{shlex.join(map(str, command))}: ended\n{''.join(said)}")
