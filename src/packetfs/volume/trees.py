"""Reading what a snapshot holds, from whatever holds its bytes: a volume, or a replica of one. Nothing is changed."""

import os
from collections.abc import Iterator
from typing import Final

from packetfs import kernel
from packetfs.env import Env
from packetfs.errors import NotFoundError
from packetfs.format.snapshot import Snapshot
from packetfs.volume.keys import Keys

__all__ = ["Trees"]

_ZEROS: Final = bytes(1 << 20)  # what a hole reads as, a piece at a time


class Trees:
    """Snapshots as trees of entries, over the bytes in `space`."""

    path: str
    """The directory in which it all is."""
    space: kernel.Space
    """The bytes."""
    keys: Keys
    env: Env

    @property
    def trees(self) -> "Trees":
        """Itself: what else reads trees (a session) says what it reads them from."""
        return self

    def root(self, snapshot: Snapshot) -> kernel.Entry:
        """The root entry of a snapshot."""
        return kernel.decode_root(snapshot.root)

    def entry(self, snapshot: Snapshot, path: bytes) -> kernel.Entry:
        """The entry at `path` (see format.location.parse_path); NotFoundError if there is none."""
        entry = self.root(snapshot)
        done = b""
        for name in path.split(b"/") if path else ():
            if entry.page is None:
                raise NotFoundError(
                    f"{os.fsdecode(done) or '/'!r} is a {entry.kind} in snapshot {snapshot.short}, not a directory",
                    code="not-a-directory",
                    path=os.fsdecode(path),
                )
            found = self.space.lookup(entry.page, name)
            done = done + b"/" + name if done else name
            if found is None:
                raise NotFoundError(
                    f"snapshot {snapshot.short} has no {os.fsdecode(done)!r}",
                    code="path-not-found",
                    hint="`packetfs ls` lists what it has",
                    path=os.fsdecode(path),
                )
            entry = found
        return entry

    def entries(self, directory: kernel.Entry) -> Iterator[kernel.Entry]:
        """Entries of a directory, names ascending."""
        if directory.page is None:
            raise NotFoundError(f"{os.fsdecode(directory.name)!r} is not a directory", code="not-a-directory")
        return iter(self.space.entries(directory.page))

    def read(self, entry: kernel.Entry) -> Iterator[bytes]:
        """The content of a file in order, in pieces of about 1 MiB. DamagedError instead of a byte that is wrong.

        A piece is verified after it was copied from the disk's memory, so that it stays what it was. `space.view` is
        the way without a copy, for programs that can live with what it says about failing disks.
        """
        if entry.kind != "file":
            raise NotFoundError(f"{os.fsdecode(entry.name)!r} is a {entry.kind}, not a file", code="not-a-file")
        for address, length in self.space.extents(entry):
            if address:
                yield from self.space.read(address, length)
                continue
            for start in range(0, length, len(_ZEROS)):
                yield _ZEROS[: min(len(_ZEROS), length - start)]
