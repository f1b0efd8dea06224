"""How a pull left its target: the tree and the time, remembered beside the volume (docs/formats/target.md). It decides
nothing: the kernel weighs what is remembered against what it finds.

While a pull is under way another record names its tree: until it has ended, names may be as in the one or the other.

The files are derived. Missing, damaged, or of another directory: as if the target had never been pulled into.
"""

import os
import struct
from contextlib import suppress
from typing import Final

from packetfs import kernel
from packetfs.env import Env
from packetfs.format.address import Page
from packetfs.volume.keys import Keys

__all__ = ["LONG_AGO_NS", "SEVERAL", "Left", "decode", "encode"]

_MAGIC: Final = b"PFSLEFT\x01"
_LAYOUT: Final = struct.Struct("<8s16sQI4x32sq")  # magic, boot, address, length, digest, time
_CRC: Final = struct.Struct("<I")
_BOOT_FILE: Final = "/proc/sys/kernel/random/boot_id"
_NO_BOOT: Final = bytes(16)
SEVERAL: Final[Page] = (0, 0, bytes(32))  # no page: names may be as in more than one other tree
LONG_AGO_NS: Final = -(1 << 63)  # before everything: then nothing is vouched for


class Left:
    """What is remembered of one target directory."""

    def __init__(self, directory: str, keys: Keys, env: Env, target: bytes) -> None:
        found = os.stat(target)
        name = keys.cache_name([b"target", os.path.realpath(target), b"%d.%d" % (found.st_dev, found.st_ino)])
        self._path = os.path.join(directory, "cache", f"{name}.left")
        self._going = os.path.join(directory, "cache", f"{name}.going")
        self._env = env

    def read(self) -> tuple[Page, int] | None:
        """The page that the target was last written from, and when it was left.

        After a restart of the machine the time is long ago: attributes may not have reached the disk with their names.
        """
        return _read(self._path)

    def is_mixed(self, page: Page) -> bool:
        """Whether a pull of another tree than `page` has not ended, or was of a part of it: what has the size and time
        of a file in `page` may be of that tree.
        """
        going = _read(self._going)
        return going is not None and going[0] != page

    def begin(self, page: Page) -> None:
        """From now on names may be as in `page`, until `write`, `end` or `forget`. On disk when this returns, as the
        names will be.
        """
        left, going = self.read(), _read(self._going)
        if going is None and left is not None and left[0] == page:
            return
        if going is None or going[0] not in (page, SEVERAL):
            self._put(self._going, page if going is None else SEVERAL, LONG_AGO_NS, is_synced=True)

    def write(self, page: Page, left_ns: int) -> None:
        """Remember it; when that fails nothing is remembered, and the next pull looks at more."""
        self._put(self._path, page, left_ns, is_synced=False)
        _remove(self._going)

    def end(self) -> None:
        """What was remembered when the pull began is still true."""
        _remove(self._going)

    def forget(self) -> None:
        """Remember nothing."""
        _remove(self._path)
        _remove(self._going)

    def _put(self, path: str, page: Page, left_ns: int, *, is_synced: bool) -> None:
        fresh = f"{path}.{self._env.random_bytes(4).hex()}.new"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(fresh, "xb") as file:
                file.write(encode(page, left_ns, _boot()))
                file.flush()
                os.replace(fresh, path)
                if is_synced:
                    os.fsync(file.fileno())  # takes its name with it
        except OSError:
            self.forget()
            _remove(fresh)


def _read(path: str) -> tuple[Page, int] | None:
    try:
        with open(path, "rb") as file:
            return decode(file.read(_LAYOUT.size + _CRC.size + 1), _boot())
    except OSError:
        return None


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def encode(page: Page, left_ns: int, boot: bytes) -> bytes:
    """The bytes of a record."""
    address, length, digest = page
    body = _LAYOUT.pack(_MAGIC, boot, address, length, digest, left_ns)
    return body + _CRC.pack(kernel.crc32c(body))


def decode(data: bytes, now: bytes) -> tuple[Page, int] | None:
    """What a record says in the boot `now`; None if it is none."""
    body, check = data[: _LAYOUT.size], data[_LAYOUT.size :]
    if check != _CRC.pack(kernel.crc32c(body)) or not body.startswith(_MAGIC):
        return None
    _, boot, address, length, digest, left_ns = _LAYOUT.unpack(body)
    return (address, length, digest), left_ns if boot == now != _NO_BOOT else LONG_AGO_NS


def _boot() -> bytes:
    """What tells this run of the machine from others, if anything does."""
    try:
        with open(_BOOT_FILE, "rb") as file:
            return bytes.fromhex(file.read(64).strip().replace(b"-", b"").decode("ascii"))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return _NO_BOOT
