"""Damage made good from another copy of the volume. Nothing that comes from there is believed before it is proved.

A damaged chunk is proved by its digest in the chunk table here. Where a chunk table is what is damaged, its segment is
made anew beside the old one, from the runs of chunks that the other copy has at those addresses and the entries of our
own journal. It takes the place of the old one only if every snapshot that needs it is proved with it: pages by the
digests that their parents have of them, files by their content digests, roots by the snapshots in our journal. What
cannot be had or proved stays as it was, and is reported.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from packetfs import kernel
from packetfs.errors import (
    BusyError,
    DamagedError,
    InvalidError,
    PacketFSError,
    RefusedError,
    UsageError,
    disk_error,
)
from packetfs.format.address import OFFSET_BITS, Extent, segment_of
from packetfs.release import VERSION
from packetfs.sync.link import Link
from packetfs.sync.receiving import Budget
from packetfs.volume import Volume, files
from packetfs.volume.replica import Replica
from packetfs.volume.space import Durable
from packetfs.wire import protocol
from packetfs.wire.connection import Connection

__all__ = [
    "Copy",
    "FarSource",
    "NearSource",
    "Repaired",
    "Source",
    "check_same",
    "clear_scratch",
    "near_source",
    "repair",
]

Copy = Volume | Replica
"""What can be verified and repaired."""

SCRATCH_NAME: Final = "mending"
_CHUNKS_MAX: Final = 4096  # asked for at once: 64 KiB of a request, at most half a gigabyte of an answer


class Source(Protocol):
    """Another copy of the volume."""

    def bodies(self, extents: Sequence[Extent]) -> Iterator[bytes]:
        """The chunks of these ranges that it has, as bodies of literals. What it raises is its own failure."""

    @property
    def is_gone(self) -> bool:
        """Whether nothing more can be had from it."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of damage."""

    mended: tuple[Extent, ...]
    """Ranges that were written anew and are durable."""
    reasons: tuple[str, ...]
    """Why the rest was not, each once."""


def repair(copy: Copy, damaged: Sequence[Extent], source: Source) -> Repaired:
    """Make good what is `damaged` in `copy`, as far as `source` has it and it can be proved.

    What it answers is durable; killed at any instant, nothing is worse than before. UnavailableError if our own disk
    does not take it.
    """
    reasons: list[str] = []
    mender = kernel.Mender(copy.space)
    segments = sorted({segment_of(address) for address, _ in damaged})
    for address, data in copy.journal_chunks([(segment << OFFSET_BITS, 1 << OFFSET_BITS) for segment in segments]):
        mender.offer(address, data)
    chunks = mender.chunks(damaged)
    for start in range(0, len(chunks), _CHUNKS_MAX):
        _mend(mender, chunks[start : start + _CHUNKS_MAX], source, reasons)
    mended = mender.sync()
    readable = {segment_of(address) for address, _ in chunks}
    without_table = [segment for segment in segments if segment not in readable]
    if without_table:
        mended += _remake(copy, without_table, source, reasons)
    return Repaired(tuple(sorted(mended)), tuple(dict.fromkeys(reasons)))


def clear_scratch(copy: Copy) -> None:
    """Remove what a repair that was killed has left, unless one is running."""
    with suppress(BusyError, PacketFSError), _scratch(copy):
        pass


# Sources


class NearSource:
    """A copy on this machine: a volume, or a replica of one."""

    def __init__(self, other: Copy) -> None:
        self._other = other
        self.is_gone = False

    def bodies(self, extents: Sequence[Extent]) -> Iterator[bytes]:
        """See Source."""
        outgoing = kernel.Outgoing(self._other.space)
        outgoing.add(list(extents), pages=True)
        while (body := outgoing.literals()) is not None:
            yield b"".join(bytes(part) for part in body)


