"""Cut slowly, from docs/formats/casc64.md alone: what the kernel's chunker is checked against. Needs no library."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count

WINDOW = 64
CONTEXT = b"packetfs v1 casc64 key schedule"
WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Params:
    """Sizes, as in a volume's descriptor."""

    min: int
    avg: int
    max: int
    normalisation: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a cut key becomes."""

    rank_key: bytes
    matrices: tuple[bytes, ...]
    target: int


def cuts(data: bytes, key: bytes, params: Params, *, last: bool) -> list[int]:
    """Ends of the chunks of `data`, which begins at a chunk boundary."""
    secrets = schedule(key)
    mask, strict, loose = thresholds(params)
    passed = list(candidates(data, secrets, mask))
    ranks = {end: rank(secrets.rank_key, data[end - WINDOW : end]) for end in passed}
    ends: list[int] = []
    start = 0
    while start < len(data):
        limit = min(len(data), start + params.max)
        accepted = (
            end
            for end in passed
            if start + params.min <= end <= limit and ranks[end] < (strict if end - start < params.avg else loose)
        )
        end = next(accepted, limit if last or limit == start + params.max else None)
        if end is None:
            break
        ends.append(end)
        start = end
    return ends


def thresholds(params: Params) -> tuple[int, int, int]:
    """Mask of the filter; bounds of the rank before and after the average."""
    average_bits = params.avg.bit_length() - 1
    loose_bits, strict_bits = max(0, average_bits - params.normalisation), average_bits + params.normalisation
    mask_bits = min(3, max(0, loose_bits - 9))
    strict, loose = (1 << (32 - max(0, bits - 8 - mask_bits)) for bits in (strict_bits, loose_bits))
    return (1 << mask_bits) - 1, strict, loose


def schedule(key: bytes) -> Schedule:
    """Rank key, matrices and target, in the order in which the stream gives them."""
    stream = derived_stream(CONTEXT, key)
    rank_key = bytes(next(stream) for _ in range(16))
    while True:
        matrices = tuple(next(invertible(stream)) for _ in range(7))
        products = [product_table(matrix) for matrix in matrices]
        taken = {levels(bytes([byte] * WINDOW), products)[0][-1] for byte in range(256)}
        for target in (next(stream) for _ in range(256)):
            if target not in taken:
                return Schedule(rank_key, matrices, target)


def invertible(stream: Iterator[int]) -> Iterator[bytes]:
    """The 8-byte draws that are matrices with an inverse: their 256 products are all different."""
    while True:
        matrix = bytes(next(stream) for _ in range(8))
        if len(set(product_table(matrix))) == 256:
            yield matrix


def product_table(matrix: bytes) -> bytes:
    """Byte 7 - i of the matrix is the row that gives bit i."""
    return bytes(sum(((matrix[7 - i] & x).bit_count() & 1) << i for i in range(8)) for x in range(256))


def levels(data: bytes, products: list[bytes]) -> tuple[bytes, bytes]:
    """The last level of the cascade and the one before it, at each position; the first 63 lack history."""

    def plus_earlier(level: bytes, product: bytes, reach: int) -> bytes:
        earlier = bytes(reach) + level[: len(level) - reach].translate(product)
        return bytes((now + before) & 255 for now, before in zip(level, earlier, strict=True))

    head = data.translate(products[0])
    before = b"\0" + data[:-1].translate(products[1])
    last = bytes((a + b) & 255 for a, b in zip(head, before, strict=True))
    previous = last
    for doubling, product in enumerate(products[2:]):
        previous = last
        last = plus_earlier(previous, product, 2 << doubling)
    return last, previous


def candidates(data: bytes, secrets: Schedule, mask: int) -> Iterator[int]:
    """Ends whose window passes the filter."""
    if len(data) < WINDOW:
        return
    last, previous = levels(data, [product_table(matrix) for matrix in secrets.matrices])
    for end in range(WINDOW, len(data) + 1):
        if last[end - 1] == secrets.target and previous[end - 1] & mask == 0:
            yield end


def rank(key: bytes, window: bytes) -> int:
    """AES-128 CBC-MAC, first four bytes, little-endian."""
    state = bytes(16)
    for at in range(0, WINDOW, 16):
        state = aes_128(key, xor(state, window[at : at + 16]))
    return int.from_bytes(state[:4], "little")


# --- AES-128 (FIPS 197) ---


def doubled(x: int) -> int:
    """Twice x in the field of AES."""
    return (x << 1) & 255 ^ (0x1B if x & 0x80 else 0)


def times(a: int, b: int) -> int:
    """Product in the field of AES."""
    return (a if b & 1 else 0) ^ (times(doubled(a), b >> 1) if b > 1 else 0)


def substitution() -> bytes:
    """The S-box, from its definition."""

    def turned(x: int, by: int) -> int:
        return (x << by | x >> (8 - by)) & 255

    def substitute(x: int) -> int:
        inverse = next((y for y in range(256) if times(x, y) == 1), 0)
        return 0x63 ^ inverse ^ turned(inverse, 1) ^ turned(inverse, 2) ^ turned(inverse, 3) ^ turned(inverse, 4)

    return bytes(substitute(x) for x in range(256))


S_BOX = substitution()


@cache
def round_keys(key: bytes) -> list[bytes]:
    """The eleven keys of AES-128."""
    keys, constant = [key], 1
    while len(keys) < 11:
        before = keys[-1]
        word = bytes(before[12 + (i + 1) % 4] for i in range(4)).translate(S_BOX)
        word = bytes([word[0] ^ constant]) + word[1:]
        words = b""
        for at in range(0, 16, 4):
            word = xor(word, before[at : at + 4])
            words += word
        keys.append(words)
        constant = doubled(constant)
    return keys


def aes_128(key: bytes, block: bytes) -> bytes:
    """One block."""
    first, *middle, last = round_keys(key)
    state = xor(block, first)
    for round_key in middle:
        state = xor(mixed(shifted(state.translate(S_BOX))), round_key)
    return xor(shifted(state.translate(S_BOX)), last)


def shifted(state: bytes) -> bytes:
    """ShiftRows."""
    return bytes(state[(i + 4 * (i % 4)) % 16] for i in range(16))


def mixed(state: bytes) -> bytes:
    """MixColumns."""
    columns = (state[at : at + 4] for at in range(0, 16, 4))
    return bytes(
        doubled(column[i]) ^ times(column[(i + 1) % 4], 3) ^ column[(i + 2) % 4] ^ column[(i + 3) % 4]
        for column in columns
        for i in range(4)
    )


def xor(a: bytes, b: bytes) -> bytes:
    """Byte by byte."""
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


# --- BLAKE3, key derivation of at most one block ---

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
WHOLE = 1 | 2 | 8  # the first block of a chunk, its last, and the root
OF_CONTEXT, OF_MATERIAL = 32, 64


def derived_stream(context: bytes, material: bytes) -> Iterator[int]:
    """The bytes of derive_key(context, material), without end."""
    key = struct.unpack("<8I", compressed(IV, context, 0, WHOLE | OF_CONTEXT)[:32])
    for block in count():
        yield from compressed(key, material, block, WHOLE | OF_MATERIAL)


def compressed(chaining: tuple[int, ...], block: bytes, counter: int, flags: int) -> bytes:
    """The compression function, all 64 bytes of it."""
    message = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    state = [*chaining, *IV[:4], counter & WORD, counter >> 32, len(block), flags]

    def mix(a: int, b: int, c: int, d: int, x: int, y: int) -> None:
        for word, far, near in ((x, 16, 12), (y, 8, 7)):
            state[a] = (state[a] + state[b] + word) & WORD
            state[d] = turned_word(state[d] ^ state[a], far)
            state[c] = (state[c] + state[d]) & WORD
            state[b] = turned_word(state[b] ^ state[c], near)

    for _ in range(7):
        for i in range(4):
            mix(i, 4 + i, 8 + i, 12 + i, message[2 * i], message[2 * i + 1])
        for i in range(4):
            mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, message[8 + 2 * i], message[9 + 2 * i])
        message = [message[i] for i in ORDER]
    low = [state[i] ^ state[i + 8] for i in range(8)]
    high = [state[i + 8] ^ chaining[i] for i in range(8)]
    return struct.pack("<16I", *low, *high)


def turned_word(x: int, by: int) -> int:
    """Rotated right."""
    return (x >> by | x << (32 - by)) & WORD
