"""Are two trees on disk the same: names, kinds, bytes, modes, link targets, hard links, mtimes to the nanosecond?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of a tree: what rates are computed from."""

    files: int
    bytes: int


def size(tree: Path) -> Size:
    """Count regular files and their bytes."""
    found = [status.st_size for _, status in _walk(os.fsencode(tree)) if stat.S_ISREG(status.st_mode)]
    return Size(len(found), sum(found))


def differences(expected: Path, found: Path, *, limit: int = 10) -> list[str]:
    """What differs, one line each, `limit` at most; an empty list means that they are the same."""
    lines: list[str] = []
    left, right = os.fsencode(expected), os.fsencode(found)
    wanted, present = dict(_walk(left)), dict(_walk(right))
    for path in sorted(wanted.keys() | present.keys()):
        if len(lines) >= limit:
            break
        if path not in present:
            lines.append(f"missing: {os.fsdecode(path)}")
        elif path not in wanted:
            lines.append(f"not expected: {os.fsdecode(path)}")
        elif what := _differs(left + path, wanted[path], right + path, present[path]):
            lines.append(f"{what} differs: {os.fsdecode(path)}")
    if not lines and (apart := _link_groups(wanted) ^ _link_groups(present)):
        lines.append(f"hard links differ: {os.fsdecode(min(min(apart)))}")
    return lines


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every entry with its path below `root` (the root itself is empty), links not followed."""
    yield b"", os.lstat(root)
    directories = [b""]
    while directories:
        directory = directories.pop()
        with os.scandir(root + directory) as entries:
            for entry in entries:
                path = directory + b"/" + entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    directories.append(path)
                yield path, status


def _differs(left: bytes, a: os.stat_result, right: bytes, b: os.stat_result) -> str | None:
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        return "kind"
    if stat.S_ISLNK(a.st_mode):
        return "target" if os.readlink(left) != os.readlink(right) else None
    # The content before the times: who may forget times must not get away with wrong bytes.
    if stat.S_ISREG(a.st_mode) and (a.st_size != b.st_size or not _same_bytes(left, right)):
        return "content"
    if stat.S_IMODE(a.st_mode) != stat.S_IMODE(b.st_mode):
        return "mode"
    if a.st_mtime_ns != b.st_mtime_ns:
        return "directory mtime" if stat.S_ISDIR(a.st_mode) else "mtime"
    return None


def _same_bytes(left: bytes, right: bytes) -> bool:
    with open(left, "rb") as a, open(right, "rb") as b:
        while piece := a.read(READ_BYTES):
            if piece != b.read(READ_BYTES):
                return False
        return not b.read(1)


def _link_groups(tree: dict[bytes, os.stat_result]) -> set[tuple[bytes, ...]]:
    groups: dict[tuple[int, int], list[bytes]] = {}
    for path, status in tree.items():
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {tuple(sorted(paths)) for paths in groups.values() if len(paths) > 1}
