"""Snapshots, journal entries and volume.toml as bytes: golden, read back, and from junk a value or an error."""

import struct
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import DamagedError, InvalidError, RefusedError, UsageError
from packetfs.format.address import counter_of, epoch_of, segment_number
from packetfs.format.descriptor import ChunkProfile, Descriptor, decode_descriptor, encode_descriptor
from packetfs.format.entry import Body, Commit, Entry, Forget, NewEpoch, Reclaim, decode_entry, encode_entry
from packetfs.format.snapshot import Statistics, decode_snapshot, encode_snapshot

GOLDEN = Path(__file__).parent.parent / "golden"
TIME_NS = 1_795_349_107_123_456_789

SNAPSHOT = {
    "root": b"a root entry",
    "root_digest": bytes(range(32)),
    "parent": bytes(range(32, 64)),
    "time_ns": TIME_NS,
    "host": "host.example",
    "user": "ann",
    "paths": (b"/home/ann", b"/srv/\xff"),
    "statistics": Statistics(
        files=3, directories=2, symlinks=1, logical_bytes=4096, new_bytes=1024, known_bytes=512, unchanged_bytes=2560,
        unchanged_files=1, page_bytes=300, problems=1,
    ),
    "message": "before the upgrade ✓",
    "root_is_source": True,
}  # fmt: skip
COMMIT = Entry(
    seq=7,
    epoch=2,
    time_ns=TIME_NS,
    previous=bytes(range(64, 96)),
    body=Commit(ref="home", expected=b"\1" * 32, snapshot_id=b"\2" * 32, snapshot=b"a snapshot"),
)
NEW_EPOCH = Entry(
    seq=8,
    epoch=3,
    time_ns=TIME_NS + 1,
    previous=b"\3" * 32,
    body=NewEpoch(recovered_seq=7, recovered_hash=b"\3" * 32, reason="journal.db was lost"),
)
FORGET = Entry(seq=9, epoch=3, time_ns=TIME_NS + 2, previous=b"\4" * 32, body=Forget(ref="home", seqs=[1, 5, 1 << 40]))
RECLAIM = Entry(
    seq=10,
    epoch=3,
    time_ns=TIME_NS + 3,
    previous=b"\5" * 32,
    body=Reclaim(ranges=[(1, struct.pack("<IIII", 0, 4096, 8192, 1 << 26)), (1 << 26, struct.pack("<II", 7, 9))]),
)
DESCRIPTOR = Descriptor(
    volume_id=bytes(range(16)), secret_id=bytes(range(8)), created_ns=1_795_349_107_123_456_000, chunks=ChunkProfile()
)


def snapshot_bytes(**changes: object) -> bytes:
    return encode_snapshot(**{**SNAPSHOT, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("snapshot-v1.bin", snapshot_bytes()),
        ("journal-commit-v1.bin", encode_entry(COMMIT)),
        ("journal-epoch-v1.bin", encode_entry(NEW_EPOCH)),
        ("journal-forget-v1.bin", encode_entry(FORGET)),
        ("journal-reclaim-v1.bin", encode_entry(RECLAIM)),
        ("snapshot-labels-v1.bin", snapshot_bytes(tags=("nightly", "v1"), source_time_ns=TIME_NS - 1)),
        ("volume-v1.toml", encode_descriptor(DESCRIPTOR)),
    ],
)
def test_bytes_are_those_of_the_golden_file(name: str, data: bytes) -> None:
    """The files are never edited: a layout that changes gets a new version and a new file."""
    assert data == (GOLDEN / name).read_bytes()


def test_a_snapshot_is_read_back() -> None:
    snapshot = decode_snapshot(snapshot_bytes(), b"\7" * 32)

    assert {name: getattr(snapshot, name) for name in SNAPSHOT} == SNAPSHOT
    assert (snapshot.name, snapshot.short) == ("07" * 32, "07" * 6)


def test_labels_are_read_back_and_cost_nothing_where_there_are_none() -> None:
    labelled = decode_snapshot(snapshot_bytes(tags=("b", "a", "b"), source_time_ns=-5), b"\7" * 32)

    assert (labelled.tags, labelled.source_time_ns) == (("a", "b"), -5)
    assert snapshot_bytes(tags=(), source_time_ns=None) == snapshot_bytes()


