"""Small files and names, made durable. Every step passes a fault point first, so that tests can have each of them fail.

It decides nothing: what fails is an OSError, and whoever calls knows what was meant and says it.
"""

import os
from contextlib import suppress

from packetfs import kernel

__all__ = ["make_directory", "remove", "rename", "replace", "sync_directory", "write_new"]


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


def sync_directory(path: str) -> None:
    """Bring the names in `path` to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        kernel.fault_point("sync")
        os.fsync(handle)
    finally:
        os.close(handle)
