"""What this process has used: CPU time, and the most anonymous memory that was seen. It never guesses."""

import resource
import time

from packetfs import kernel

__all__ = ["Usage", "prepare_process"]


def prepare_process() -> None:
    """Let a process of our own transfer as much as it likes: it may open many files, and keeps no memory it freed.

    A push of a hundred gigabytes fills sixteen hundred segments, which are all open until it is committed. A program
    that uses PacketFS as a library decides this for itself.
    """
    kernel.give_back_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Usage:
    """Counts from when it was made.

    Where a process works for many, each in a thread of its own, that `thread` alone is counted: it has to ask then.
    """

    def __init__(self, *, thread: bool = False) -> None:
        self._cpu_ms = _thread_cpu_ms if thread else _cpu_ms
        self._begun_ms = self._cpu_ms()
        self._anonymous_kib = 0

    def cpu_ms(self) -> int:
        """Milliseconds of CPU, user and system."""
        return self._cpu_ms() - self._begun_ms

    def anonymous_kib(self) -> int:
        """The largest RssAnon of the calls so far, this one included."""
        self._anonymous_kib = max(self._anonymous_kib, _anonymous_kib())
        return self._anonymous_kib


def _thread_cpu_ms() -> int:
    return time.thread_time_ns() // 10**6


def _cpu_ms() -> int:
    # It adds up every thread there is: a third of a millisecond for the two thousand of a server.
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round((used.ru_utime + used.ru_stime) * 1000)


def _anonymous_kib() -> int:
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"RssAnon:"):
                return int(line.split()[1])
    return 0
