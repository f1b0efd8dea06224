"""Directory trees to push, and what must be equal after they were pulled. Reads and writes files; knows no PacketFS."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_LARGE_BYTES_MAX = 16 << 20


class Facts(NamedTuple):
    """What a pull has to restore of one name."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    content: bytes
    links: frozenset[bytes]


def facts(top: Path) -> dict[bytes, Facts]:
    """Every name beneath `top`, and what it is; the directory itself under the empty name.

    Descends by directory descriptor, so that a path longer than PATH_MAX is no obstacle.
    """
    found: dict[bytes, Facts] = {}
    inodes: dict[tuple[int, int], set[bytes]] = {}
    seen: list[tuple[bytes, os.stat_result, bytes]] = []

    def visit(directory: int, prefix: bytes) -> None:
        for name in sorted(os.listdir(directory), key=os.fsencode):
            raw = os.fsencode(name)
            path = prefix + raw
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(name, dir_fd=directory))
            elif stat.S_ISREG(status.st_mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as file:
                    content = file.read()
                if status.st_nlink > 1:
                    inodes.setdefault((status.st_dev, status.st_ino), set()).add(path)
            seen.append((path, status, content))
            if stat.S_ISDIR(status.st_mode):
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                try:
                    visit(child, path + b"/")
                finally:
                    os.close(child)

    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen.append((b"", os.fstat(descriptor), b""))
        visit(descriptor, b"")
    finally:
        os.close(descriptor)
    for path, status, content in seen:
        found[path] = Facts(
            kind=stat.S_IFMT(status.st_mode),
            mode=stat.S_IMODE(status.st_mode),
            owner=(status.st_uid, status.st_gid),
            mtime_ns=status.st_mtime_ns,
            content=content,
            links=frozenset(inodes.get((status.st_dev, status.st_ino), ())),
        )
    return found


def difference(old: dict[bytes, Facts], new: dict[bytes, Facts]) -> list[str]:
    """What differs, in words; empty when equal. (A dictionary comparison that a person can read.)"""
    lines = [f"missing: {path!r}" for path in old.keys() - new.keys()]
    lines += [f"extra: {path!r}" for path in new.keys() - old.keys()]
    for path in old.keys() & new.keys():
        for field, one, other in zip(Facts._fields, old[path], new[path], strict=True):
            if one != other:
                lines.append(f"{path!r}: {field} {str(one)[:80]} became {str(other)[:80]}")
    return sorted(lines)


def grow(top: Path, seed: int, *, files: int = 60, large_bytes: int = 6 << 20) -> None:
    """A small tree with one of everything part 1 keeps: nesting, odd names, links, modes, large and tiny files."""
    choice = random.Random(seed)
    top.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        folder = top / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_bytes(
            choice.randbytes(choice.choice([0, 1, 37, 4096, 9000, 70_000, 200_000]))
        )
    (top / "large").write_bytes(choice.randbytes(large_bytes))
    (top / "empty directory").mkdir(exist_ok=True)
    with open(os.fsencode(top) + b"/not utf-8 \xff\xfe", "wb") as odd:
        odd.write(b"odd name")
    (top / "line\nbreak and \x1b[31m colour").write_text("control characters")
    _again(top / "to-large", lambda path: path.symlink_to("large"))
    _again(top / "dangling", lambda path: path.symlink_to("/nowhere/at all"))
    _again(top / "d0" / "hard", lambda path: path.hardlink_to(top / "large"))
    (top / "d1" / "script").write_text("#!/bin/sh\n")
    (top / "d1" / "script").chmod(0o755)
    (top / "d2").chmod(0o700)
    (top / "d3" / "read only").write_text("r")
    (top / "d3" / "read only").chmod(0o444)
    os.utime(top / "d4", ns=(1, 1_234_567_890_123_456_789))
    os.utime(top / "d1" / "script", ns=(0, -5_000_000_001))


def _again(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink(missing_ok=True)
    make(path)


def change(top: Path, seed: int) -> None:
    """Edit, grow, shrink, rename, add and remove a few files of a tree that `grow` made.

    Called a thousand times it ends with a tree of much the same size.
    """
    choice = random.Random(seed)
    names = sorted(path for path in top.rglob("file-*") if path.is_file())
    for path in choice.sample(names, 6):
        path.write_bytes(choice.randbytes(choice.randrange(1, 90_000)))
    path = choice.choice(names)
    path.rename(path.with_name(f"file-renamed-{seed}"))
    (top / f"file-new-{seed}").write_bytes(choice.randbytes(300_000))
    (top / f"file-new-{seed - 5}").unlink(missing_ok=True)
    with open(top / "large", "r+b") as large:
        if large.seek(0, os.SEEK_END) > _LARGE_BYTES_MAX:
            large.truncate(_LARGE_BYTES_MAX // 2)
        large.seek(choice.randrange(1 << 20))
        large.write(choice.randbytes(100))
        large.seek(0, os.SEEK_END)
        large.write(choice.randbytes(choice.randrange(1, 3 << 20)))
