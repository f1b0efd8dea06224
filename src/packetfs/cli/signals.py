"""SIGINT and SIGTERM: the first ends the command in good order, the second at once. Nothing is cleaned up here.

The first is raised as KeyboardInterrupt where the command is, as Python does with Ctrl-C, and what is open is closed on
the way out. A second one, of whatever kind, is not waited for: a thread of its own hears it, also while the kernel
works or a disk does not answer. Either way the exit code is 130.
"""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from packetfs.errors import EXIT_INTERRUPTED

__all__ = ["heard"]


class _Ears:
    """How many signals have come."""

    def __init__(self) -> None:
        self._raised = False

    def raise_once(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the main thread, the first time."""
        del number, frame
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def listen(self, reading: int, numbers: frozenset[int]) -> None:
        """In a thread: end the process at the second signal."""
        count = 0
        while told := os.read(reading, 64):
            count += sum(number in numbers for number in told)
            if count > 1:
                os._exit(EXIT_INTERRUPTED)


@contextmanager
def heard() -> Iterator[None]:
    """Let signals end what runs inside. What a parent has told us to ignore (`nohup`) stays ignored."""
    import _thread

    expected: dict[int, Callable[..., object] | int] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    numbers = frozenset(int(number) for number, usual in expected.items() if signal.getsignal(number) is usual)
    ears = _Ears()
    reading, writing = map(_beyond_the_streams, os.pipe2(os.O_CLOEXEC))
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _thread.start_new_thread(ears.listen, (reading, numbers))
    for number in numbers:
        signal.signal(number, ears.raise_once)
    try:
        yield
    finally:
        # What is left is to end, with the exit code of what was done. Python gives handlers of its own back before it
        # ends, and a signal that comes after that would take the code's place.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _beyond_the_streams(handle: int) -> int:
    """The same under another number: those of standard streams that were closed are filled by `guard`."""
    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(handle)
    return moved
