"""The files of a volume whose secret is lost, written into a directory. None of them can be verified, and none is.

Digests, ids and MACs are keyed by the secret, so without it no byte can be told from another that lies in its place.
Entries of the journal and pages parse without keys, and chunk tables name their segments: what the newest snapshot of
each ref names is read through them as it lies there. The volume itself is never written to, and never recovered: with
its secret from a backup, `verify` and `rebuild` do that.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from packetfs import kernel
from packetfs.errors import DamagedError, PacketFSError, RefusedError, disk_error
from packetfs.events import Progress
from packetfs.format.descriptor import DESCRIPTOR_BYTES_MAX, decode_descriptor
from packetfs.format.entry import ENTRY_BYTES_MAX, MAC_BYTES, Commit, Entry, Forget, decode_entry
from packetfs.format.location import check_ref
from packetfs.format.snapshot import Snapshot, decode_snapshot
from packetfs.volume.volume import DESCRIPTOR_NAME, open_descriptor

__all__ = ["Salvaged", "salvage"]

_REMOVED: Final = "the ref was removed, and what has been reclaimed of it since is zeros"


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was written of one ref."""

    ref: str
    snapshot: Snapshot
    files: int
    written_bytes: int
    why_not: str
    """Why it is not whole, as far as that shows; empty if nothing shows it."""


def salvage(
    path: str, into: str, *, progress: Callable[[Progress], None] | None = None
) -> tuple[tuple[Salvaged, ...], int, int]:
    """Write the newest snapshot of each ref of the volume at `path` to `into`/REF, unverified.

    Also how many bytes were missing, which are zeros, and how many pages, whose directories are empty or absent.
    RefusedError if the volume has its secret, or if `into` is not a new or empty directory outside of it.
    """
    _refuse_secret(path)
    _make(path, into)
    descriptor = decode_descriptor(_read(os.path.join(path, DESCRIPTOR_NAME)))
    source = kernel.Unverified(os.fsencode(path), descriptor.volume_id)
    done = tuple(_write(source, ref, found, into, progress, why_not=why) for ref, found, why in _newest(source))
    if not done:
        raise DamagedError(f"no journal entry was found in the segments of {path!r}", code="journal-damaged")
    return (done, *source.lost)


def _newest(source: kernel.Unverified) -> Iterator[tuple[str, Snapshot, str]]:
    """The last snapshot of each ref that can be read, by ref; and why it may not be whole."""
    newest: dict[str, tuple[Entry, Snapshot]] = {}
    forgotten: set[tuple[str, int]] = set()
    for chunk in source.journal(ENTRY_BYTES_MAX + MAC_BYTES):
        with suppress(PacketFSError):
            entry = decode_entry(chunk[:-MAC_BYTES])
            if isinstance(entry.body, Commit):
                ref = check_ref(entry.body.ref)  # it becomes a name beneath the target
                snapshot = decode_snapshot(entry.body.snapshot, entry.body.snapshot_id)
                before = newest.get(ref)
                if before is None or (before[0].epoch, before[0].seq) < (entry.epoch, entry.seq):
                    newest[ref] = entry, snapshot
            elif isinstance(entry.body, Forget):
                forgotten.update((entry.body.ref, seq) for seq in entry.body.seqs)
    for ref, (entry, snapshot) in sorted(newest.items()):
        yield ref, snapshot, _REMOVED if (ref, entry.seq) in forgotten else ""


def _write(
    source: kernel.Unverified,
    ref: str,
    snapshot: Snapshot,
    into: str,
    progress: Callable[[Progress], None] | None,
    *,
    why_not: str,
) -> Salvaged:
    files = 0

    def advance(entries: int, written_bytes: int) -> None:
        if progress is not None:
            progress(Progress(phase="writing", files=entries, bytes=written_bytes))

    def count(changes: list[tuple[bytes, str, str, int, str]]) -> None:
        nonlocal files
        files += sum(kind == "file" for _, _, kind, _, _ in changes)

    target = os.path.join(into, ref if ref not in (".", "..") else f"ref {ref}")
    os.mkdir(target, 0o700)
    try:
        done = source.checkout(snapshot.root, os.fsencode(target), progress=advance, report=count)
    except PacketFSError as error:
        if error.values.get("errno") is not None:  # our own disk's
            raise
        return Salvaged(ref, snapshot, files, 0, f"it ends there: {error.message}")
    return Salvaged(ref, snapshot, files, done.written_bytes, why_not)


def _refuse_secret(path: str) -> None:
    try:
        open_descriptor(path)
    except DamagedError as error:
        if error.code == "secret-damaged":
            return
        raise
    raise RefusedError(
        f"the volume at {path!r} has its secret: what it holds can be verified",
        hint="use `packetfs pull`, and before it `packetfs rebuild` without --without-secret if the journal is lost",
    )


def _make(path: str, into: str) -> None:
    inside = os.path.join(os.path.realpath(path), "")
    if os.path.join(os.path.realpath(into), "").startswith(inside):
        raise RefusedError(f"{into!r} is inside the volume itself", hint="name a directory of your own")
    try:
        os.makedirs(into, mode=0o700, exist_ok=True)
        if os.listdir(into):
            raise RefusedError(
                f"{into!r} is not empty", code="directory-not-empty", hint="name a new directory", path=into
            )
        os.chmod(into, 0o700)  # modes in there are as unverified as the rest: nobody else may run what is setuid
    except OSError as error:
        raise disk_error("create", into, error.errno or 0) from None


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(DESCRIPTOR_BYTES_MAX + 1)
    except OSError as error:
        raise disk_error("read", file, error.errno or 0) from None
