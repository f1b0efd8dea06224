"""A volume in a temporary directory, a clock that a test turns, and trees as dictionaries."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from packetfs import kernel
from packetfs.env import SystemEnv
from packetfs.volume import Snapshot, Volume

Tree: TypeAlias = dict[str, bytes | None]
"""Path -> content of a file, or None for a directory."""

LARGE = random.Random(1).randbytes(512_000)  # no two chunks of it are alike
TICK_NS = 20_000_000  # what a push takes the file system's clock to be off by at most
START_NS = 1_795_349_107_000_000_000


class TurnedEnv(SystemEnv):
    """A clock that stands still until it is turned; sleeping turns it and is remembered."""

    def __init__(self) -> None:
        self.time_ns = START_NS
        self.slept_s: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def now_ns(self) -> int:
        return self.time_ns

    def monotonic_s(self) -> float:
        return self.time_ns / 1e9

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.time_ns += int(seconds * 1e9)
        self.on_sleep()


@pytest.fixture
def env() -> TurnedEnv:
    return TurnedEnv()


@pytest.fixture
def volume(tmp_path: Path, env: TurnedEnv) -> Iterator[Volume]:
    with Volume.create(tmp_path / "volume", env=env) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small directory."""
    return grown(tmp_path / "source", {"a/hello": b"hello", "a/empty": b"", "b": None, "large": LARGE})


def grown(directory: Path, tree: Tree) -> Path:
    """`directory` with `tree` in it."""
    directory.mkdir(exist_ok=True)
    for name, content in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)
    return directory


def rested(directory: Path) -> Path:
    """`directory`, once its files are older than a stat cache has to doubt: what was just made, it rightly reads again.

    The file system's own clock is asked; a fast machine makes, pushes and verifies a tree within one of its ticks.
    """
    newest_ns = max(os.lstat(path).st_ctime_ns for path in (directory, *directory.rglob("*")))
    probe = directory.with_name(f"{directory.name}.clock")
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_mtime_ns > newest_ns + 2 * TICK_NS:
            probe.unlink()
            return directory


def on_disk(directory: Path) -> Tree:
    """What is below `directory`."""
    found: Tree = {}
    for path in sorted(directory.rglob("*")):
        found[str(path.relative_to(directory))] = path.read_bytes() if path.is_file() else None
    return found


def stored(volume: Volume, snapshot: Snapshot) -> Tree:
    """What a snapshot holds, read back through the volume."""
    found: Tree = {}

    def walk(directory: kernel.Entry, prefix: str) -> None:
        for entry in volume.entries(directory):
            path = prefix + os.fsdecode(entry.name)
            if entry.kind == "directory":
                found[path] = None
                walk(entry, path + "/")
            else:
                found[path] = b"".join(volume.read(entry))

    walk(volume.root(snapshot), "")
    return dict(sorted(found.items()))
