"""Diff: what is different between two places of one volume. Reads only the pages that differ, and no file."""

from collections.abc import Iterator
from dataclasses import dataclass

from packetfs import kernel
from packetfs.format.snapshot import Snapshot
from packetfs.volume.trees import Trees

__all__ = ["Difference", "compare"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs. The path is relative to what was compared; the thing itself is `.`."""

    path: bytes
    change: str
    """added, removed, changed, metadata or renamed."""
    kind: str
    old_size: int
    new_size: int
    old_path: bytes | None = None


def compare(volume: Trees, old: tuple[Snapshot, bytes], new: tuple[Snapshot, bytes]) -> Iterator[Difference]:
    """What turns `old` into `new`; each is a snapshot and a path in it."""
    before, after = _entry(volume, old), _entry(volume, new)
    if before.kind != after.kind:
        yield Difference(b".", "removed", before.kind, before.size, 0)
        yield Difference(b".", "added", after.kind, 0, after.size)
        return
    if (change := _own_change(before, after)) is not None:
        yield Difference(b".", change, after.kind, before.size, after.size)
    if before.page is None or after.page is None or before.page[2] == after.page[2]:
        return
    for found in volume.space.diff(before.page, after.page):
        yield Difference(found.path, found.change, found.kind, found.old_size, found.new_size, found.old_path)


def _entry(volume: Trees, place: tuple[Snapshot, bytes]) -> kernel.Entry:
    snapshot, path = place
    return volume.entry(snapshot, path) if path else volume.root(snapshot)


def _own_change(before: kernel.Entry, after: kernel.Entry) -> str | None:
    """What changed about the compared things themselves, apart from a directory's contents."""
    if after.page is None and (before.digest, before.target) != (after.digest, after.target):
        return "changed"
    if _metadata(before) != _metadata(after):
        return "metadata"
    return None


def _metadata(entry: kernel.Entry) -> tuple[int, int, int, bytes, bytes, int]:
    return entry.mode, entry.uid, entry.gid, entry.user, entry.group, entry.mtime_ns
