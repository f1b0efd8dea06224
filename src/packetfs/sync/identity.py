"""Who this machine is to others: a key that is made at first need and never leaves it. One for each user.

It decides nothing about trust. The file is read by nobody but its owner; if others could read it, it is refused.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from packetfs.env import SYSTEM, Env
from packetfs.errors import InvalidError, RefusedError, disk_error
from packetfs.volume import files
from packetfs.wire.certificate import SEED_BYTES, device_of_pem, identity_pem

__all__ = ["Identity", "data_directory", "own_identity"]

_NAME: Final = "identity.pem"
_BYTES_MAX: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Identity:
    """The key of this machine."""

    path: str
    """The file with the private key and its certificate."""

    @property
    def device(self) -> bytes:
        """The device id: the SHA-256 of the public key."""
        with open(self.path, "rb") as file:
            pem = file.read(_BYTES_MAX)
        try:
            return device_of_pem(pem)
        except InvalidError as error:
            raise _useless(self.path, error.message) from None


def data_directory(environment: Mapping[str, str]) -> str:
    """Where what belongs to this user is kept, on this machine."""
    home = environment.get("XDG_DATA_HOME", "").strip() or os.path.expanduser("~/.local/share")
    return os.path.join(home, "packetfs")


def own_identity(environment: Mapping[str, str] = os.environ, env: Env = SYSTEM) -> Identity:
    """The identity of this user on this machine, made if there is none. Durable when this returns.

    RefusedError `identity-mode` if others can read the key.
    """
    directory = data_directory(environment)
    path = os.path.join(directory, _NAME)
    try:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            _make(directory, path, env)
            found = os.stat(path)
    except OSError as error:
        raise disk_error("use", path, error.errno or errno.EIO) from None
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise RefusedError(
            f"the key of this machine, {path!r}, can be read by others or is not yours",
            code="identity-mode",
            hint=f"if nobody has read it, `chmod 600 {path}`; else delete it and pair this machine again",
            path=path,
        )
    if found.st_size > _BYTES_MAX:
        raise _useless(path, f"it has {found.st_size} bytes")
    return Identity(path)


def _make(directory: str, path: str, env: Env) -> None:
    """Two processes may do this at once: the first name stands, and both use it."""
    files.make_directory(directory)
    scratch = f"{path}.{env.random_bytes(6).hex()}"
    files.write_new(scratch, identity_pem(env.random_bytes(SEED_BYTES)))
    try:
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        files.remove(scratch)
    files.sync_directory(directory)


def _useless(path: str, why: str) -> InvalidError:
    return InvalidError(
        f"{path!r} is of no use: {why}",
        code="bad-identity",
        hint="restore it from a backup; or delete it, and pair this machine again everywhere",
        path=path,
    )
