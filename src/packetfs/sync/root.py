"""The directory whose volumes are served, and what a server keeps in it: its peers, its invitations, its audit log.

A name from a peer is looked up here, one component at a time, and no symbolic link is followed. Who may write into the
directory on this machine could put one in the way afterwards; peers cannot, as all that they write is inside volumes.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Final

from packetfs.env import SYSTEM, Env
from packetfs.errors import NotFoundError, RefusedError, UsageError, disk_error
from packetfs.format import trust
from packetfs.format.token import SECRET_BYTES, Token, encode_token
from packetfs.sync.audit import Audit
from packetfs.sync.beneath import ANCHOR, enter
from packetfs.sync.identity import Identity, data_directory
from packetfs.sync.kept import Kept
from packetfs.volume import files

__all__ = ["Root", "missing", "root_at"]

_STATE: Final = ".packetfs"
_LISTENING: Final = "listening"
_MARKS: Final = ("volume.toml", "replica.db")


class Root:
    """A directory that is served."""

    def __init__(self, path: str, *, has_volumes: bool = True, env: Env = SYSTEM) -> None:
        """UsageError if `path` is no directory, or is a volume itself. Without volumes it only keeps who is let in."""
        self.path = os.path.abspath(path)
        self._has_volumes = has_volumes
        self._env = env
        if not os.path.isdir(self.path):
            raise UsageError(f"{path!r} is no directory", hint="make it first: volumes are made in it")
        if any(os.path.exists(os.path.join(self.path, mark)) for mark in _MARKS):
            raise UsageError(f"{path!r} is a volume itself", hint="name the directory that it is in")
        self.state = os.path.join(self.path, _STATE)
        try:
            files.make_directory(self.state)
        except OSError as error:
            raise disk_error("make", self.state, error.errno or errno.EIO) from None
        self.book: Kept[trust.Book] = Kept(os.path.join(self.state, "peers.json"), trust.decode_book, trust.Book())
        self.audit = Audit(os.path.join(self.state, "audit.jsonl"), env)

    def claim(self, identity: Identity) -> bytes:
        """The device id with which this root is served, which is that of `identity`; RefusedError if it is another."""
        device = identity.device

        def step(book: trust.Book) -> tuple[trust.Book, None]:
            if book.device not in ("", device.hex()):
                raise RefusedError(
                    f"{self.path!r} is served with another key: device {book.device[:12]}, not {device.hex()[:12]}",
                    code="server-changed",
                    hint="run it as the user who served it before; or remove its .packetfs and pair all machines anew",
                    path=self.path,
                )
            return trust.Book(device=device.hex(), peers=book.peers, invitations=book.invitations), None

        self.book.change(step)
        return device

    def find(self, name: bytes) -> tuple[str, str, bool]:
        """Name, path and presence of the volume that a peer calls `name`; RefusedError if it leads out of the root."""
        parts = trust.check_volume(name)
        shown = os.fsdecode(name)
        if not self._has_volumes:
            raise NotFoundError(
                f"the server has no volume {shown!r}: it serves no volumes",
                code="volume-not-found",
                hint="it exports directories only, for `packetfs sync`",
                volume=shown,
            )
        handle = os.open(self.path, ANCHOR)
        try:
            for number, part in enumerate(parts):
                if number and _is_volume(handle):
                    raise missing(shown)  # inside a volume nothing is a volume
                below = enter(handle, part, shown)
                if below is None:
                    if number + 1 < len(parts):
                        raise missing(shown)
                    return shown, os.path.join(self.path, shown), False
                os.close(handle)
                handle = below
            return shown, os.path.join(self.path, shown), _is_volume(handle)
        finally:
            os.close(handle)

    def volumes(self) -> Iterator[str]:
        """The paths of the volumes that are served. Without those that vanish meanwhile; no link is followed."""
        waiting = [self.path] if self._has_volumes else []
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    below = sorted(
                        entry.path
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                    )
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_error("list", self.path, error.errno or errno.EIO) from None
            for path in below:
                if os.path.exists(os.path.join(path, _MARKS[0])):
                    yield path
                elif not os.path.exists(os.path.join(path, _MARKS[1])):
                    waiting.append(path)

    # Invitations

    def invite(
        self, device: bytes, addresses: list[str], role: trust.Role, volume: str, *, valid_s: float
    ) -> tuple[str, int]:
        """A token that one machine may use, once, and until when (ns since 1970). The invitation is durable."""
        secret = self._env.random_bytes(SECRET_BYTES)
        now_ns = self._env.now_ns()
        expires_ns = now_ns + int(valid_s * 10**9)
        text = encode_token(Token(device, secret, addresses))
        self.book.change(
            lambda book: (trust.invited(book, secret, role, volume, expires_ns=expires_ns, now_ns=now_ns), None)
        )
        self.audit.write("invite", role=role, volume=volume)
        return text, expires_ns

    # Where the server listens, for tokens that are printed by another process

    def listens(self, address: str) -> None:
        """Write down where the server of this root listens."""
        try:
            files.replace(os.path.join(self.state, _LISTENING), address.encode("ascii"))
        except OSError as error:
            raise disk_error("write", self.state, error.errno or errno.EIO) from None

    def listened(self) -> str:
        """Where it listened last; empty if it never did."""
        try:
            with open(os.path.join(self.state, _LISTENING), encoding="ascii") as file:
                return file.read(300)
        except (OSError, UnicodeDecodeError):
            return ""


def root_at(path: str | None, *, make: bool = False, environment: Mapping[str, str] = os.environ) -> Root:
    """The root at `path`; None: what a server of this user keeps that serves no volumes. UsageError if it is none.

    Without `make` that server has to have run once.
    """
    if path is not None:
        return Root(path)
    own = os.path.join(data_directory(environment), "server")
    if make:
        try:
            files.make_directory(own)
        except OSError as error:
            raise disk_error("make", own, error.errno or errno.EIO) from None
    elif not os.path.isdir(own):
        raise UsageError(
            "no server has run here without --root",
            hint="name the directory that is served, --root DIR; or start `packetfs serve --export NAME=DIR` first",
        )
    return Root(own, has_volumes=False)


def _is_volume(handle: int) -> bool:
    for mark in _MARKS:
        try:
            os.stat(mark, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            continue
        return True
    return False


def missing(name: str) -> NotFoundError:
    """That there is no volume of that name beneath the root."""
    return NotFoundError(
        f"the server has no volume {name!r}",
        code="volume-not-found",
        hint="the first push of a machine with the role `admin` makes it, or `packetfs init` there",
        volume=name,
    )
