"""Frames: what goes in comes out, however the stream is cut; what is wrong is told once and for all."""

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.errors import InvalidError
from packetfs.kernel import crc32c
from packetfs.wire import frames
from packetfs.wire.frames import HEADER_BYTES, LIMITS, Decoder, Frame, FrameType, encode
from tests.wire.talk import frames_of, joined

FRAMES = st.tuples(st.sampled_from(FrameType), st.integers(0, frames.REQUEST_MAX), st.binary(max_size=300))


def header(*, magic: bytes = b"PF", version: int = 1, kind: int = 16, length: int = 0, request: int = 0) -> bytes:
    checked = struct.pack("<2sBBII", magic, version, kind, length, request)
    return checked + struct.pack("<I", crc32c(checked))


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the standard (RFC 3720)
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283
    assert crc32c(memoryview(bytearray(b"123456789"))) == 0xE3069283
    assert crc32c(bytes(1 << 20)) == crc32c(bytes(1 << 19), crc32c(bytes(1 << 19)))


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    sent: list[tuple[FrameType, int, bytes]], sizes: list[int]
) -> None:
    stream = joined(*(encode(*frame) for frame in sent))
    decoder, found, offset, turn = Decoder(), [], 0, 0
    while offset < len(stream):
        size = sizes[turn % len(sizes)]
        decoder.feed(stream[offset : offset + size])
        offset, turn = offset + size, turn + 1
        while (frame := decoder.next()) is not None:
            found.append(frame)

    assert found == [Frame(*frame) for frame in sent]
    assert not decoder.pending


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"PF\1" + tail))
def test_junk_is_frames_or_an_error(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data)
    code = "bad-frame"
    try:
        while decoder.next() is not None:
            pass
    except InvalidError as error:
        code = error.code

    assert code == "bad-frame"


@given(st.integers(0, HEADER_BYTES + 299), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(position: int, bit: int) -> None:
    stream = bytearray(joined(encode(FrameType.LITERALS, 7, bytes(300))))
    stream[position] ^= 1 << bit
    decoder = Decoder()
    decoder.feed(bytes(stream))

    try:
        assert decoder.next() is None  # it claims to be longer than what came
    except InvalidError:
        pass


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"Welcome to host", "Welcome"),
        (b"Q", "no frame begins"),
        (header(magic=b"PG"), "no frame begins"),
        (header(version=2), "version 2"),
        (header(kind=99), "type 99"),
        (header(kind=FrameType.HELLO, length=frames.GREETING_BYTES_MAX + 1), "longer than"),
        (header(kind=FrameType.LITERALS, length=(1 << 32) - 1), "longer than"),
        (header()[:-1] + b"\0", "checksum"),
    ],
)
def test_a_decoder_is_dead_after_a_bad_frame(data: bytes, says: str) -> None:
    decoder = Decoder()
    decoder.feed(data)
    with pytest.raises(InvalidError, match=says) as caught:
        decoder.next()

    decoder.feed(joined(encode(FrameType.BYE, 0)))
    with pytest.raises(InvalidError) as again:
        decoder.next()

    assert caught.value.code == "bad-frame"
    assert again.value is caught.value


def test_nothing_is_reserved_for_a_length_that_was_only_claimed() -> None:
    decoder = Decoder()
    tracemalloc.start()
    decoder.feed(header(length=LIMITS[FrameType.LITERALS]))

    assert decoder.next() is None

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 10


def test_many_small_frames_in_one_piece_cost_no_copy_of_the_piece() -> None:
    stream = joined(encode(FrameType.ACK, 0, b"\x91\x07")) * 20_000
    decoder = Decoder()
    tracemalloc.start()
    decoder.feed(stream)

    decoder.next()

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 10


def test_a_body_is_not_copied_to_be_sent() -> None:
    body = bytes(1 << 20)

    assert encode(FrameType.LITERALS, 0, body)[1] is body


def test_a_body_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(InvalidError, match="longer"):
        encode(FrameType.HELLO, 1, bytes(frames.GREETING_BYTES_MAX + 1))


def test_a_stream_that_ends_within_a_frame_is_seen() -> None:
    stream = joined(encode(FrameType.ACK, 0, b"\x91\x07"))
    for count in range(1, len(stream)):
        decoder = Decoder()
        decoder.feed(stream[:count])
        assert decoder.next() is None
        assert decoder.pending

    assert len(list(frames_of(stream))) == 1
