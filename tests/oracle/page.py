"""Read tree pages slowly, from docs/formats alone: what the kernel's reader is checked against. It trusts its input."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

WORD = 1 << 64
FILE, DIRECTORY, SYMLINK = 0, 1, 2
DEVICES = (4, 5)


class Reader:
    """Bytes, read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        part = self.data[self.at : self.at + length]
        assert len(part) == length
        self.at += length
        return part

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def finished(self) -> bool:
        return self.at == len(self.data)


def zigzag(value: int) -> int:
    value = value % WORD
    return (2 * value if value < WORD // 2 else 2 * (WORD - value) - 1) % WORD


def unzigzag(code: int) -> int:
    return code // 2 if code % 2 == 0 else -(code + 1) // 2


class Expected:
    """Where the next extent is expected to begin."""

    def __init__(self) -> None:
        self.address = 0

    def extent(self, code: int, length: int) -> tuple[int, int]:
        hole = zigzag(-self.address)
        code = hole if code == 1 else 1 if code == hole else code
        address = (self.address + unzigzag(code)) % WORD
        if address != 0:
            self.address = address + length
        return address, length


def extent_list(data: bytes) -> list[tuple[int, int]]:
    reader, expected, found = Reader(data), Expected(), []
    while not reader.finished():
        code = reader.varint()
        found.append(expected.extent(code, reader.varint()))
    return found


@dataclass
class Page:
    """The parts of a page."""

    level: int
    form: int
    count: int
    covered: bytes
    body: Reader
    digests: Reader
    pointers: Reader

    @classmethod
    def of(cls, data: bytes) -> Page:
        header = Reader(data)
        assert header.take(5) == b"PFSP\x01"
        level, form, reserved = header.number(1), header.number(1), header.number(1)
        count, body_bytes, digests = header.number(4), header.number(4), header.number(4)
        assert reserved == 0
        end = 20 + body_bytes + 32 * digests
        parts = (data[20 : 20 + body_bytes], data[20 + body_bytes : end], data[end:])
        return cls(level, form, count, data[:end], *map(Reader, parts))

    def finished(self) -> bool:
        return self.body.finished() and self.digests.finished() and self.pointers.finished()


def names(body: Reader, count: int) -> list[bytes]:
    shared, lengths = body.take(count), body.take(count)
    found = [b""]
    for keep, length in zip(shared, lengths, strict=True):
        found.append(found[-1][:keep] + body.take(length))
    assert all(before < after for before, after in pairwise(found[1:]))
    return found[1:]


def places(body: Reader) -> list[int]:
    found, place = [], -1
    for _ in range(body.varint()):
        place += 1 + body.varint()
        found.append(place)
    return found


def column_of_classes(body: Reader, count: int) -> list[dict[str, object]]:
    classes = []
    for _ in range(body.varint()):
        kind, mode = body.number(1), body.number(2)
        uid, gid = body.varint(), body.varint()
        user = body.take(body.number(1)).hex()
        group = body.take(body.number(1)).hex()
        classes.append({"kind": kind, "mode": mode, "uid": uid, "gid": gid, "user": user, "group": group})
    width = 0 if len(classes) <= 1 else 1 if len(classes) <= 256 else 2
    return [classes[body.number(width)] for _ in range(count)]


def column_of_times(body: Reader, count: int) -> list[int]:
    unit, width = 10 ** body.number(1), body.number(1)
    least = unzigzag(body.varint())
    planes = [body.take(count) for _ in range(width)]
    after = [sum(plane[at] << (8 * n) for n, plane in enumerate(planes)) for at in range(count)]
    return [(least + one) * unit for one in after]


def extents(pointers: Reader, expected: Expected, count: int, size: int) -> list[list[str]]:
    found = []
    for nth in range(count):
        code = pointers.varint()
        length = pointers.varint() if nth < count - 1 else size
        size -= length
        found.append([str(number) for number in expected.extent(code, length)])
    assert size == 0
    return found


def page_of(pointers: Reader, expected: Expected, digest: str) -> tuple[str, int, str]:
    code = pointers.varint()
    address, length = expected.extent(code, pointers.varint())
    return str(address), length, digest


def leaf(data: bytes) -> list[dict[str, object]]:
    """The entries of a leaf as the golden JSON spells them."""
    page = Page.of(data)
    body, count = page.body, page.count
    flags = body.number(1)
    listed = names(body, count)
    classes = column_of_classes(body, count)
    times = column_of_times(body, count) if count else []
    kinds = [one["kind"] for one in classes]
    sizes = [body.varint() if kind == FILE else 0 for kind in kinds]
    targets = [body.take(body.varint()).hex() if kind == SYMLINK else "" for kind in kinds]
    devices = [body.varint() if kind in DEVICES else 0 for kind in kinds]
    links, attributes = [0] * count, [list[list[str]]() for _ in range(count)]
    if flags & 2:
        for place in places(body):
            links[place] = body.number(8)
    if flags & 1:
        sets = [
            [[body.take(body.varint()).hex() for _ in range(2)] for _ in range(body.varint())]
            for _ in range(body.varint())
        ]
        for place in places(body):
            attributes[place] = sets[body.varint()]

    data_expected, pages_expected, entries = Expected(), Expected(), []
    for at, kind in enumerate(kinds):
        digest, content = bytes(32).hex(), None
        if kind == FILE:
            digest, content = page.digests.take(32).hex(), file_content(page.pointers, data_expected, sizes[at])
        elif kind == DIRECTORY:
            content = {"page": list(page_of(page.pointers, pages_expected, page.digests.take(32).hex()))}
        entries.append(
            {
                "name": listed[at].hex(),
                **classes[at],
                "mtime_ns": str(times[at]),
                "size": str(sizes[at]),
                "xattrs": attributes[at],
                "target": targets[at],
                "rdev": str(devices[at]),
                "link_id": str(links[at]),
                "digest": digest,
                "content": content,
            }
        )
    assert page.finished()
    return entries


def file_content(pointers: Reader, expected: Expected, size: int) -> dict[str, object]:
    if size == 0:
        return {"extents": []}
    inline = pointers.varint()
    if inline:
        return {"extents": extents(pointers, expected, inline, size)}
    count, length = pointers.varint(), pointers.varint()
    return {"list": extents(pointers, expected, pointers.varint(), length), "count": str(count)}


def node(data: bytes) -> list[list[object]]:
    """The children of a node as the golden JSON spells them."""
    page, expected = Page.of(data), Expected()
    firsts = names(page.body, page.count)
    children = [[first.hex(), *page_of(page.pointers, expected, page.digests.take(32).hex())] for first in firsts]
    assert page.finished()
    return children
