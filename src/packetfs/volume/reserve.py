"""A few MiB that a volume keeps for the time when its disk is full: to be opened, read and cleaned then.

`VOLUME/reserve` is room that is taken and not used. Opening a volume takes some pages on its disk, and so does saying
in the journal what may be removed; whoever finds no room for that gives the reserve up first. It is made again when
there is room. A volume without one is sound, and a reserve may be deleted at any time: it decides nothing.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from packetfs import kernel
from packetfs.errors import disk_error
from packetfs.volume import files

__all__ = ["FILE_NAME", "RESERVE_BYTES", "give_up", "keep", "spent"]

FILE_NAME: Final = "reserve"
# A WAL of a thousand pages, which is when SQLite folds it into journal.db: entries for some thousand removals.
RESERVE_BYTES: Final = 4 << 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EOPNOTSUPP, errno.EINVAL, errno.EROFS)


def keep(volume: str) -> bool:
    """Make the reserve if it is missing and there is room for it; whether it is there now."""
    path = os.path.join(volume, FILE_NAME)
    if os.path.exists(path):
        return True
    made = f"{path}.new"
    try:
        kernel.fault_point("create")
        handle = os.open(made, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            kernel.fault_point("resize")
            os.posix_fallocate(handle, 0, RESERVE_BYTES)
        finally:
            os.close(handle)
        files.rename(made, path)
    except FileNotFoundError:
        return os.path.exists(path)  # another process had the same idea, and its rename took what both have made
    except OSError as error:
        with suppress(OSError):
            os.unlink(made)
        if error.errno in _NO_ROOM:
            return False
        raise disk_error("make", path, error.errno or 0) from None
    return True


def give_up(volume: str) -> bool:
    """Let the volume have the room of its reserve; whether there was one."""
    path = os.path.join(volume, FILE_NAME)
    try:
        files.remove(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise disk_error("remove", path, error.errno or 0) from None
    return True


@contextmanager
def spent(volume: str) -> Iterator[None]:
    """Within the block there is no reserve: for what makes room, and needs some to say so. It comes back if it can."""
    give_up(volume)
    try:
        yield
    finally:
        keep(volume)