class FarSource:
    """A copy on another machine, which was greeted over `link`. A context manager."""

    def __init__(self, link: Link, welcome: protocol.Welcome) -> None:
        self._link = link
        self._welcome = welcome

    @classmethod
    def greet(cls, connection: Connection, volume: str) -> "FarSource":
        """The copy that the machine at the other end of `connection` calls `volume`."""
        link = Link(connection)
        hello = protocol.Hello(protocol=protocol.PROTOCOL, software=VERSION, volume=os.fsencode(volume), intent="read")
        return cls(link, link.ask(hello, protocol.Welcome))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(PacketFSError):
            if not self._link.is_over:
                self._link.say(protocol.Bye())
        self._link.connection.close()

    @property
    def is_gone(self) -> bool:
        """See Source."""
        return self._link.is_over

    @property
    def identity(self) -> tuple[bytes, bytes]:
        """Volume id and keys, as it says."""
        return self._welcome.volume_id, self._welcome.keys

    def bodies(self, extents: Sequence[Extent]) -> Iterator[bytes]:
        """See Source."""
        packed = b"".join(number.to_bytes(8, "little") for extent in extents for number in extent)
        request = self._link.say(protocol.Fetch(extents=packed))
        budget = Budget(sum(length for _, length in extents), 0)
        try:
            while isinstance(message := self._link.next(request), protocol.Literals):
                budget.spend(literal_bytes=memoryview(message.body).nbytes)
                yield bytes(message.body)
        except BaseException:
            self._link.drop(request)  # the rest of the answer is nobody's
            raise


def check_same(copy: Copy, volume_id: bytes, keys: bytes, name: str) -> None:
    """RefusedError unless what is at `name` is a copy of the same volume."""
    # Who may only read was told the digest key alone, which is what proves chunks.
    if volume_id != copy.id or len(keys) < 32 or not copy.space.peer_keys.startswith(keys[:32]):
        raise RefusedError(
            f"{name!r} is not a copy of the volume at {copy.path!r}",
            code="different-volumes",
            hint="name a replica of it, or its origin",
        )


def near_source(copy: Copy, other: Copy) -> NearSource:
    """`other`, as a source for `copy`."""
    if os.path.samefile(copy.path, other.path):
        raise UsageError(f"{other.path!r} is what is to be repaired", hint="name another copy of it")
    check_same(copy, other.id, other.space.peer_keys, other.path)
    other.segments()  # a volume admits what is committed
    return NearSource(other)


# Chunks


def _mend(mender: kernel.Mender, chunks: Sequence[Extent], source: Source, reasons: list[str]) -> None:
    """Offer what the source has of `chunks`. If it fails at some of them, the others are asked for without them."""
    waiting = [chunks]
    while waiting:
        part = waiting.pop()
        if source.is_gone:
            return
        mender.begin()
        why = _offer(mender.literals, part, source)
        if why and len(part) > 1 and not source.is_gone:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        elif why:
            reasons.append(why)


def _offer(take: "_Take", extents: Sequence[Extent], source: Source) -> str:
    """Why the source did not send what it has of `extents`, or it could not be taken; empty if it did."""
    bodies = source.bodies(extents)
    while True:
        try:
            body = next(bodies, None)
        except PacketFSError as error:
            return f"the other copy: {error.message}"
        if body is None:
            return ""
        try:
            take(body)
        except (DamagedError, InvalidError, RefusedError) as error:  # an error of our own disk is not the source's
            bodies.close()  # type: ignore[attr-defined]
            return f"what the other copy sent: {error.message}"


class _Take(Protocol):
    def __call__(self, body: bytes, /) -> int: ...


# Segments whose chunk table is damaged


def _remake(copy: Copy, segments: Sequence[int], source: Source, reasons: list[str]) -> list[Extent]:
    """Make segments anew and put them in place of the old ones; the ranges that were."""
    try:
        snapshots = {snapshot.root for _, _, snapshot in copy.snapshots()}
    except DamagedError as error:
        reasons.append(f"without its journal no chunk table can be proved: {error.message}")
        return []
    try:
        with _scratch(copy) as scratch:
            rows = {row[0]: row for row in copy.segments()}
            made = dict(_made(copy, scratch, [rows[segment] for segment in segments], source, reasons))
            proved = _proved(copy, scratch, rows, made, snapshots)
            reasons += [
                f"segment {segment}: what the other copy sent does not prove the snapshots that need it"
                for segment in made
                if segment not in proved
            ]
            found = [extent for segment in proved if (extent := _put_in_place(copy, scratch, made[segment], reasons))]
    except BusyError as error:
        reasons.append(error.message)
        return []
    if found:
        copy.reopen_space()
    return found