@pytest.mark.parametrize("tags", [("",), (" ",), ("a,b",), ("x" * 256,), tuple(str(number) for number in range(65))])
def test_what_cannot_be_a_tag_is_a_usage_error(tags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        snapshot_bytes(tags=tags)


def test_a_snapshot_with_fields_of_a_later_version_is_read() -> None:
    data = snapshot_bytes()
    count = data[5]  # a msgpack map of fewer than 16 pairs counts them in its first byte
    later = data[:5] + bytes([count + 1]) + data[6:] + b"\xa5later\x2a"

    assert decode_snapshot(later, b"\7" * 32).message == SNAPSHOT["message"]


def test_a_snapshot_that_does_not_say_what_its_root_is_leaves_directories_alone() -> None:
    data = snapshot_bytes()
    fields = msgspec.msgpack.decode(data[5:])
    del fields["root_is_source"]

    assert decode_snapshot(data[:5] + msgspec.msgpack.encode(fields), b"\7" * 32).root_is_source is False


def test_a_snapshot_of_a_later_format_is_refused_with_advice() -> None:
    with pytest.raises(RefusedError, match="format 2") as caught:
        decode_snapshot(b"PFSN\2whatever", b"\7" * 32)

    assert caught.value.hint


def test_too_long_a_message_is_a_usage_error_and_too_many_paths_are_cut() -> None:
    with pytest.raises(UsageError):
        snapshot_bytes(message="x" * 20_000)
    paths = tuple(b"/a/%06d" % number for number in range(10_000))

    kept = decode_snapshot(snapshot_bytes(paths=paths), b"\7" * 32).paths

    assert 0 < len(kept) < len(paths)
    assert kept == paths[: len(kept)]


def test_text_that_is_not_utf8_does_not_stop_a_push() -> None:
    snapshot = decode_snapshot(snapshot_bytes(message="caf\udce9", host="\udcff"), b"\7" * 32)

    assert (snapshot.message, snapshot.host) == ("caf�", "�")


bodies: st.SearchStrategy[Body] = st.builds(
    Commit, ref=st.text(), expected=st.binary(max_size=32), snapshot_id=st.binary(), snapshot=st.binary()
) | st.builds(NewEpoch, recovered_seq=st.integers(0, 2**63), recovered_hash=st.binary(), reason=st.text())
bodies |= st.builds(Forget, ref=st.text(), seqs=st.lists(st.integers(1, 2**63 - 1)))
bodies |= st.builds(Reclaim, ranges=st.lists(st.tuples(st.integers(1, 2**38 - 1), st.binary())))


@given(
    st.builds(
        Entry,
        seq=st.integers(1, 2**63 - 1),
        epoch=st.integers(0, 4095),
        time_ns=st.integers(-(2**63), 2**63 - 1),
        previous=st.binary(min_size=32, max_size=32),
        body=bodies,
    )
)
def test_an_entry_is_read_back(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: encode_entry(COMMIT)[:64] + tail))
def test_junk_is_no_entry(data: bytes) -> None:
    try:
        decode_entry(data)
    except (DamagedError, RefusedError):
        pass


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_an_entry_with_a_flipped_bit_is_an_entry_or_an_error(position: int, bit: int) -> None:
    data = bytearray(encode_entry(COMMIT))
    data[position % len(data)] ^= 1 << bit

    try:
        decode_entry(bytes(data))
    except (DamagedError, RefusedError):
        pass


@given(st.binary(max_size=200).map(lambda tail: b"PFSN\1" + tail) | st.binary(max_size=50))
def test_junk_is_no_snapshot(data: bytes) -> None:
    try:
        decode_snapshot(data, b"")
    except (DamagedError, RefusedError):
        pass


def test_a_descriptor_is_read_back_and_is_toml() -> None:
    text = encode_descriptor(DESCRIPTOR)

    assert decode_descriptor(text) == DESCRIPTOR
    assert tomllib.loads(text.decode())["chunks"] == {
        "profile": "casc64", "min": 8192, "avg": 32768, "max": 131072, "normalisation": 2
    }  # fmt: skip


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_descriptor_with_a_flipped_bit_is_a_descriptor_or_an_error(position: int, bit: int) -> None:
    data = bytearray(encode_descriptor(DESCRIPTOR))
    data[position % len(data)] ^= 1 << bit

    try:
        decode_descriptor(bytes(data))
    except (DamagedError, RefusedError):
        pass


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"version = 1", b"version = 2"),
        (b"read = []", b'read = ["sparse"]'),
        (b'"casc64"', b'"casc128"'),
    ],
)
def test_a_newer_descriptor_is_refused_with_advice(old: bytes, new: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        decode_descriptor(encode_descriptor(DESCRIPTOR).replace(old, new))

    assert caught.value.hint == "upgrade packetfs"


def test_features_that_only_writers_must_know_leave_the_volume_readable() -> None:
    text = encode_descriptor(DESCRIPTOR).replace(b"write = []", b'write = ["punch"]')

    descriptor = decode_descriptor(text)

    assert (descriptor.writable, descriptor.checkable) == (False, True)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[",
        b"magic = 1",
        encode_descriptor(DESCRIPTOR)[:200],
        encode_descriptor(DESCRIPTOR).replace(b"segment_bytes = 67108864", b"segment_bytes = 1"),
        encode_descriptor(DESCRIPTOR).replace(b"min = 8192", b"min = 1"),
        encode_descriptor(DESCRIPTOR).replace(b"min = 8192", b"min = true"),
        encode_descriptor(DESCRIPTOR).replace(b'created = "', b'created = "x'),
        encode_descriptor(DESCRIPTOR).replace(b'volume_id = "00', b'volume_id = "'),
        b"a = " + b"[" * 60_000,
        b"#" * (65 << 10),
    ],
)
def test_a_damaged_descriptor_is_an_error_with_advice(text: bytes) -> None:
    with pytest.raises(DamagedError) as caught:
        decode_descriptor(text)

    assert caught.value.hint


@given(st.integers(0, 4095), st.integers(1, (1 << 26) - 1))
def test_a_segment_is_an_epoch_and_a_counter(epoch: int, counter: int) -> None:
    segment = segment_number(epoch, counter)

    assert (epoch_of(segment), counter_of(segment)) == (epoch, counter)


@pytest.mark.parametrize(("epoch", "counter"), [(0, 0), (4096, 1), (0, 1 << 26), (-1, 1)])
def test_numbers_that_no_segment_has_are_refused(epoch: int, counter: int) -> None:
    with pytest.raises(InvalidError):
        segment_number(epoch, counter)
