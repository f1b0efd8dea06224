"""The two ends of a transfer as Python has them: an origin and a replica in one process."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest

from packetfs import kernel
from packetfs.errors import InvalidError, RefusedError

VOLUME_ID: Final = bytes(16)
CHUNKS: Final = (8 << 10, 32 << 10, 128 << 10, 2)
NOISE: Final = Random(2).randbytes(300_000)


class Side:
    """One machine's copy of the volume, which fills whatever segment it is told to."""

    def __init__(self, directory: Path, secret: int, peer_keys: bytes | None = None) -> None:
        (directory / "segments").mkdir(parents=True)
        self.space = kernel.Space(bytes(directory), VOLUME_ID, bytes([secret]) * 32, *CHUNKS, peer_keys)
        self.is_replica = peer_keys is not None
        self.leases: dict[int, kernel.Lease] = {}

    def lease_for(self, segment: int) -> kernel.Lease:
        lease = self.space.lease(segment, 0, 0, True, self.is_replica)
        assert lease is not None
        self.leases[segment] = lease
        return lease

    def commit(self) -> list[tuple[int, int]]:
        """Everything received or stored is durable; the ranges that were filled."""
        rows = [lease.sync() for lease in self.leases.values()]
        self.space.admit(rows)
        self.leases = {}
        return [(segment << 26, head) for segment, head, _ in rows]

    def ingest(self, source: Path, segment: int) -> kernel.Ingested:
        return kernel.ingest(
            self.space,
            [(bytes(source), None)],
            prior=None,
            next=None,
            previous=None,
            clean_before_ns=0,
            clean_device=0,
            dry_run=False,
            grant=lambda full: self.lease_for(segment),
            progress=lambda *_: None,
            owner_name=lambda _kind, _number: b"",
        )

    def content(self, root: bytes, name: bytes) -> bytes:
        page = kernel.decode_root(root).page
        assert page is not None
        entry = self.space.lookup(page, name)
        assert entry is not None
        return b"".join(b"".join(self.space.read(*extent)) for extent in self.space.extents(entry))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    origin = Side(tmp_path / "origin", 1)
    return origin, Side(tmp_path / "replica", 2, origin.space.peer_keys)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "noise").write_bytes(NOISE)
    (tmp_path / "source" / "text").write_bytes(b"some text\n" * 500)
    return tmp_path / "source"


def bodies(take: Callable[[], bytes | None]) -> list[bytes]:
    return list(iter(take, None))


def literals(outgoing: kernel.Outgoing) -> list[bytes]:
    """The bodies as the other side receives them."""
    found = []
    while (parts := outgoing.literals()) is not None:
        found.append(b"".join(parts))
    return found


def carried(outgoing: kernel.Outgoing, receiver: Side, base: bytes | None) -> tuple[bytes, bytes, int]:
    """Root, root digest and bytes put."""
    incoming = kernel.Incoming(receiver.space, receiver.lease_for)
    put = sum(incoming.literals(body) for body in literals(outgoing))
    incoming.begin_tree(base, sparse=receiver.is_replica)
    for body in bodies(outgoing.tree):
        incoming.tree(bytearray(body))
    assert incoming.segments == sorted(receiver.leases)
    return *incoming.finish_tree(), put


def test_what_is_pulled_and_what_is_pushed_back_is_the_same_on_both_sides(
    sides: tuple[Side, Side], source: Path
) -> None:
    origin, replica = sides
    stored = origin.ingest(source, 1)
    origin.commit()
    pull = kernel.Outgoing(origin.space)
    pull.plan(stored.root, None, fresh=None, within=b"", data=True)

    root, digest, put = carried(pull, replica, None)
    replica.commit()

    assert (root, digest, put) == (stored.root, stored.root_digest, len(NOISE) + 5000)
    assert replica.content(root, b"noise") == NOISE
    assert (pull.literal_bytes, pull.delta_bytes, pull.pointer_count) == (put, 0, 0)
    assert len(NOISE) < pull.coded_bytes < len(NOISE) + 1000

    changed = NOISE[:150_000] + b"one line more" + NOISE[150_000:]
    (source / "noise").write_bytes(changed)
    stored = replica.ingest(source, 2)
    fresh = replica.commit()
    push = kernel.Outgoing(replica.space)
    push.plan(stored.root, root, fresh=fresh, within=b"", data=True)

    pushed, digest, put = carried(push, origin, root)
    origin.commit()

    assert (pushed, digest) == (stored.root, stored.root_digest)
    assert origin.content(pushed, b"noise") == changed
    assert put == push.literal_bytes == push.delta_bytes
    assert push.coded_bytes < 400
    assert push.literal_chunks >= 1
    assert push.pointer_count >= 1


def test_a_tree_without_data_and_then_the_ranges_that_are_absent(sides: tuple[Side, Side], source: Path) -> None:
    origin, replica = sides
    stored = origin.ingest(source, 1)
    origin.commit()
    outgoing = kernel.Outgoing(origin.space)
    outgoing.plan(stored.root, None, fresh=None, within=b"", data=False)
    assert outgoing.literals() is None

    incoming = kernel.Incoming(replica.space, replica.lease_for)
    incoming.begin_tree(None, sparse=True)
    for body in bodies(outgoing.tree):
        incoming.tree(body)
    root, digest = incoming.finish_tree()
    replica.space.admit([lease.flush() for lease in replica.leases.values()])
    outgoing.add(replica.space.absent(root, b"noise"), pages=True)
    put = sum(incoming.literals(body) for body in literals(outgoing))
    replica.commit()

    assert (digest, put) == (stored.root_digest, len(NOISE))
    assert replica.content(root, b"noise") == NOISE
    assert sum(length for _, length in replica.space.absent(root, b"")) == 5000


def test_what_the_host_raises_comes_through_and_bytes_that_mean_nothing_are_invalid(
    sides: tuple[Side, Side], source: Path
) -> None:
    origin, replica = sides
    stored = origin.ingest(source, 1)
    origin.commit()
    outgoing = kernel.Outgoing(origin.space)
    outgoing.plan(stored.root, None, fresh=None, within=b"text", data=True)
    body = outgoing.literals()
    assert body is not None

    def refuse(segment: int) -> kernel.Lease:
        raise RefusedError(f"segment {segment} is not yours")

    incoming = kernel.Incoming(replica.space, refuse)
    with pytest.raises(RefusedError, match="segment 1 is not yours"):
        incoming.literals(b"".join(body))
    with pytest.raises(InvalidError):
        incoming.literals(b"\x07")
    with pytest.raises(InvalidError):
        incoming.finish_tree()
    with pytest.raises(InvalidError):
        outgoing.plan(b"no root", None, fresh=None, within=b"", data=True)
