"""An operation again and again: whenever directories have changed, and when what it needs was out of reach for a while.

What the operation is, and what it tells, is its owner's. Nothing here knows what has changed: the operation looks.
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final, NoReturn, TypeVar

from packetfs import kernel
from packetfs.env import SYSTEM, Env
from packetfs.errors import BusyError, ConflictError, PacketFSError, UnavailableError, UsageError, disk_error

__all__ = ["delay_s", "follow", "follow_with", "watch"]

Opened = TypeVar("Opened")

QUIET_S: Final = 0.003  # an editor writes, syncs and renames within less
LIMIT_S: Final = 0.05  # what is written all the time is looked at as often
_DELAY_MIN_S: Final = 1.0
_DELAY_MAX_S: Final = 60.0
_MENDED_BY_TIME = (UnavailableError, BusyError, ConflictError)


def watch(directories: Sequence[bytes], excluded: kernel.Patterns | None = None) -> kernel.Watch:
    """Put `directories` and all beneath them under watch; UsageError for what is no directory."""
    for path in directories:
        if not os.path.isdir(path):
            raise UsageError(f"{os.fsdecode(path)!r} is no directory: only directories are watched")
    try:
        return kernel.Watch([os.path.abspath(path) for path in directories], excluded=excluded)
    except OSError as error:
        raise _watch_error(error, directories) from None


def follow(
    changes: kernel.Watch,
    operation: Callable[[], None],
    *,
    directories: Sequence[bytes],
    retry_s: float | None,
    failed: Callable[[PacketFSError, float], None],
    env: Env = SYSTEM,
) -> NoReturn:
    """Run `operation`, and again after each change, until it is interrupted or fails for good.

    What time may mend (a machine or a disk out of reach, a ref that moved, a lock) is tried again for `retry_s`, or
    for ever, unless it is the very first run: `failed` hears of it, and after how many seconds the next try is.
    """
    operation()
    while True:
        _wait(changes, directories)
        attempt, since_s = 0, env.monotonic_s()
        while True:
            try:
                operation()
                break
            except _MENDED_BY_TIME as error:
                pause_s = delay_s(attempt, env.random_bytes(1)[0])
                if retry_s is not None and env.monotonic_s() + pause_s - since_s > retry_s:
                    raise
                failed(error, pause_s)
                env.sleep(pause_s)
                attempt += 1


def follow_with(
    opening: Callable[[], AbstractContextManager[Opened]],
    operation: Callable[[Opened], None],
    *,
    directories: Sequence[bytes],
    excluded: kernel.Patterns | None,
    retry_s: float | None,
    failed: Callable[[PacketFSError, float], None],
    env: Env = SYSTEM,
) -> NoReturn:
    """Watch `directories` and `follow` with what `opening` gives: kept open from run to run, and opened anew after one
    that failed.
    """
    changes = watch(directories, excluded)
    kept: list[Opened] = []
    with ExitStack() as stack:

        def run() -> None:
            try:
                if not kept:
                    kept.append(stack.enter_context(opening()))
                operation(kept[0])
            except BaseException:
                kept.clear()
                stack.close()
                raise

        follow(changes, run, directories=directories, retry_s=retry_s, failed=failed, env=env)


def delay_s(attempt: int, dice: int) -> float:
    """How long to wait before the next try: at once, then twice as long each time, up to a minute.

    `dice`, 0 to 255, takes up to half of it off, so that those who lost the same server do not come back together.
    """
    if attempt == 0:
        return 0.0
    whole_s: float = min(_DELAY_MAX_S, _DELAY_MIN_S * 2 ** min(attempt - 1, 16))
    return whole_s * (1 - dice / 512)


def _wait(changes: kernel.Watch, directories: Sequence[bytes]) -> None:
    try:
        while not changes.wait(patience_s=None, quiet_s=QUIET_S, limit_s=LIMIT_S):
            pass  # a signal: Python raises what it means
    except OSError as error:
        raise _watch_error(error, directories) from None


def _watch_error(error: OSError, directories: Sequence[bytes]) -> PacketFSError:
    name = os.fsdecode(directories[0])
    if error.errno == errno.ENOSPC:
        return UnavailableError(
            f"the system lets nobody watch as many directories as there are beneath {name!r}",
            code="too-many-watches",
            hint="raise the limit: `sysctl fs.inotify.max_user_watches=1048576`, or leave directories out by --exclude",
            path=name,
        )
    if error.errno == errno.EMFILE:
        return UnavailableError(
            "there are too many watchers on this system already",
            code="too-many-watches",
            hint="raise the limit: `sysctl fs.inotify.max_user_instances=1024`",
        )
    return disk_error("watch", name, error.errno or 0)
