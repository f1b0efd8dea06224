"""Making a volume, so that there is either a whole one or none: built beside its place, then renamed into it."""

import errno
import fcntl
import os
import re
import shutil
from contextlib import suppress
from typing import Final

from packetfs import kernel
from packetfs.env import Env
from packetfs.errors import ConflictError, NotFoundError, PacketFSError, RefusedError, disk_error
from packetfs.format.descriptor import Descriptor, encode_descriptor
from packetfs.volume import files, reserve, standing
from packetfs.volume.journal import Journal, create_journal
from packetfs.volume.keys import Keys
from packetfs.volume.standing import Standing

__all__ = ["REPLICA_MARK", "create", "create_replica", "is_volume"]

REPLICA_MARK: Final = "replica"
"""A file that a full replica has, so that `rebuild` knows it without its journal."""
_FIRST_EPOCH: Final = 0
_SECRET_BYTES: Final = 32
_STAGING_BYTES: Final = 6  # random ones, in the name of a directory in which a volume is made
_MADE: Final = re.compile(
    r"segments|index|cache|reserve(\.new)?|secret|replica|volume\.toml|journal\.db(-wal|-shm|-journal)?"
)


def is_volume(path: str) -> bool:
    """Whether there is a volume at `path`. Not whether it is sound."""
    return os.path.exists(os.path.join(path, "volume.toml"))


def create(path: str, env: Env) -> None:
    """Make an empty volume at `path`, which is missing or an empty directory. Durable when this returns.

    Killed before the end it leaves nothing at `path`; what it leaves beside it is removed by the next `create` there.
    """
    secret = env.random_bytes(_SECRET_BYTES)
    described = Descriptor(volume_id=env.random_bytes(16), secret_id=Keys.secret_id(secret), created_ns=env.now_ns())
    _create(path, secret, described, None, env)


def create_replica(path: str, secret: bytes, described: Descriptor, replica: Standing, env: Env) -> None:
    """Make an empty full replica of another machine's volume at `path`, in the same way."""
    _create(path, secret, described, replica, env)


def _create(path: str, secret: bytes, described: Descriptor, replica: Standing | None, env: Env) -> None:
    parent, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise NotFoundError(
            f"cannot make a volume at {path!r}: there is no directory {parent!r}",
            code="file-not-found",
            hint="create it first, or check whether its disk is mounted",
            path=parent,
        )
    _check_free(path)
    prefix = f".{name[:128]}.new-"
    try:
        _remove_abandoned(parent, prefix)
        staging, handle = _make_staging(os.path.join(parent, prefix), env)
    except OSError as error:
        raise disk_error("create", path, error.errno or 0) from None
    try:
        _fill(staging, secret, described, replica, env)
        files.sync_directory(staging)
        _rename(staging, path)
        files.sync_directory(parent)
    except OSError as error:
        raise disk_error("create", path, error.errno or 0) from None
    finally:
        os.close(handle)
        with suppress(OSError):
            shutil.rmtree(staging)


def _check_free(path: str) -> None:
    if is_volume(path):
        raise _exists(path)
    try:
        used = os.listdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error("create a volume at", path, error.errno or 0) from None
    if used:
        raise _not_empty(path)


def _make_staging(prefix: str, env: Env) -> tuple[str, int]:
    """An empty directory, and a handle whose lock tells others that it is not abandoned."""
    while True:
        staging = prefix + env.random_bytes(_STAGING_BYTES).hex()
        kernel.fault_point("mkdir")
        os.mkdir(staging, 0o700)
        with suppress(FileNotFoundError):
            handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.isdir(staging):
                return staging, handle
            os.close(handle)  # another `create` was quicker to lock it, and took it for abandoned


def _fill(staging: str, secret: bytes, described: Descriptor, replica: Standing | None, env: Env) -> None:
    """Everything that a volume has from the beginning."""
    for name in ("segments", "index", "cache"):
        files.make_directory(os.path.join(staging, name))
    check = Keys(secret, described.volume_id).row_check(_FIRST_EPOCH, 0)
    place = os.path.join(staging, "journal.db")
    create_journal(place, epoch=_FIRST_EPOCH, row_check=check)
    if replica is not None:
        files.write_new(os.path.join(staging, REPLICA_MARK), b"")
        journal = Journal(place, lock_wait_s=0, env=env)
        try:
            with journal.writing() as db:
                standing.enter(db, replica)
        finally:
            journal.close()
    files.write_new(os.path.join(staging, "secret"), secret)
    reserve.keep(staging)
    files.write_new(os.path.join(staging, "volume.toml"), encode_descriptor(described), 0o644)


def _rename(staging: str, path: str) -> None:
    """Put the volume in its place. The kernel refuses if something is there by now, so that two never mix."""
    try:
        files.rename(staging, path)
    except OSError as error:
        if is_volume(path):
            raise _exists(path) from None
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise _not_empty(path) from None
        raise


def _remove_abandoned(parent: str, prefix: str) -> None:
    """Remove what a killed `create` left; a living one holds a lock on its directory.

    Only what `create` itself may have made: a name of its form, and in it nothing that a new volume does not have.
    """
    ours = re.compile(re.escape(prefix) + f"[0-9a-f]{{{2 * _STAGING_BYTES}}}")
    found: list[os.DirEntry[str]] = []
    with suppress(OSError):  # a directory in which one may create but not look
        found = list(os.scandir(parent))
    for entry in found:
        if not ours.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        with suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if all(_MADE.fullmatch(name) for name in os.listdir(handle)):
                    shutil.rmtree(entry.path)
            finally:
                os.close(handle)


def _exists(path: str) -> PacketFSError:
    return ConflictError(f"there is a volume at {path!r} already", code="volume-exists", path=path)


def _not_empty(path: str) -> PacketFSError:
    return RefusedError(
        f"{path!r} is not empty and no volume",
        code="directory-not-empty",
        hint="name a new directory, for example one inside it",
        path=path,
    )
