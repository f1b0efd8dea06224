"""Whether a volume could be used just now. It reads a few pages, and repairs nothing."""

import os

from packetfs.env import SYSTEM, Env
from packetfs.errors import UnavailableError, disk_error
from packetfs.volume import refs
from packetfs.volume.journal import Journal
from packetfs.volume.keys import Keys
from packetfs.volume.volume import open_descriptor

__all__ = ["check_usable"]


def check_usable(path: str, *, lock_wait_s: float = 1.0, env: Env = SYSTEM) -> None:
    """Raise what a push to the volume at `path` would meet at once.

    Its description, its secret, the newest entry of its journal and how its file system is mounted are looked at;
    bytes and history are for `verify`.
    """
    descriptor, secret = open_descriptor(path)
    journal = Journal(os.path.join(path, "journal.db"), lock_wait_s=lock_wait_s, env=env)
    try:
        with journal.reading() as db:
            refs.last_entry(db, Keys(secret, descriptor.volume_id))
    finally:
        journal.close()
    try:
        is_frozen = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError as error:
        raise disk_error("look at", path, error.errno or 0) from None
    if is_frozen:
        raise UnavailableError(
            f"the file system of {path!r} is mounted read-only", code="disk-read-only", hint="mount it writable"
        )
