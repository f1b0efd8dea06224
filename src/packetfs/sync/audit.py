"""The audit log of a server: who did what, from where, with what result. JSON lines (docs/formats/trust.md).

What is not written down does not happen: a failure to write is raised. What strangers cause is folded, so that nobody
fills the disk by knocking.
"""

import errno
import os
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from packetfs.env import Env
from packetfs.errors import disk_error

__all__ = ["Audit"]

_BYTES_MAX: Final = 64 << 20  # then it becomes audit.jsonl.1, and what was there before is gone
_STRANGERS: Final = 20  # lines that strangers may cause in a window; what is more is counted
_WINDOW_S: Final = 10.0


class Audit:
    """The log of one root. Threads may share it, and processes append."""

    def __init__(self, path: str, env: Env) -> None:
        self._path = path
        self._env = env
        self._lock = threading.Lock()
        self._window_s = env.monotonic_s()
        self._lines = 0
        self._folded: dict[str, int] = {}
        self.heard: Callable[[dict[str, object]], None] = lambda _: None
        """Told each line that was written; it may be called by several threads at once."""

    def write(self, event: str, *, result: str = "ok", **fields: object) -> None:
        """Append a line. UnavailableError if it cannot be written."""
        line = {"time_ns": self._env.now_ns(), "event": event, "result": result, **fields}
        data = msgspec.json.encode(line) + b"\n"
        with self._lock:
            try:
                self._append(data)
            except OSError as error:
                raise disk_error("write", self._path, error.errno or errno.EIO) from None
        self.heard(line)

    def check(self) -> None:
        """Raise what the next `write` would meet at once: UnavailableError."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise disk_error("write", self._path, error.errno or errno.EIO) from None

    def refused(self, result: str, **fields: object) -> None:
        """Append a line about somebody who was not let in; of many in a short time, a number."""
        self.flush()
        with self._lock:
            self._lines += 1
            folds = self._lines > _STRANGERS
            if folds:
                self._folded[result] = self._folded.get(result, 0) + 1
        if not folds:
            self.write("refused", result=result, **fields)

    def flush(self, *, now: bool = False) -> None:
        """Write down what was folded, if its window is over; or `now`."""
        with self._lock:
            now_s = self._env.monotonic_s()
            if not now and now_s - self._window_s < _WINDOW_S:
                return
            self._window_s, self._lines = now_s, 0
            folded, self._folded = self._folded, {}
        for result, count in folded.items():
            self.write("refused", result=result, more=count)

    def _append(self, data: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(handle).st_size + len(data) > _BYTES_MAX:
                os.rename(self._path, f"{self._path}.1")
                os.close(handle)
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
