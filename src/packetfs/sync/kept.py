"""A small file that several processes read and change: whole, durable, one change at a time. Not what is in it.

Changes take a lock beside the file; the file itself is replaced, so that who reads sees the old or the new.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from packetfs.errors import DamagedError, disk_error
from packetfs.format import trust
from packetfs.volume import files

__all__ = ["Kept"]

Value = TypeVar("Value", bound="trust.Book | trust.Servers")
Answer = TypeVar("Answer")
_MISSING: Final = (0, 0, 0)


class Kept(Generic[Value]):
    """A value in a file. Threads and processes may share it."""

    def __init__(self, path: str, decode: Callable[[bytes, str], Value], empty: Value) -> None:
        """The file need not be there: then it is `empty`."""
        self.path = path
        self._decode = decode
        self._empty = empty
        self._known: tuple[tuple[int, int, int], Value] | None = None

    def read(self) -> Value:
        """The value as it is now; a file that has not changed is not read again. DamagedError if it cannot be read."""
        # No lock: the sessions of a server ask before each message, and waited here for nine tenths of their time.
        # What is loaded is never older than its stamp, and both are put in place as one.
        stamp, known = self._found(), self._known
        if known is None or known[0] != stamp:
            known = self._known = stamp, self._loaded()
        return known[1]

    def change(self, step: Callable[[Value], tuple[Value, Answer]]) -> Answer:
        """Let the file hold what `step` makes of the value; durable when this returns. What `step` raises, is raised.

        Nobody else changes it meanwhile.
        """
        try:
            files.make_directory(os.path.dirname(self.path))
            handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error("change", self.path, error.errno or errno.EIO) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            before = self._loaded()
            after, answer = step(before)
            if after != before:
                files.replace(self.path, trust.encode(after))
        except OSError as error:
            raise disk_error("change", self.path, error.errno or errno.EIO) from None
        finally:
            os.close(handle)
        return answer

    def _found(self) -> tuple[int, int, int]:
        with suppress(FileNotFoundError):
            found = os.stat(self.path)
            return found.st_ino, found.st_mtime_ns, found.st_size
        return _MISSING

    def _loaded(self) -> Value:
        try:
            with open(self.path, "rb") as file:
                data = file.read(trust.BYTES_MAX + 1)
        except FileNotFoundError:
            return self._empty
        except OSError as error:
            raise disk_error("read", self.path, error.errno or errno.EIO) from None
        if len(data) > trust.BYTES_MAX:
            raise DamagedError(f"{self.path!r} is too long to be ours", code="trust-damaged", path=self.path)
        return self._decode(data, self.path)
