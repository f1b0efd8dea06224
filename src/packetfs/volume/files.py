"""Small files and names, made durable. Every step passes a fault point first, so that tests can have each of them fail.

It decides nothing: what fails is an OSError, and whoever calls knows what was meant and says it.
"""

import fcntl
import os
from contextlib import suppress
from typing import BinaryIO, Final

from packetfs import kernel
from packetfs.env import Env

__all__ = ["make_directory", "remove", "rename", "replace", "sync_directory", "take_lock", "write_new"]

_WAIT_S: Final = 0.025  # between looks at a lock


def write_new(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make the file `path` with `data` in it, on disk when this returns. FileExistsError if there is one."""
    kernel.fault_point("create")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "wb") as file:
        kernel.fault_point("write")
        file.write(data)
        file.flush()
        kernel.fault_point("sync")
        os.fsync(file.fileno())


def replace(path: str, data: bytes) -> None:
    """Let the file `path` hold `data` and nothing else, for its owner alone: killed at any instant, the old or the new.

    On disk when this returns. Two processes must not do this to one file at a time.
    """
    scratch = f"{path}.new"
    with suppress(FileNotFoundError):
        remove(scratch)  # of one that was killed
    write_new(scratch, data)
    rename(scratch, path)
    sync_directory(os.path.dirname(path))


def make_directory(path: str) -> None:
    """Make the directory `path`, for its owner alone, and what is missing above it; one that is there is left alone."""
    kernel.fault_point("mkdir")
    os.makedirs(path, mode=0o700, exist_ok=True)


def rename(source: str, target: str) -> None:
    """Move `source` to `target`, in place of what is there if the system allows it."""
    kernel.fault_point("rename")
    os.rename(source, target)


def remove(path: str) -> None:
    """Remove the file `path`; FileNotFoundError if it is not there."""
    kernel.fault_point("remove")
    os.unlink(path)


def take_lock(path: str, *, wait_s: float, env: Env, shared: bool = False) -> BinaryIO | None:
    """The file `path`, made if need be, locked until it is closed; None if somebody else holds it for longer."""
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115 - held open
    begun_s = env.monotonic_s()
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if env.monotonic_s() - begun_s >= wait_s:
                file.close()
                return None
            env.sleep(_WAIT_S)
        else:
            return file


def sync_directory(path: str) -> None:
    """Bring the names in `path` to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        kernel.fault_point("sync")
        os.fsync(handle)
    finally:
        os.close(handle)
