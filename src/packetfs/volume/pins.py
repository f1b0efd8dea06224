"""Who uses a volume now, so that nothing is reclaimed under them. To hold a pin one waits for nobody.

A pin is a shared lock on one byte of `volume.toml`: the byte whose number is the round of reclaiming that its holder
has seen. It takes no space, so that it can be had on a full disk and on one that is mounted read-only, and it ends with
the process, however that ends. Whoever reclaims looks for locks on all other bytes.
"""

import fcntl
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from typing import Final, Literal

from packetfs.errors import BusyError, disk_error

__all__ = ["Pin", "collecting", "following", "holders", "is_pinned"]

_LOCK: Final = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_ROUND_MAX: Final = (1 << 61) - 1
_COLLECTING: Final = 1 << 61  # the byte that whoever reclaims holds alone
_FOLLOWING: Final = _COLLECTING + 1  # and whoever changes a copy that follows its origin


class Pin:
    """An open pin; it holds nothing before `hold`. One that is forgotten is closed."""

    def __init__(self, path: str) -> None:
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_error("open", path, error.errno or 0) from None
        self._end = weakref.finalize(self, os.close, self._handle)
        self.round: int | None = None
        """What it holds; None: nothing."""

    def hold(self, number: int) -> None:
        """Hold round `number`, and no other."""
        _set(self._handle, fcntl.F_RDLCK, number)
        self.release(but=number)
        self.round = number

    def release(self, *, but: int | None = None) -> None:
        """Hold nothing, for whoever has nothing to lose until the next `hold`."""
        if self.round is not None and self.round != but:
            _set(self._handle, fcntl.F_UNLCK, self.round)
        self.round = None

    def close(self) -> None:
        """Hold nothing any more; idempotent."""
        self._end()
        self.round = None


def collecting(path: str) -> AbstractContextManager[None]:
    """Within the block nobody else reclaims anything of the volume; BusyError if somebody does."""
    return _alone(path, _COLLECTING, "another process reclaims space of this volume", "wait until it has ended")


def following(path: str) -> AbstractContextManager[None]:
    """Within the block nobody else brings this copy up to date, or makes it the origin; BusyError if somebody does."""
    return _alone(path, _FOLLOWING, "another process brings this replica up to date", "end it first, or let it work")


@contextmanager
def _alone(path: str, byte: int, message: str, hint: str) -> Iterator[None]:
    with _opened(path, "r+b") as file:
        try:
            _set(file.fileno(), fcntl.F_WRLCK, byte)
        except BlockingIOError:
            raise BusyError(message, hint=hint, path=path) from None
        yield


def is_pinned(path: str, number: int) -> bool:
    """Whether anybody holds another round than `number`."""
    with _opened(path, "rb") as file:
        return _has_lock(file.fileno(), 0, number) or _has_lock(file.fileno(), number + 1, _ROUND_MAX)


def holders(path: str, number: int) -> list[int]:
    """Processes that hold another round than `number`, as far as the system lets us see them."""
    wanted = os.stat(path)
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and _holds(f"/proc/{name}", (wanted.st_dev, wanted.st_ino), number):
                found.append(int(name))
    return sorted(found)


def _holds(process: str, file: tuple[int, int], number: int) -> bool:
    for handle in os.listdir(f"{process}/fd"):
        with suppress(OSError, ValueError):
            status = os.stat(f"{process}/fd/{handle}")
            if (status.st_dev, status.st_ino) != file:
                continue
            with open(f"{process}/fdinfo/{handle}", encoding="ascii") as info:
                for line in info:
                    # lock:	1: OFDLCK  ADVISORY  READ  -1 fe:00:1234 7 7
                    words = line.split()
                    if words[:1] == ["lock:"] and "OFDLCK" in words and "READ" in words and int(words[-2]) != number:
                        return True
    return False


def _set(handle: int, kind: int, start: int) -> None:
    """BlockingIOError if another holds a lock that does not go with it."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, start, 1, 0))
    except BlockingIOError:
        raise
    except OSError as error:
        raise disk_error("lock", f"/proc/self/fd/{handle}", error.errno or 0) from None


def _has_lock(handle: int, start: int, end: int) -> bool:
    """Whether another open file holds a lock on a byte of `[start, end)`."""
    if start == end:
        return False
    asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
    answer: bytes = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked)
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _opened(path: str, mode: Literal["rb", "r+b"]) -> FileIO:
    try:
        return open(path, mode, buffering=0)
    except OSError as error:
        raise disk_error("open", path, error.errno or 0) from None
