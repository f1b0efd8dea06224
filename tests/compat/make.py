"""Make the volume of this version that every later version must read: `python -m tests.compat.make NAME`.

Writes NAME.tar.xz and NAME.json.xz beside this file. One that is there is never written again: a version that stores
something new adds another. The manifest says what each snapshot holds, told by the file system and not by PacketFS.
"""

import hashlib
import json
import lzma
import os
import random
import stat
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import packetfs
from packetfs.env import SystemEnv
from packetfs.release import VERSION
from packetfs.volume import Volume, forget, gc

HERE = Path(__file__).parent


def manifest(top: Path) -> dict[str, dict[str, Any]]:
    """What lies beneath `top`, by name; owners are whoever unpacks it."""
    found: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = os.fsencode(path.relative_to(top)).decode("latin-1")
        entry: dict[str, Any] = {"mode": status.st_mode, "mtime_ns": status.st_mtime_ns}
        if stat.S_ISREG(status.st_mode):
            entry["size"], entry["sha256"] = status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()
            if status.st_nlink > 1:
                entry["same_as"] = names.setdefault(status.st_ino, name)
        elif stat.S_ISLNK(status.st_mode):
            entry["target"] = os.fsencode(path.readlink()).decode("latin-1")
        if attributes := {key: os.getxattr(path, key, follow_symlinks=False).hex() for key in _attributes(path)}:
            entry["attributes"] = attributes
        found[name] = entry
    return found


def _attributes(path: Path) -> list[str]:
    return sorted(key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user."))


def grow(top: Path) -> None:
    """One of everything that is stored: kinds, modes, times, odd names, a hole, a directory of several pages."""
    choice = random.Random(20)
    top.mkdir()
    (top / "bin").mkdir(mode=0o750)
    (top / "bin" / "run").write_bytes(b"#!/bin/sh\nexit 0\n")
    (top / "bin" / "run").chmod(0o755)
    (top / "data").write_bytes(choice.randbytes(90_000))
    (top / "empty").write_bytes(b"")
    (top / "empty directory").mkdir()
    os.link(top / "data", top / "bin" / "hard link")
    (top / "link").symlink_to("data")
    (top / "dangling").symlink_to("/nowhere/at all")
    Path(os.fsdecode(os.fsencode(top) + b"/not utf-8 \xff")).write_bytes(b"odd")
    (top / "line\nbreak").write_bytes(b"odd, too")
    with open(top / "sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"the end")
    os.setxattr(top / "data", "user.origin", b"\x00here")
    os.setxattr(top / "bin", "user.of a directory", b"")
    os.mkfifo(top / "fifo", 0o640)
    (top / "many").mkdir()
    for number in range(700):
        (top / "many" / f"file {number:03}").write_bytes(b"%d" % (number % 50))
    date(top)


def date(top: Path) -> None:
    for number, path in enumerate([*sorted(top.rglob("*"), reverse=True), top]):
        os.utime(path, ns=(0, 1_234_567_890_000_000_000 + 1_000_000_007 * number), follow_symlinks=False)


def remove(volume: Volume, snapshots: list[dict[str, Any]]) -> None:
    """Forget the first snapshot of main and give back what only it needed."""
    (gone,) = (told for told in snapshots[:1] if told["ref"] == "main")
    (seq,) = (seq for _, seq, snapshot in volume.snapshots() if snapshot.id.hex() == gone["id"])
    forget.forget(volume, "main", [seq])
    assert gc.collect(volume, grace_s=0, wait_s=0).freed_bytes
    snapshots.remove(gone)


class _Env(SystemEnv):
    """A machine and a user of no name."""

    def host(self) -> str:
        return "host"

    def user(self) -> str:
        return "user"


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main(name: str) -> None:
    archive = HERE / f"{name}.tar.xz"
    if archive.exists():
        raise SystemExit(f"{archive} is there, and never changes")
    snapshots: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        source, place = Path(scratch) / "source", Path(scratch) / "volume"
        with Volume.open(place, create=True, env=_Env()) as volume:

            def push(what: Path, ref: str) -> None:
                snapshot = packetfs.push(volume, [what], ref, message=f"{ref} of {VERSION}").snapshot
                assert snapshot is not None
                holds = manifest(what) if what.is_dir() else {what.name: manifest(what.parent)[what.name]}
                snapshots.append({"ref": ref, "id": snapshot.id.hex(), "holds": holds})

            grow(source)
            push(source, "main")
            (source / "data").write_bytes((source / "data").read_bytes()[:50_000] + b"changed")
            (source / "many" / "file 123").unlink()
            date(source)
            push(source, "main")
            (source / "link").unlink()
            date(source)
            push(source, "main")
            push(source / "bin" / "run", "single")
            remove(volume, snapshots)
            (source / "after").write_bytes(b"what was reclaimed")
            date(source)
            push(source, "main")
        for data in (place / "segments").glob("*.data"):
            os.truncate(data, len(data.read_bytes().rstrip(b"\0")) + 4096)
        for derived in ("index", "cache"):
            for path in (place / derived).glob("*"):
                path.unlink()
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            tar.add(place, "volume", filter=_nobodys)
    text = json.dumps({"version": VERSION, "snapshots": snapshots}, indent=0, ensure_ascii=True)
    (HERE / f"{name}.json.xz").write_bytes(lzma.compress(text.encode()))


if __name__ == "__main__":
    main(sys.argv[1])
