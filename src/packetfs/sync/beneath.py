"""Directories beneath one that is held open, one component of a name at a time; no symbolic link is followed.

What a peer names on a server is reached through here. Whoever may put links or other directories in the way, also
between two looks, leads nobody out of the directory that is held.
"""

import errno
import os
from collections.abc import Sequence

from packetfs.errors import RefusedError, disk_error

__all__ = ["ANCHOR", "descend", "enter"]

ANCHOR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""How a directory is opened in which names are looked up, and nothing else is done."""


def enter(handle: int, part: bytes, shown: str) -> int | None:
    """The directory `part` of the directory `handle`, to be closed; None if there is none.

    RefusedError `outside-root` for a symbolic link or a file; `shown` is what the peer has named.
    """
    assert part not in (b"", b".", b".."), "who splits a name has checked its parts"
    try:
        return os.open(part, ANCHOR | os.O_NOFOLLOW, dir_fd=handle)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise disk_error("open", shown, error.errno or errno.EIO) from None
        raise RefusedError(
            f"{shown!r} is no directory beneath what is served, but a file or a symbolic link, or leads through one",
            code="outside-root",
            hint="name a directory; a server follows no symbolic links",
        ) from None


def descend(handle: int, parts: Sequence[bytes], shown: str, *, make: bool = False) -> int | None:
    """The directory at `parts` beneath `handle`, to be closed; None if it is not there. `make` makes what is missing.

    RefusedError as in `enter`.
    """
    here = os.dup(handle)
    try:
        for part in parts:
            below = enter(here, part, shown)
            if below is None and make:
                try:
                    os.mkdir(part, dir_fd=here)
                except FileExistsError:
                    pass  # somebody else was quicker
                except OSError as error:
                    raise disk_error("create the directory", shown, error.errno or errno.EIO) from None
                below = enter(here, part, shown)
            if below is None:
                os.close(here)
                return None
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here
