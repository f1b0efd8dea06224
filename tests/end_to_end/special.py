"""Trees of what a file can be beyond its bytes, and two judges of whether it came back: rsync, and our own eyes.

Reads and writes files; knows no PacketFS.
"""

import errno
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw, effective
SPARSE_BYTES = 8 << 20


class Special(NamedTuple):
    """What rsync does not look at closely enough."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    rdev: int
    attributes: dict[str, bytes]
    extents: list[tuple[int, int]]
    names: frozenset[bytes]


def acl(user: int, *, rights: int = 7) -> bytes:
    """An access control list as the kernel keeps it: rights for one more user."""
    nobody = 0xFFFFFFFF
    rows = [(1, 6, nobody), (2, rights, user), (4, 4, nobody), (16, 6, nobody), (32, 4, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def need_attributes(directory: Path) -> None:
    """Skip where the file system has no extended attributes or access control lists."""
    try:
        os.setxattr(directory, "user.probe", b"1")
        os.removexattr(directory, "user.probe")
        os.setxattr(directory, "system.posix_acl_default", acl(1))
        os.removexattr(directory, "system.posix_acl_default")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"the file system of {directory} has no extended attributes or access control lists")


def need_root() -> None:
    """Skip where devices cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("only root makes devices, gives files away and sets trusted attributes")


def sparse(path: Path, size: int = SPARSE_BYTES, *, every: int = 1 << 20) -> None:
    """A file with a block of bytes in each `every` bytes."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset in range(every // 2, size, every):
            file.seek(offset & ~4095)
            file.write(os.urandom(4096))


def grow_special(top: Path) -> None:
    """What everybody may make: attributes, lists of rights, holes, a pipe, links, odd modes, old directories."""
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    (top / "plain").write_bytes(b"plain")
    (top / "named").write_bytes(b"with attributes")
    os.setxattr(top / "named", "user.empty", b"")
    os.setxattr(top / "named", "user.long", os.urandom(2000))
    os.setxattr(top / "a", "user.of a directory", b"\x00\xff")
    (top / "listed").write_bytes(b"with a list of rights")
    os.setxattr(top / "listed", "system.posix_acl_access", acl(4321))
    os.setxattr(top / "c", "system.posix_acl_default", acl(4321, rights=5))
    (top / "c" / "inherits").write_bytes(b"made there")
    sparse(top / "sparse")
    (top / "small").write_bytes(b"")
    sparse(top / "small", 40_000, every=20_000)
    sparse(top / "only-a-hole", 16 << 20, every=1 << 40)
    with open(top / "only-a-hole", "r+b") as file:
        file.truncate(0)
        file.truncate(16 << 20)
    os.mkfifo(top / "a" / "pipe")
    os.chmod(top / "a" / "pipe", 0o622)
    os.link(top / "a" / "pipe", top / "c" / "same pipe")
    os.link(top / "named", top / "a" / "b" / "same")
    (top / "link").symlink_to("named")
    os.link(top / "link", top / "c" / "same link", follow_symlinks=False)
    (top / "program").write_bytes(b"#!/bin/sh\n")
    os.chmod(top / "program", 0o6755)
    os.chmod(top / "c", 0o3775)
    (top / "locked").write_bytes(b"nobody writes")
    os.setxattr(top / "locked", "user.kept", b"all the same")
    os.chmod(top / "locked", 0o444)
    os.utime(top / "a" / "b", ns=(0, 1_234_567_890_987_654_321))
    os.utime(top / "a", ns=(0, 5))
    os.utime(top / "link", ns=(0, 1_111_111_111_000_000_001), follow_symlinks=False)


def grow_roots(top: Path) -> None:
    """What only root may make."""
    os.mknod(top / "a" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(top / "a" / "null", 0o666)
    os.mknod(top / "disk", 0o640 | stat.S_IFBLK, os.makedev(259, 70_000))
    os.setxattr(top / "disk", "trusted.of a device", b"1")
    os.chown(top / "disk", 4321, 8765)
    os.chown(top / "program", 4321, 8765)
    os.chmod(top / "program", 0o6755)
    (top / "capable").write_bytes(b"program")
    os.chown(top / "capable", 4321, 0)
    os.setxattr(top / "capable", "security.capability", CAPABILITY)
    os.setxattr(top / "plain", "trusted.secret", b"x" * 300)
    os.setxattr(top / "link", "trusted.of a link", b"1", follow_symlinks=False)
    os.chown(top / "link", 12, 34, follow_symlinks=False)
    os.utime(top / "link", ns=(0, 1_111_111_111_000_000_001), follow_symlinks=False)
    os.utime(top / "a", ns=(0, 5))


def specials(top: Path) -> dict[bytes, Special]:
    """Every name beneath `top`, the directory itself included."""
    paths = [b".", *(os.fsencode(path.relative_to(top)) for path in top.rglob("*"))]
    raw = os.fsencode(top)
    found = {path: os.lstat(os.path.join(raw, path)) for path in paths}
    groups: dict[int, set[bytes]] = {}
    for path, status in found.items():
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            groups.setdefault(status.st_ino, set()).add(path)
    return {
        path: Special(
            mode=status.st_mode,
            owner=(status.st_uid, status.st_gid),
            mtime_ns=status.st_mtime_ns,
            rdev=status.st_rdev,
            attributes=_attributes(os.path.join(raw, path)),
            extents=extents(os.path.join(raw, path)) if stat.S_ISREG(status.st_mode) else [],
            names=frozenset(groups.get(status.st_ino, ())),
        )
        for path, status in found.items()
    }


def _attributes(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def extents(path: bytes | Path) -> list[tuple[int, int]]:
    """Where a file has bytes, and not holes."""
    found = []
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < end:
            try:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, offset))
    return found


def unlike(old: dict[bytes, Special], new: dict[bytes, Special]) -> list[str]:
    """What differs, in words."""
    lines = [f"only on one side: {path!r}" for path in old.keys() ^ new.keys()]
    for path in old.keys() & new.keys():
        for field, one, other in zip(Special._fields, old[path], new[path], strict=True):
            if one != other:
                lines.append(f"{path!r}: {field} {one!r} became {other!r}")
    return sorted(lines)


def rsync_sees(source: Path, target: Path) -> list[str]:
    """What rsync would change in `target` to make it `source`."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync, the judge, is not installed")
    done = subprocess.run(
        ["rsync", "-aHAXS", "--checksum", "-n", "-i", "--delete", f"{source}/", f"{target}/"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
