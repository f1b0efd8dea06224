"""Find: which paths match a pattern, and in which snapshots they were. Reads pages, and no file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packetfs import kernel
from packetfs.errors import UsageError
from packetfs.format.address import Page
from packetfs.format.snapshot import Snapshot
from packetfs.volume.selection import Pattern, patterns_of
from packetfs.volume.trees import Trees

if TYPE_CHECKING:
    from packetfs.sync.session import Session
    from packetfs.volume import Volume
    from packetfs.volume.replica import Replica

__all__ = ["Found", "find"]


@dataclass(frozen=True, slots=True)
class Found:
    """A path that was in some snapshots of a ref; size and time are of its newest version."""

    ref: str
    path: bytes
    kind: str
    size: int
    mtime_ns: int
    first: Snapshot
    last: Snapshot
    snapshots: int
    """How many snapshots have it: fewer than lie between `first` and `last` if it was away for some time."""


def find(
    volume: "Volume | Session | Replica", pattern: str | bytes, refs: Sequence[str], path: bytes = b""
) -> Iterator[Found]:
    """What matches `pattern` in all snapshots of `refs`, beneath `path`, ref by ref and in order of path.

    The pattern is a glob as in .gitignore: for a name, or with a slash in it for a path. Trees that snapshots share are
    read once.
    """
    from packetfs.sync.session import Session

    glob = pattern.encode("utf-8", "surrogateescape") if isinstance(pattern, str) else pattern
    if not glob.strip(b"/ "):
        raise UsageError("the pattern is empty", hint="give a name or a glob: '*.c', docs/guide.md")
    # What would mean something else in front of a line is part of a name here.
    patterns = patterns_of([Pattern("PATTERN", b"\\" + glob if glob.startswith(b"!") else glob)])
    assert patterns is not None, "there is one"
    lines: list[list[Snapshot]] = []
    for ref in refs:
        snapshots = list(volume.log(ref))[::-1]
        if isinstance(volume, Session):
            for snapshot in snapshots:
                volume.receive(ref, snapshot.name, b"", data=False)
        lines.append(snapshots)
    pages = [[_page(volume.trees, snapshot, path) for snapshot in snapshots] for snapshots in lines]
    found = volume.trees.space.find(pages, patterns, b"/" in glob.rstrip(b"/"))
    for ref, snapshots, rows in zip(refs, lines, found, strict=True):
        for name, kind, size, mtime_ns, first, last, count in rows:
            yield Found(ref, name, kind, size, mtime_ns, snapshots[first], snapshots[last], count)


def _page(trees: Trees, snapshot: Snapshot, path: bytes) -> Page | None:
    """The directory at `path`, if the snapshot has one there."""
    page = kernel.decode_root(snapshot.root).page
    for name in path.split(b"/"):
        if name and page is not None:
            entry = trees.space.lookup(page, name)
            page = None if entry is None else entry.page
    return page
