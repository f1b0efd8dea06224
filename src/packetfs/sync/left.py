"""How a pull left its target: the tree and the time, remembered beside the volume (docs/formats/target.md). It decides
nothing: the kernel weighs what is remembered against what it finds.

The file is derived. Missing, damaged, or of another directory: as if the target had never been pulled into.
"""

import os
import struct
from contextlib import suppress
from typing import Final

from packetfs import kernel
from packetfs.env import Env
from packetfs.format.address import Page
from packetfs.volume.keys import Keys

__all__ = ["LONG_AGO_NS", "Left", "decode", "encode"]

_MAGIC: Final = b"PFSLEFT\x01"
_LAYOUT: Final = struct.Struct("<8s16sQI4x32sq")  # magic, boot, address, length, digest, time
_CRC: Final = struct.Struct("<I")
_BOOT_FILE: Final = "/proc/sys/kernel/random/boot_id"
_NO_BOOT: Final = bytes(16)
LONG_AGO_NS: Final = -(1 << 63)  # before everything: then nothing is vouched for


class Left:
    """What is remembered of one target directory."""

    def __init__(self, directory: str, keys: Keys, env: Env, target: bytes) -> None:
        found = os.stat(target)
        name = keys.cache_name([b"target", os.path.realpath(target), b"%d.%d" % (found.st_dev, found.st_ino)])
        self._path = os.path.join(directory, "cache", f"{name}.left")
        self._env = env

    def read(self) -> tuple[Page, int] | None:
        """The page that the target was last written from, and when it was left.

        After a restart of the machine the time is long ago: attributes may not have reached the disk with their names.
        """
        try:
            with open(self._path, "rb") as file:
                return decode(file.read(_LAYOUT.size + _CRC.size + 1), _boot())
        except OSError:
            return None

    def write(self, page: Page, left_ns: int) -> None:
        """Remember it; when that fails nothing is remembered, and the next pull looks at more."""
        fresh = f"{self._path}.{self._env.random_bytes(4).hex()}.new"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(fresh, "xb") as file:
                file.write(encode(page, left_ns, _boot()))
            os.replace(fresh, self._path)
        except OSError:
            self.forget()
            with suppress(OSError):
                os.unlink(fresh)

    def forget(self) -> None:
        """Remember nothing."""
        with suppress(OSError):
            os.unlink(self._path)


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
