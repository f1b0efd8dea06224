"""The address space as Python has it: answers about tags, what a replica shares with its origin, what is absent."""

import struct
from pathlib import Path
from random import Random
from typing import Final

import pytest

from packetfs import kernel
from packetfs.errors import InvalidError

VOLUME_ID: Final = bytes(16)
CHUNKS: Final = (8 << 10, 32 << 10, 128 << 10, 2)
CONTENT: Final = b"what is in the file"
NOISE: Final = Random(1).randbytes(640_000)  # no two chunks are equal, and it is worth asking about


def opened(directory: Path, secret: int, peer_keys: bytes | None = None) -> kernel.Space:
    (directory / "segments").mkdir(parents=True)
    return kernel.Space(bytes(directory), VOLUME_ID, bytes([secret]) * 32, *CHUNKS, peer_keys)


def stored(
    space: kernel.Space, directory: Path, *, segment: int = 1, ask: "Asking | None" = None
) -> tuple[kernel.Ingested, kernel.Lease]:
    """`directory` in one segment, not synced."""

    def grant(full: kernel.Lease | None) -> kernel.Lease:
        lease = space.lease(segment, 0, 0, True)
        assert lease is not None
        assert full is None
        return lease

    done = kernel.ingest(
        space,
        [(bytes(directory), None)],
        prior=None,
        next=None,
        previous=None,
        clean_before_ns=0,
        clean_device=0,
        dry_run=False,
        grant=grant,
        progress=lambda *_: None,
        owner_name=lambda _kind, _number: b"",
        ask=ask,
    )
    lease = done.lease
    assert lease is not None
    return done, lease


class Asking:
    """A replica asks its origin, in one process."""

    def __init__(self, origin: kernel.Space, replica: kernel.Space) -> None:
        self.origin = origin
        self.replica = replica
        self.leases: dict[int, kernel.Lease] = {}
        self.questions: list[bytes] = []

    def begin(self, tags: bytes) -> int:
        self.questions.append(tags)
        return len(self.questions) - 1

    def end(self, ticket: int) -> bytes:
        return self.origin.find_tags(self.questions[ticket])

    def lease_for(self, segment: int) -> kernel.Lease:
        if segment not in self.leases:
            lease = self.replica.lease(segment, 0, 0, True, sparse=True)
            assert lease is not None
            self.leases[segment] = lease
        return self.leases[segment]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/d/file").write_bytes(CONTENT)
    return tmp_path / "tree"


def test_a_tag_is_answered_once_its_chunk_is_durable(tmp_path: Path, tree: Path) -> None:
    space = opened(tmp_path / "volume", 1)
    digest = kernel.keyed_digest(space.peer_keys[:32], CONTENT)
    _, lease = stored(space, tree)
    space.admit([lease.flush()])

    assert space.find_tags(digest[:8]) == bytes(44)

    space.admit([lease.sync()])
    answer = space.find_tags(bytes(8) + digest[:8])
    assert answer[:44] == bytes(44)
    address, length = struct.unpack_from("<QI", answer, 44)
    assert b"".join(space.read(address, length)) == CONTENT
    assert answer[56:] == digest
    with pytest.raises(ValueError, match="7 bytes"):
        space.find_tags(bytes(7))


def test_what_was_flushed_and_not_synced_is_gone_with_its_lease(tmp_path: Path, tree: Path) -> None:
    space = opened(tmp_path / "volume", 1)
    done, lease = stored(space, tree)
    flushed = lease.flush()
    space.admit([flushed])
    root = kernel.decode_root(done.root)
    assert flushed == (1, lease.head, flushed[2])
    assert root.page is not None
    assert [entry.name for entry in space.entries(root.page)] == [b"d"]
    assert space.absent(done.root, b"") == []

    del done
    lease.close()

    assert space.find_tags(kernel.keyed_digest(space.peer_keys[:32], CONTENT)[:8]) == bytes(44)
    with pytest.raises(Exception, match="committed"):
        list(space.entries(root.page))


def test_a_replica_cuts_and_digests_as_its_origin_under_names_of_its_own(tmp_path: Path, tree: Path) -> None:
    origin = opened(tmp_path / "origin", 1)
    replica = opened(tmp_path / "replica", 2, origin.peer_keys)
    stranger = opened(tmp_path / "stranger", 2)

    roots = [stored(space, tree)[0].root_digest for space in (origin, replica, stranger)]

    assert replica.peer_keys == origin.peer_keys != stranger.peer_keys
    assert roots[0] == roots[1] != roots[2]
    assert replica.slot(1) == stranger.slot(1) != origin.slot(1)
    with pytest.raises(ValueError, match="63 bytes"):
        opened(tmp_path / "wrong", 2, bytes(63))


def test_a_sparse_lease_begins_where_the_origin_is(tmp_path: Path, tree: Path) -> None:
    space = opened(tmp_path / "replica", 2, bytes(64))

    lease = space.lease(5, 1 << 20, 0, True, sparse=True)

    assert lease is not None
    assert lease.head == 1 << 20
    assert lease.append_journal(b"entry") == (5 << 26) + (1 << 20)
    assert (tmp_path / "replica/segments" / f"{space.slot(5)}.data").stat().st_size == 1 << 20


def test_what_is_no_root_has_nothing_absent(tmp_path: Path) -> None:
    with pytest.raises(InvalidError):
        opened(tmp_path / "volume", 1).absent(b"no root", b"")


def test_an_ingest_into_a_replica_points_at_what_the_origin_has(tmp_path: Path, tree: Path) -> None:
    (tree / "large").write_bytes(NOISE)
    origin = opened(tmp_path / "origin", 1)
    first, lease = stored(origin, tree)
    origin.admit([lease.sync()])
    replica = opened(tmp_path / "replica", 2, origin.peer_keys)
    asking = Asking(origin, replica)

    done, lease = stored(replica, tree, segment=2, ask=asking)
    replica.admit([lease.sync(), asking.leases[1].sync()])

    assert done.root_digest == first.root_digest
    assert done.new_bytes == 0
    assert done.asked_known_bytes == done.known_bytes == len(NOISE) + len(CONTENT)
    root = kernel.decode_root(done.root)
    assert root.page is not None
    entry = replica.lookup(root.page, b"large")
    assert entry is not None
    assert {address >> 26 for address, _ in replica.extents(entry)} == {1}
    pieces = [piece for address, length in replica.extents(entry) for piece in replica.read(address, length)]
    assert b"".join(pieces) == NOISE


def test_what_asking_raises_stops_the_ingest_and_passes_through(tmp_path: Path, tree: Path) -> None:
    (tree / "large").write_bytes(NOISE)
    space = opened(tmp_path / "replica", 2)

    class Broken(Asking):
        def end(self, ticket: int) -> bytes:
            raise ConnectionResetError(ticket)

    class Lying(Asking):
        def end(self, ticket: int) -> bytes:
            return b"\xff" * (len(self.questions[ticket]) // 8 * 44)

    with pytest.raises(ConnectionResetError):
        stored(space, tree, ask=Broken(space, space))
    with pytest.raises(InvalidError):
        stored(space, tree, ask=Lying(space, space))
