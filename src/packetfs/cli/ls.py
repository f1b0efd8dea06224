"""`packetfs ls`: list what a snapshot holds."""

import os
import stat
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import time_text

if TYPE_CHECKING:
    from packetfs.cli.invocation import Opened
    from packetfs.volume import Entry

_TYPES: Final = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "char-device": stat.S_IFCHR,
    "block-device": stat.S_IFBLK,
}


@command(
    "ls",
    examples="""
packetfs ls /srv/volume::main
packetfs ls -lR /srv/volume::main@~1:/docs
packetfs ls --json -R /srv/volume::main
""",
)
@click.argument("location", metavar="VOLUME::REF[@WHEN][:/PATH]", shell_complete=paths)
@click.option("-l", "--long", "long_form", is_flag=True, help="Mode, owner, size and time of each name as well.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below as well, each with its path.")
@remote_options
def ls(invocation: Invocation, *, location: str, long_form: bool, recursive: bool) -> None:
    r"""List what a snapshot holds.

    Names are in the order of their bytes. A name that a terminal could not show as it is is escaped: `\n`, `\x9b`,
    `\u202e`, and a backslash as `\\`. With -l a `+` after the mode says that there are extended attributes.
    """
    output = invocation.output
    place = invocation.location(location, remote=True)
    with invocation.open(place) as volume:
        snapshot = volume.resolve(place.line, place.when)
        entry = volume.entry(snapshot, place.path) if place.path else volume.root(snapshot)
        if entry.page is None:
            found = iter([(place.path.rpartition(b"/")[2] or entry.name, entry)])
        else:
            found = _below(volume, entry, recursive=recursive)
        for path, item in found:
            output.data(_line(path, item), _long(path, item) if long_form else _short(path, item))


def _below(volume: "Opened", directory: "Entry", *, recursive: bool) -> "Iterator[tuple[bytes, Entry]]":
    """Paths and entries beneath `directory`, depth first. A stack, because trees may be deeper than Python's calls."""
    stack = [(b"", volume.entries(directory))]
    while stack:
        prefix, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        path = prefix + entry.name
        yield path, entry
        if recursive and entry.page is not None:
            stack.append((path + b"/", volume.entries(entry)))


def _short(path: bytes, entry: "Entry") -> str:
    return shown(path) + ("/" if entry.kind == "directory" else "")


def _long(path: bytes, entry: "Entry") -> str:
    mode = stat.filemode(_TYPES[entry.kind] | entry.mode)
    user = shown(entry.user) if entry.user else str(entry.uid)
    group = shown(entry.group) if entry.group else str(entry.gid)
    name = shown(path) + (f" -> {shown(entry.target)}" if entry.kind == "symlink" else "")
    size = _device(entry, ", ") or str(entry.size)
    attributes = "+" if entry.xattrs else ""
    return f"{mode}{attributes} {user:<8} {group:<8} {size:>12} {time_text(entry.mtime_ns)} {name}"


def _line(path: bytes, entry: "Entry") -> lines.Listed:
    return lines.Listed(
        path=path,
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        user=entry.user,
        group=entry.group,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        target=entry.target if entry.kind == "symlink" else None,
        link_id=f"{entry.link_id:016x}" if entry.link_id else None,
        digest=entry.digest.hex() if entry.kind in ("file", "directory") else None,
        rdev=_device(entry, ":"),
        xattrs={shown(name): b64encode(value).decode("ascii") for name, value in entry.xattrs} or None,
    )


def _device(entry: "Entry", separator: str) -> str | None:
    if entry.kind not in ("char-device", "block-device"):
        return None
    return f"{os.major(entry.rdev)}{separator}{os.minor(entry.rdev)}"
