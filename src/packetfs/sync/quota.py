"""What the sessions of this process may let a volume grow to, all of them together. It counts, and refuses."""

import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from packetfs.errors import UnavailableError

__all__ = ["Quota", "quota_of"]


class Quota:
    """The quota of one volume. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used_bytes = 0

    def measured(self, used_bytes: int, limit_bytes: int) -> None:
        """Take note of what the volume takes on disk; UnavailableError `quota-exceeded` if that is too much."""
        with self._lock:
            self._used_bytes = used_bytes
            self._check(limit_bytes)

    def place(self, store: Callable[[], int], limit_bytes: int) -> int:
        """Do `store`, which says how many bytes it has added, and count them; one at a time.

        UnavailableError if there was no room before, or is none after: no more than one call can exceed the quota.
        """
        with self._lock:
            self._check(limit_bytes)
            added = store()
            self._used_bytes += added
            self._check(limit_bytes)
        return added

    def _check(self, limit_bytes: int) -> None:
        if self._used_bytes > limit_bytes:
            raise UnavailableError(
                f"the volume's quota of {limit_bytes} bytes is exhausted: it takes {self._used_bytes}",
                code="quota-exceeded",
                hint="forget snapshots there and run `packetfs gc`, or let whoever runs the server raise its --quota",
                quota_bytes=limit_bytes,
                used_bytes=self._used_bytes,
            )


_quotas: "WeakValueDictionary[bytes, Quota]" = WeakValueDictionary()
_finding = threading.Lock()


def quota_of(volume_id: bytes) -> Quota:
    """The one of the volume with that id, as long as anybody holds it."""
    with _finding:
        found = _quotas.get(volume_id)
        if found is None:
            found = _quotas[volume_id] = Quota()
        return found