def _made(
    copy: Copy, scratch: str, rows: Iterable[Durable], source: Source, reasons: list[str]
) -> Iterator[tuple[int, Durable]]:
    """New segments in `scratch`, durable and unproved: what the other copy has, and the entries of our journal."""
    space = copy.space_at(scratch)
    for segment, head, _ in rows:
        start = segment << OFFSET_BITS
        lease = space.lease(segment, 0, 0, True, True)
        assert lease is not None, "nobody else is in the scratch directory"
        try:
            for address, data in copy.journal_chunks([(start, head)]):
                lease.advance(address - start)
                if lease.append_journal(data) != address:
                    raise DamagedError(f"the journal has two entries at address {address}", code="journal-damaged")
            incoming = kernel.Incoming(space, _only(segment, lease))
            why = "the other copy is gone" if source.is_gone else _offer(incoming.literals, [(start, head)], source)
            if why:
                reasons.append(why)
                continue
            lease.advance(head)
            row = lease.sync()
        finally:
            lease.close()
        if row[:2] == (segment, head):
            yield segment, row


def _only(segment: int, lease: kernel.Lease) -> "_LeaseFor":
    def lease_for(asked: int) -> kernel.Lease:
        if asked != segment:
            raise RefusedError(f"segment {asked} was not asked for", code="not-leased", segment=asked)
        return lease

    return lease_for


class _LeaseFor(Protocol):
    def __call__(self, segment: int, /) -> kernel.Lease: ...


def _proved(
    copy: Copy, scratch: str, rows: dict[int, Durable], made: dict[int, Durable], roots: Iterable[bytes]
) -> list[int]:
    """Those of the segments `made` that prove every snapshot which needs them."""
    if not made:
        return []
    for segment in rows.keys() - made.keys():
        for suffix in (".data", ".chunks"):
            name = os.path.join("segments", copy.space.slot(segment) + suffix)
            os.symlink(os.path.join(copy.path, name), os.path.join(scratch, name))
    space = copy.space_at(scratch)
    space.admit([made.get(segment, row) for segment, row in rows.items()])
    left = set(made)
    for root in roots:
        left.difference_update(space.unproved(root, sorted(left)))
    return sorted(left)


def _put_in_place(copy: Copy, scratch: str, row: Durable, reasons: list[str]) -> Extent | None:
    """Have a segment made anew take the place of the old one, unless somebody fills it."""
    segment, head, _ = row
    slot = os.path.join("segments", copy.space.slot(segment))
    old = os.path.join(copy.path, slot)

    def move() -> None:
        for suffix in (".data", ".chunks"):
            files.rename(os.path.join(scratch, slot) + suffix, old + suffix)
        files.sync_directory(os.path.join(copy.path, "segments"))

    with suppress(FileNotFoundError), open(f"{old}.chunks", "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reasons.append(f"segment {segment} is being filled; run it again")
            return None
        copy.replace_segment(row, move)
        return segment << OFFSET_BITS, head
    copy.replace_segment(row, move)
    return segment << OFFSET_BITS, head


@contextmanager
def _scratch(copy: Copy) -> Iterator[str]:
    """A directory in the volume for this process alone, empty at the beginning and gone at the end."""
    path = os.path.join(copy.path, SCRATCH_NAME)
    try:
        files.make_directory(path)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise disk_error("create", path, error.errno or 0) from None
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("another process repairs the volume", hint="wait for it", path=path) from None
        for name in os.listdir(path):
            shutil.rmtree(os.path.join(path, name))
        for name in ("segments", "index"):
            os.mkdir(os.path.join(path, name), 0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(directory)
