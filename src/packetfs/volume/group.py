"""Commits of one process that come at the same time: they share one transaction, and the syncs of its entries.

Whoever comes while another one commits waits in a queue, with what it has stored durable already. Whoever then gets its
turn commits all of those that wait, its own first. It decides nothing about what a commit is: that is `commit.py`.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

__all__ = ["Queue", "Wish", "queue_of"]


class Wish(Protocol):
    """What somebody waits for."""

    turn: threading.Event
    """Set when it is over, or when it is its own turn."""

    @property
    def is_over(self) -> bool:
        """Whether it is done, or has failed."""


W = TypeVar("W", bound=Wish)


class Queue(Generic[W]):
    """The writers of one journal in this process."""

    def __init__(self) -> None:
        self.writing = threading.Lock()
        """Held for the length of a transaction: threads wait for each other here, and not by trying again and again."""
        self._changing = threading.Lock()
        self._waiting: list[W] = []
        self._leader: W | None = None

    @property
    def is_free(self) -> bool:
        """Whether nobody commits just now; that may change at once."""
        return self._leader is None

    def join(self, wish: W, commit: Callable[[W, Sequence[W]], None]) -> None:
        """Wait until `wish` is over: by somebody else, or by `commit(wish, others)`, which may do others as well.

        Those that it has not done go on waiting.
        """
        with self._changing:
            if self._leader is None:
                self._leader = wish
            else:
                self._waiting.append(wish)
        try:
            if self._leader is not wish:
                wish.turn.wait()
            if not wish.is_over:
                commit(wish, list(self._waiting))
        finally:
            self._leave(wish)

    def _leave(self, wish: W) -> None:
        """Whose wish is over goes; the one who has waited longest is next. Nobody is woken only to wait again."""
        with self._changing:
            with suppress(ValueError):
                self._waiting.remove(wish)  # it was interrupted
            if self._leader is not wish:
                return
            over = [other for other in self._waiting if other.is_over]
            self._waiting = [other for other in self._waiting if not other.is_over]
            self._leader = self._waiting.pop(0) if self._waiting else None
            for other in over if self._leader is None else [*over, self._leader]:
                other.turn.set()


_queues: "WeakValueDictionary[tuple[int, int] | None, Queue[Any]]" = WeakValueDictionary()
_finding = threading.Lock()


def queue_of(identity: tuple[int, int] | None) -> "Queue[Any]":
    """The queue of the journal that is the file `identity` (device, inode), as long as anybody holds it."""
    with _finding:
        found = _queues.get(identity)
        if found is None:
            found = _queues[identity] = Queue()
        return found
