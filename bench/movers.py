"""Who brings a tree to another machine: PacketFS, what people use today over the same ssh, and local bounds.

A mover says how its sides are brought to the same state, what it runs when the source has changed, and where the result
is to be found. It measures nothing itself and knows no case; bench/harness.py plays it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import packetfs
from bench import measure
from bench.harness import HOST, Reading, Scene, Subject, compared

PACKETFS = Path(sysconfig.get_path("scripts")) / "packetfs"
BLOCKS = ("-B4096", "--no-whole-file")  # small blocks: without them the table would flatter us
PATCH_WINDOW_LOG_MIN, PATCH_WINDOW_LOG_MAX = 27, 31


class _Mover:
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


class SshAlone(_Mover):
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


class PacketFSPush(_Mover):
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
        return [PACKETFS, "push", scene.source, *_remote(scene)]

    def verify(self, scene: Scene) -> list[str]:
        out = scene.far / "out"
        scene.machines.at_far([PACKETFS, "pull", f"{_volume(scene)}::main", out])
        return compared(scene.source, out, self.forgets)


class PacketFSPull(PacketFSPush):
    """`packetfs pull` of a volume that the far side fills, into a directory that holds the state before."""

    name = "packetfs pull"
    promise = "checked out, verified and durable before it ends"

    def command(self, scene: Scene) -> list[str | Path]:
        return [PACKETFS, "pull", "--delete", *_remote(scene), self.arrived(scene)]

    def run(self, scene: Scene) -> Reading:
        _push_at_far(scene)
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
            location = f"ssh://{HOST}{_volume(scene)}"
            options = {"location": location, "ssh": scene.machines.ssh_command, "remote": str(PACKETFS)}
            command = [sys.executable, "-m", "bench.session", json.dumps(options)]
            environment = self.environment(scene) | {"PYTHONPATH": str(Path(__file__).parent.parent)}
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


class Rsync(_Mover):
    """`rsync -a --delete` over ssh, with the given options on top."""

    program = "rsync"
    package = "rsync"
    version_command = ("rsync", "--version")
    promise = "nothing synced but by the syncfs here; files checked by digests of their own"

    def __init__(self, *options: str) -> None:
        self._options = options
        short = [option for option in options if option != "--no-whole-file"]
        self.name = " ".join(["rsync -a", *short]).replace("-a -z", "-az")

    def command(self, scene: Scene) -> list[str | Path]:
        target = f"{HOST}:{self.arrived(scene)}/"
        return ["rsync", "-a", "--delete", *self._options, "-e", scene.machines.ssh_command, f"{scene.source}/", target]


class Scp(_Mover):
    """`scp -rp`: copies everything, always."""

    name = "scp"
    program = "scp"
    package = "openssh-client"
    version_command = ("ssh", "-V")
    promise = "nothing synced but by the syncfs here; follows symbolic links; whole seconds"
    forgets = frozenset({"mtime"})

    def command(self, scene: Scene) -> list[str | Path]:
        config = scene.machines.ssh[1:]
        return ["scp", *config, "-rpq", scene.source, f"{HOST}:{self.arrived(scene)}"]


class Unison(_Mover):
    """Unison, the near side preferred; keeps an archive at either side."""

    name = "unison"
    program = "unison"
    package = "unison"
    version_command = ("unison", "-version")
    promise = "nothing synced but by the syncfs here; checked by digests; whole seconds, none of directories"
    forgets = frozenset({"mtime"})

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


class Restic(_Mover):
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


class _Bound(_Mover):
    """A patch between two tar files on one machine: what coding alone can do, with both versions in memory.

    The times are taken out of the tar file's headers and put behind it, side by side. Spread over the headers they cost
    a patch more than all the content that has changed (django 5.2.18 -> 5.2.19: 574 KB instead of 21 without any), and
    a bound so loose would flatter us. `plain` leaves the tar file as it is.
    """

    plain = False

    def prepare(self, scene: Scene) -> None:
        _tar(scene.source, scene.near / "old.tar", plain=self.plain)

    def run(self, scene: Scene) -> Reading:
        old, new, patch = (scene.near / name for name in ("old.tar", "new.tar", "patch"))
        _tar(scene.source, new, plain=self.plain)
        if not old.exists():
            old.touch()
        cost = measure.run(self.encode(old, new, patch), scene.near, scene.near)
        return Reading(
            wall_s=cost.wall_s,
            sync_s=cost.sync_s,
            sent_bytes=patch.stat().st_size,
            near_cpu_s=cost.cpu_s,
            near_anon_bytes=cost.rss_anon_bytes,
        )

    def verify(self, scene: Scene) -> list[str]:
        old, new, patch, out = (scene.near / name for name in ("old.tar", "new.tar", "patch", "out.tar"))
        measure.run(self.decode(old, patch, out), scene.near, scene.near)
        same = subprocess.run(["cmp", "-s", new, out], check=False).returncode == 0
        return [] if same else ["content differs: the tar file"]

    def encode(self, old: Path, new: Path, patch: Path) -> list[str | Path]:
        raise NotImplementedError

    def decode(self, old: Path, patch: Path, out: Path) -> list[str | Path]:
        raise NotImplementedError


class ZstdPatch(_Bound):
    """`zstd --patch-from -3` with a window over both versions; without an old version, a solid `zstd -3 --long=27`."""

    name = "zstd --patch-from"
    program = "zstd"
    package = "zstd"
    version_command = ("zstd", "--version")
    promise = "local; needs both versions whole, in memory"

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        if plain:
            self.name += ", plain tar"

    def encode(self, old: Path, new: Path, patch: Path) -> list[str | Path]:
        base = [f"--patch-from={old}"] if old.stat().st_size else []
        return ["zstd", "-q", "-f", "-3", f"--long={_window_log(old, new)}", *base, new, "-o", patch]

    def decode(self, old: Path, patch: Path, out: Path) -> list[str | Path]:
        base = [f"--patch-from={old}"] if old.stat().st_size else []
        return ["zstd", "-q", "-f", "-d", f"--long={PATCH_WINDOW_LOG_MAX}", *base, patch, "-o", out]


class Xdelta(_Bound):
    """xdelta3 with a window over the whole old version."""

    name = "xdelta3"
    program = "xdelta3"
    package = "xdelta3"
    version_command = ("xdelta3", "-V")
    promise = "local; needs both versions whole"

    def encode(self, old: Path, new: Path, patch: Path) -> list[str | Path]:
        window = max(1 << 26, 1 << old.stat().st_size.bit_length())
        return ["xdelta3", "-q", "-f", "-e", "-B", str(min(window, 2**31 - 1)), "-s", old, new, patch]

    def decode(self, old: Path, patch: Path, out: Path) -> list[str | Path]:
        window = max(1 << 26, 1 << old.stat().st_size.bit_length())
        return ["xdelta3", "-q", "-f", "-d", "-B", str(min(window, 2**31 - 1)), "-s", old, patch, out]


def everyone() -> list[Subject]:
    """All movers, PacketFS first."""
    return [
        PacketFSSession(),
        PacketFSPush(),
        PacketFSPull(),
        PacketFSSync(),
        SshAlone(),
        Rsync(),
        Rsync(*BLOCKS),
        Rsync("-z"),
        Rsync("-z", *BLOCKS),
        Rsync("--partial", "--no-whole-file"),
        Scp(),
        Unison(),
        Restic(),
        ZstdPatch(),
        ZstdPatch(plain=True),
        Xdelta(),
    ]


def _volume(scene: Scene) -> Path:
    return scene.far / "volume"


def _remote(scene: Scene) -> list[str | Path]:
    how: list[str | Path] = ["-e", scene.machines.ssh_command, "--remote-packetfs", PACKETFS]
    return [f"{HOST}:{_volume(scene)}::main", *how]


def _push_at_far(scene: Scene) -> None:
    scene.machines.at_far([PACKETFS, "push", scene.source, f"{_volume(scene)}::main"])


def _tar(tree: Path, target: Path, *, plain: bool) -> None:
    # Sorted, so that neighbours stay neighbours; posix headers for the nanoseconds.
    dated = ["--format=posix"] if plain else ["--format=gnu", "--mtime=@0"]
    options: Sequence[str | Path] = [*dated, "--sort=name", "-C", tree, "-cf", target, "."]
    subprocess.run(["tar", *options], check=True)
    if not plain:
        with target.open("ab") as file:
            file.write(times_column(tree))


def times_column(tree: Path) -> bytes:
    """The mtime of every entry in order of path, each as the difference to the one before, 8 bytes."""
    moments = [os.lstat(path).st_mtime_ns for path in sorted([tree, *tree.rglob("*")])]
    return b"".join(struct.pack("<q", after - before) for before, after in pairwise([0, *moments]))


def _window_log(old: Path, new: Path) -> int:
    both = old.stat().st_size + new.stat().st_size
    return min(max(both.bit_length(), PATCH_WINDOW_LOG_MIN), PATCH_WINDOW_LOG_MAX)
