"""Who is measured: PacketFS and what people use today, each with the same few steps and the same promise at the end.

A subject turns a step into one command. It takes no time and compares nothing. Every command is followed by a `syncfs`
inside the measured time (bench/measure.py), so that all of them promise what PacketFS promises anyway.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Step(StrEnum):
    """What a user does with a store, in this order."""

    COLD = "cold"  # the first push, into nothing
    UNCHANGED = "unchanged"  # again, nothing changed
    CHANGED = "changed"  # again, after 1 % changed
    PULL = "pull"  # the last state, into an empty directory


@dataclass(frozen=True, slots=True)
class Place:
    """Where one round of one subject happens."""

    source: Path
    store: Path
    target: Path
    cache: Path  # what the subject remembers outside its store


class Subject(Protocol):
    """One way to keep a tree."""

    name: str
    promise: str  # what is durable and verified when a step ends, and what is spent on coding
    steps: frozenset[Step]
    package: str  # the Debian package that brings it

    def missing(self) -> bool:
        """Whether this machine does not have it."""

    def version(self) -> str:
        """What it calls itself."""

    def environment(self, place: Place) -> dict[str, str]:
        """Variables that keep its caches and questions inside the place."""

    def prepare(self, place: Place) -> None:
        """What a user has done before the first step. Not measured."""

    def command(self, step: Step, place: Place) -> list[str | Path]:
        """The command of this step, to be run in the source's parent."""

    def pulled(self, place: Place) -> Path:
        """The tree that PULL wrote, to be compared with the source."""


class _Subject:
    """What most subjects answer alike."""

    program = ""
    package = ""
    version_command: tuple[str, ...] = ()
    steps = frozenset(Step)

    def missing(self) -> bool:
        return shutil.which(self.program) is None

    def version(self) -> str:
        done = subprocess.run(self.version_command, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).splitlines()[0].strip()

    def environment(self, place: Place) -> dict[str, str]:
        return {}

    def prepare(self, place: Place) -> None:
        pass

    def pulled(self, place: Place) -> Path:
        return place.target


class PacketFS(_Subject):
    """This project, through its command, its start included."""

    name = "packetfs"
    promise = "bytes, chunk tables and journal are fsynced by itself; nothing is compressed or encrypted"

    def __init__(self) -> None:
        self.program = str(Path(sysconfig.get_path("scripts")) / "packetfs")
        self.version_command = (self.program, "--version")

    def command(self, step: Step, place: Place) -> list[str | Path]:
        if step is Step.PULL:
            return [self.program, "pull", f"{place.store}::main", place.target]
        return [self.program, "push", place.source, f"{place.store}::main"]


class Restic(_Subject):
    """Encrypted and compressed (its default), or encrypted only."""

    program = "restic"
    package = "restic"
    version_command = ("restic", "version")

    def __init__(self, *, compressed: bool) -> None:
        self._coding = "auto" if compressed else "off"
        self.name = "restic" if compressed else "restic, compression off"
        self.promise = "syncs its packs; AES-256 always" + (", zstd" if compressed else "")

    def environment(self, place: Place) -> dict[str, str]:
        return {
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(place.store),
            "RESTIC_CACHE_DIR": str(place.cache),
            "RESTIC_COMPRESSION": self._coding,
        }

    def prepare(self, place: Place) -> None:
        _quietly(["restic", "init", "--repository-version", "2"], self.environment(place))

    def command(self, step: Step, place: Place) -> list[str | Path]:
        if step is Step.PULL:
            return ["restic", "restore", "latest", "--target", place.target]
        return ["restic", "backup", "--compression", self._coding, place.source]

    def pulled(self, place: Place) -> Path:
        return place.target / place.source.relative_to("/")


class Borg(_Subject):
    """Without encryption; lz4 (its default) or nothing."""

    program = "borg"
    package = "borgbackup"
    version_command = ("borg", "--version")

    def __init__(self, *, compressed: bool) -> None:
        self._coding = "lz4" if compressed else "none"
        self.name = "borg" if compressed else "borg, compression none"
        self.promise = "syncs its segments; no encryption, " + ("lz4" if compressed else "no compression")

    def environment(self, place: Place) -> dict[str, str]:
        return {"BORG_BASE_DIR": str(place.cache), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    def prepare(self, place: Place) -> None:
        _quietly(["borg", "init", "--encryption", "none", str(place.store)], self.environment(place))

    def command(self, step: Step, place: Place) -> list[str | Path]:
        if step is Step.PULL:
            into = ["sh", "-c", 'mkdir "$1" && cd "$1" && exec borg extract "$2"', "sh"]
            return [*into, place.target, f"{place.store}::{Step.CHANGED}"]
        return ["borg", "create", "--compression", self._coding, f"{place.store}::{step}", place.source]

    def pulled(self, place: Place) -> Path:
        return place.target / place.source.relative_to("/")


class Copy(_Subject):
    """`cp -a` there and back: no history, no digests, the floor of what a copy costs."""

    name = "cp -a"
    promise = "nothing synced but by the syncfs here; nothing verified"
    program = "cp"
    package = "coreutils"
    version_command = ("cp", "--version")
    steps = frozenset({Step.COLD, Step.PULL})

    def command(self, step: Step, place: Place) -> list[str | Path]:
        return ["cp", "-a", *((place.store, place.target) if step is Step.PULL else (place.source, place.store))]


class Tar(_Subject):
    """One uncompressed file there and back."""

    name = "tar"
    promise = "nothing synced but by the syncfs here; nothing verified, nothing compressed"
    program = "tar"
    package = "tar"
    version_command = ("tar", "--version")
    steps = frozenset({Step.COLD, Step.PULL})

    def command(self, step: Step, place: Place) -> list[str | Path]:
        if step is Step.PULL:
            return ["sh", "-c", 'mkdir "$1" && exec tar -C "$1" -xpf "$2"', "sh", place.target, place.store]
        # posix headers, or tar would round the times down to seconds and the comparison would say so
        return ["tar", "--format=posix", "-C", place.source, "-cf", place.store, "."]


class Find(_Subject):
    """`find -ls`: what it costs to look at every name and its status, and do nothing."""

    name = "find -ls"
    promise = "reads names and statuses only"
    program = "find"
    package = "findutils"
    version_command = ("find", "--version")
    steps = frozenset({Step.UNCHANGED})

    def command(self, step: Step, place: Place) -> list[str | Path]:
        return ["find", place.source, "-ls"]


def everyone() -> list[Subject]:
    """All subjects, PacketFS first."""
    return [
        PacketFS(),
        Restic(compressed=True),
        Restic(compressed=False),
        Borg(compressed=True),
        Borg(compressed=False),
        Copy(),
        Tar(),
        Find(),
    ]


def _quietly(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
