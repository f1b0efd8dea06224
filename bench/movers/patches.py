"""Local bounds: a patch between two tar files."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bench import measure
from bench.harness import Reading, Scene
from bench.movers.mover import Mover

PATCH_WINDOW_LOG_MIN, PATCH_WINDOW_LOG_MAX = 27, 31


class _Bound(Mover):
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
