"""PacketFS over ssh: push, pull, sync, and push in a session that is open."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import packetfs
from bench import measure
from bench.harness import HOST, Reading, Scene, compared
from bench.movers.mover import Mover

PACKETFS = Path(sysconfig.get_path("scripts")) / "packetfs"


class PacketFSPush(Mover):
    """`packetfs push` to a volume at the far side, a new process each time."""

    name = "packetfs push"
    promise = "durable and verified at the origin before it answers"
    program = str(PACKETFS)
    version_command = (str(PACKETFS), "--version")

    def missing(self) -> str:
        if not PACKETFS.exists():
            return "not built: make build"
        told = subprocess.run([PACKETFS, "push", "--help"], capture_output=True, text=True, check=False).stdout
        return "" if "--remote-packetfs" in told else "this packetfs does not reach other machines yet"

    def environment(self, scene: Scene) -> dict[str, str]:
        return {"XDG_DATA_HOME": str(scene.near / "data"), "XDG_CACHE_HOME": str(scene.near / "cache")}

    def command(self, scene: Scene) -> list[str | Path]:
        return [PACKETFS, "push", scene.source, *self.remote(scene)]

    def volume(self, scene: Scene) -> Path:
        """The volume at the far side."""
        return scene.far / "volume"

    def remote(self, scene: Scene) -> list[str | Path]:
        """What of a command says where the volume is, seen from the near side, and how it is reached."""
        how: list[str | Path] = ["-e", scene.machines.ssh_command, "--remote-packetfs", PACKETFS]
        return [f"{HOST}:{self.volume(scene)}::main", *how]

    def verify(self, scene: Scene) -> list[str]:
        out = scene.far / "out"
        scene.machines.at_far([PACKETFS, "pull", f"{self.volume(scene)}::main", out])
        return compared(scene.source, out, self.forgets)


class PacketFSPull(PacketFSPush):
    """`packetfs pull` of a volume that the far side fills, into a directory that holds the state before."""

    name = "packetfs pull"
    promise = "checked out, verified and durable before it ends"

    def command(self, scene: Scene) -> list[str | Path]:
        return [PACKETFS, "pull", "--delete", *self.remote(scene), self.arrived(scene)]

    def offer(self, scene: Scene) -> None:
        """Let the far side fill the volume with what is to be pulled. Not measured."""
        scene.machines.at_far([PACKETFS, "push", scene.source, f"{self.volume(scene)}::main"])

    def run(self, scene: Scene) -> Reading:
        self.offer(scene)
        return super().run(scene)

    def interrupt(self, scene: Scene, after_bytes: int) -> Reading:
        raise NotImplementedError("what is killed here is who sends")

    def arrived(self, scene: Scene) -> Path:
        return scene.near / "pulled"

    def verify(self, scene: Scene) -> list[str]:
        return compared(scene.source, self.arrived(scene), self.forgets)


class PacketFSSync(PacketFSPush):
    """`packetfs sync` into a plain directory at the far side: what `rsync -a --delete` does."""

    name = "packetfs sync"
    promise = "checked out, verified and durable at the far side before it ends; keeps a volume of it there"

    def missing(self) -> str:
        told = subprocess.run([PACKETFS, "--help"], capture_output=True, text=True, check=False).stdout
        return super().missing() or ("" if " sync " in told else "this packetfs does not sync yet")

    def command(self, scene: Scene) -> list[str | Path]:
        # What the login keeps there would be kept at its home, which is not of this run.
        there = scene.far / "packetfs"
        if not there.exists():
            there.write_text(f'#!/bin/sh\nXDG_DATA_HOME={scene.far}/data exec {PACKETFS} "$@"\n')
            there.chmod(0o755)
        how: list[str | Path] = ["-e", scene.machines.ssh_command, "--remote-packetfs", there]
        return [PACKETFS, "sync", "--delete", *how, f"{scene.source}/", f"{HOST}:{self.arrived(scene)}/"]

    def arrived(self, scene: Scene) -> Path:
        return scene.far / "copy"

    def verify(self, scene: Scene) -> list[str]:
        return compared(scene.source, self.arrived(scene), self.forgets)


class PacketFSSession(PacketFSPush):
    """Push in a session that is open already: what a program pays that keeps one (bench/session.py holds it)."""

    name = "packetfs session"
    promise = PacketFSPush.promise + "; the session is open when the time begins"

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def missing(self) -> str:
        return super().missing() or ("" if hasattr(packetfs, "connect") else "this packetfs has no sessions yet")

    def prepare(self, scene: Scene) -> None:
        self._push(scene)

    def run(self, scene: Scene) -> Reading:
        self._open(scene)
        with scene.machines.measured(scene.far) as meter:
            told = self._push(scene)
            meter.command_ended()
        trips = told.get("round_trips")
        return replace(meter.reading, round_trips=float(trips) if isinstance(trips, int) else None, notes=told)

    def clean(self, scene: Scene) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            code = self._process.wait()
            self._process.stdout.close()
            scene.machines.near.ended(self._process.pid, 0.0)
            self._process = None
            if code == 0:
                scene.machines.wait_until_quiet()

    def _open(self, scene: Scene) -> subprocess.Popen[str]:
        if self._process is None:
            location = f"ssh://{HOST}{self.volume(scene)}"
            options = {"location": location, "ssh": scene.machines.ssh_command, "remote": str(PACKETFS)}
            command = [sys.executable, "-m", "bench.session", json.dumps(options)]
            environment = self.environment(scene) | {"PYTHONPATH": str(Path(__file__).parents[2])}
            self._process = scene.machines.converse(command, environment)
            self._answer()
        return self._process

    def _push(self, scene: Scene) -> dict[str, object]:
        process = self._open(scene)
        assert process.stdin is not None
        process.stdin.write(json.dumps({"tree": str(scene.source)}) + "\n")
        process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, object]:
        assert self._process is not None
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise measure.CommandFailedError(f"the session ended: exit {self._process.wait()}")
        answer: dict[str, object] = json.loads(line)
        return answer
