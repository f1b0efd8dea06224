"""What commands do to a directory, as strace saw it, and the states in which a power cut could leave that directory.

A state is made from a prefix of the recorded calls: what a sync covers is there; of the rest each call may have come to
the disk or not, whatever the order, and a write may have come as length without bytes. That is more than file systems
do: nothing here knows that a synced file has its name, or that names come in order. It starts commands and makes
directories; what must hold in a state is the tests' to say.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

_CALLS = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,fsync,"
    "fdatasync,syncfs,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat"
)
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?")
_BEGUN = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")

Fate = Literal["kept", "lost", "length"]


@dataclass(eq=False, slots=True)
class Node:
    """A file or a directory, whatever its names are."""

    is_directory: bool
    names: dict[str, "Node"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One change, by what it was done to: names may have moved since."""

    kind: Literal["bytes", "length", "name", "gone", "move", "sync"]
    node: Node
    """The file that is changed, or the directory; what is synced."""
    offset: int = 0
    data: bytes = b""
    name: str = ""
    child: Node | None = None
    other: Node | None = None
    """Where something is moved from, as `data` is called there."""


class Recording:
    """Calls beneath `root`, in order, of all commands that were recorded."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root.resolve())
        self._top = Node(is_directory=True)
        self._at: dict[str, int] = {}
        self.calls: list[Call] = []

    def run(self, trace: Path, *command: str | Path, env: dict[str, str]) -> None:
        """Run a command, which must succeed, and record what it does."""
        options: list[str | Path] = [
            "-f",
            "-y",
            "-xx",
            "-s",
            str(1 << 26),
            "-e",
            f"trace={_CALLS}",
            "-e",
            "signal=none",
            "-o",
            trace,
        ]
        try:
            done = subprocess.run(["strace", *options, *command], env=env, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("strace is not installed")
        if b"ptrace" in done.stderr.lower():
            pytest.skip(f"strace may not trace here: {done.stderr.decode().strip()}")
        assert done.returncode == 0, done.stderr
        begun: dict[str, str] = {}
        for line in trace.read_text().splitlines():
            if found := _BEGUN.match(line):
                begun[found[1]] = found[2]
            elif found := _RESUMED.match(line):
                self._take(f"{found[1]} {begun.pop(found[1])}{found[3]}")
            else:
                self._take(line)

    def state(self, until: int, fate: Callable[[int], Fate], where: Path) -> None:
        """Make `where` what the disk may have after the first `until` calls; `fate` is asked for each unsynced one."""
        synced: set[Node] = set()
        durable = [False] * until
        for index in reversed(range(until)):
            call = self.calls[index]
            if call.kind == "sync":
                synced.add(call.node)
            durable[index] = call.node in synced
        names: dict[Node, dict[str, Node]] = {self._top: {}}
        content: dict[Node, bytearray] = {}
        for index, call in enumerate(self.calls[:until]):
            kept: Fate = "kept" if durable[index] or call.kind == "sync" else fate(index)
            if kept != "lost":
                _apply(call, names, content, with_bytes=kept == "kept")
        _write(self._top, names, content, where)

    def unsynced(self, until: int) -> list[int]:
        """The calls of the first `until` whose fate `state` asks for."""
        asked: list[int] = []
        synced: set[Node] = set()
        for index in reversed(range(until)):
            call = self.calls[index]
            if call.kind == "sync":
                synced.add(call.node)
            elif call.node not in synced:
                asked.append(index)
        return asked[::-1]

    def _take(self, line: str) -> None:
        found = _LINE.match(line)
        if found is None or int(found[4]) < 0:
            return  # an exit, or a call that failed
        name, arguments = found[2], found[3].split(", ")
        if name in ("open", "openat", "openat2", "creat"):
            self._opened(_text(found[5] or ""), found[3])
        elif name in ("write", "pwrite64"):
            if node := self._file(arguments[0]):
                data = _bytes(arguments[1])[: int(found[4])]
                path = _path_of(arguments[0])
                offset = int(arguments[3]) if name == "pwrite64" else self._at.get(path, 0)
                if name == "write":
                    self._at[path] = offset + len(data)
                self.calls.append(Call("bytes", node, offset, data))
        elif name in ("ftruncate", "fallocate"):
            if node := self._file(arguments[0]):
                length = int(arguments[1]) if name == "ftruncate" else int(arguments[2]) + int(arguments[3])
                self.calls.append(Call("length", node, length))
        elif name in ("fsync", "fdatasync"):
            if node := self._find(_path_of(arguments[0])):
                self.calls.append(Call("sync", node))
        elif name.startswith(("rename", "mkdir", "unlink", "rmdir")):
            self._named(name, _places(arguments))
        else:
            assert self._root not in _text(line), f"a call that nobody expected: {name}"

    def _opened(self, path: str, arguments: str) -> None:
        if "O_CREAT" not in arguments or not path.startswith(self._root + "/"):
            return
        self._at[path] = 0
        if node := self._find(path):
            if "O_TRUNC" in arguments:
                self.calls.append(Call("length", node, 0))
            return
        self._make(path, Node(is_directory=False))

    def _named(self, name: str, places: Sequence[str]) -> None:
        if not all(place.startswith(self._root + "/") for place in places):
            return
        above, own = os.path.split(places[0])
        directory = self._find(above)
        assert directory is not None, places
        if name.startswith("mkdir"):
            self._make(places[0], Node(is_directory=True))
        elif name.startswith("rename"):
            target, new = os.path.split(places[1])
            to = self._find(target)
            assert to is not None, places
            child = directory.names.pop(own)
            to.names[new] = child
            self.calls.append(Call("move", to, data=own.encode(), name=new, child=child, other=directory))
        else:
            self.calls.append(Call("gone", directory, name=own, child=directory.names.pop(own)))

    def _make(self, path: str, node: Node) -> None:
        above, own = os.path.split(path)
        directory = self._find(above)
        assert directory is not None, path
        directory.names[own] = node
        self.calls.append(Call("name", directory, name=own, child=node))

    def _file(self, argument: str) -> Node | None:
        path = _path_of(argument)
        # Shared memory of SQLite: gone with the machine.
        return None if path.endswith("-shm") else self._find(path)

    def _find(self, path: str) -> Node | None:
        if path != self._root and not path.startswith(self._root + "/"):
            return None
        node: Node | None = self._top
        for name in path[len(self._root) + 1 :].split("/"):
            node = node if not name or node is None else node.names.get(name)
        return node


def _apply(call: Call, names: dict[Node, dict[str, Node]], content: dict[Node, bytearray], *, with_bytes: bool) -> None:
    """Do again what a call did, if what it needs is there."""
    if call.kind in ("bytes", "length"):
        held = content.setdefault(call.node, bytearray())
        end = call.offset + len(call.data)
        if call.kind == "length" and end < len(held):
            del held[end:]
        held.extend(bytes(max(0, end - len(held))))
        if with_bytes:
            held[call.offset : end] = call.data
        return
    directory = names.setdefault(call.node, {})
    if call.kind == "name" and call.child is not None:
        directory[call.name] = call.child
    elif call.kind == "gone" and directory.get(call.name) is call.child:
        del directory[call.name]
    elif call.kind == "move" and call.child is not None and call.other is not None:
        names.setdefault(call.other, {}).pop(call.data.decode(), None)
        directory[call.name] = call.child


def _write(node: Node, names: dict[Node, dict[str, Node]], content: dict[Node, bytearray], where: Path) -> None:
    where.mkdir(mode=0o700)
    for name, child in names.get(node, {}).items():
        if child.is_directory:
            _write(child, names, content, where / name)
        elif not name.endswith("-shm"):
            (where / name).write_bytes(content.get(child, b""))
            (where / name).chmod(0o600)


def _bytes(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _text(hexed: str) -> str:
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda found: os.fsdecode(_bytes(found[0])), hexed)


def _path_of(argument: str) -> str:
    """Of a descriptor, as strace shows it."""
    return _text(argument.partition("<")[2].rstrip(">"))


def _places(arguments: Sequence[str]) -> list[str]:
    """The absolute paths that a call names."""
    places: list[str] = []
    above = os.getcwd()
    for argument in arguments:
        if "<" in argument:
            above = _path_of(argument)
        elif argument.startswith('"'):
            places.append(os.path.normpath(os.path.join(above, os.fsdecode(_bytes(argument)))))
    return places
