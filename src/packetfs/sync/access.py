"""What a peer may do, asked before each of its requests is answered. Who it is has been proved by then.

Over ssh that is whatever the user may do who logged in. Over TLS it is what the server's operator has given to the
machine that has that key: roles by volume, which may be taken away while a session is open.
"""

import os
import re
from collections.abc import Mapping
from typing import Final, Protocol

from packetfs.env import SYSTEM, Env
from packetfs.errors import InvalidError, PacketFSError, RefusedError
from packetfs.format import trust
from packetfs.sync.directory import Directory, directory_in, directory_of, export_of
from packetfs.sync.exports import NO_EXPORTS, Exports
from packetfs.sync.root import Root, missing
from packetfs.wire import protocol

__all__ = ["AS_USER", "Access", "AsPeer", "AsUser"]

_DIGEST_KEY_BYTES: Final = 32  # the first of the keys that belong to a volume; the other one is for who may write
# What a machine may ask for. Everything else, also what a later version adds, is for who comes as a user of this one.
_ASKED_BY_READERS: Final = (
    protocol.Hello,
    protocol.Pair,
    protocol.Check,
    protocol.Resolve,
    protocol.Ask,
    protocol.Want,
    protocol.Fetch,
    protocol.Refs,
    protocol.Log,
    protocol.Status,
    protocol.Fence,  # it proves itself
)
# What a full replica asks for, which gets all keys.
_ASKED_BY_COPIES: Final = (protocol.Join, protocol.Follow, protocol.At, protocol.Adopt)
_ASKED_BY_WRITERS: Final = (protocol.Lease, protocol.Literals, protocol.Begin, protocol.Tree, protocol.Commit)
_ASKED_OF_DIRECTORIES: Final = (protocol.Ingest, protocol.Checkout)
# What the audit log has lines for.
_TOLD: Final = (
    protocol.Hello,
    protocol.Commit,
    protocol.Want,
    protocol.Pair,
    protocol.Join,
    protocol.Fence,
    protocol.Adopt,
    *_ASKED_OF_DIRECTORIES,
)
_REACHED_BY: Final = re.compile(r"/proc/self/fd/[0-9]+")


class Access(Protocol):
    """The rights of one session."""

    @property
    def quota_bytes(self) -> int | None:
        """What the volume may take on disk; None: as much as there is."""

    def check(self, message: protocol.Message) -> None:
        """RefusedError unless `message` may be answered now."""

    def place(self, hello: protocol.Hello) -> str:
        """The path of the volume that is meant; RefusedError unless it may be used like this."""

    def directory(self, hello: protocol.Hello) -> Directory | None:
        """The directory that is meant; None if it is a volume: then `place` says which."""

    def keys(self, keys: bytes) -> bytes:
        """As much of the keys of that volume as the peer may have."""

    def pair(self, pair: protocol.Pair) -> protocol.Paired:
        """Let a machine use its token."""

    def told(self, error: PacketFSError) -> PacketFSError:
        """`error` as the peer may hear it."""

    def answered(self, message: protocol.Message | None, error: PacketFSError | None) -> None:
        """Take note of what was asked for, and what came of it; None: what came was no message, or out of turn."""


class AsUser:
    """What the user may do as whom this process runs."""

    quota_bytes: int | None = None

    def check(self, message: protocol.Message) -> None:
        """See Access."""

    def place(self, hello: protocol.Hello) -> str:
        """See Access."""
        if b"\0" in hello.volume:
            raise InvalidError(f"a volume's path has no NUL byte: {hello.volume!r}", code="bad-location")
        return os.path.abspath(os.path.expanduser(os.fsdecode(hello.volume)))

    def directory(self, hello: protocol.Hello) -> Directory | None:
        """See Access."""
        return directory_of(hello.volume, os.environ)

    def keys(self, keys: bytes) -> bytes:
        """See Access."""
        return keys

    def pair(self, pair: protocol.Pair) -> protocol.Paired:
        """See Access."""
        del pair
        raise RefusedError("over ssh there is nothing to pair", code="token-unknown", hint="use the location over ssh")

    def told(self, error: PacketFSError) -> PacketFSError:
        """See Access."""
        return error

    def answered(self, message: protocol.Message | None, error: PacketFSError | None) -> None:
        """See Access."""


AS_USER: Final = AsUser()


class AsPeer:
    """What a machine may do that came over TLS."""

    def __init__(
        self,
        root: Root,
        device: bytes,
        address: str,
        *,
        exports: Exports = NO_EXPORTS,
        public_read: bool = False,
        quota_bytes: int | None = None,
        environment: Mapping[str, str] = os.environ,
        env: Env = SYSTEM,
    ) -> None:
        self.quota_bytes = quota_bytes
        self._root = root
        self._exports = exports
        self._environment = environment
        self._device = device.hex()
        self._address = address
        self._public_read = public_read
        self._env = env
        self._volume: str | None = None
        self._directory: Directory | None = None
        self._needed: trust.Role = "read"
        self._role: trust.Role | None = None
        self.is_ended = False

    @property
    def is_known(self) -> bool:
        """Whether the machine is paired, or everybody may read."""
        return self._peer() is not None or self._public_read

    @property
    def is_paired(self) -> bool:
        """Whether the machine is paired."""
        return self._peer() is not None

    def end(self) -> None:
        """Nothing more is answered."""
        self.is_ended = True

    @property
    def still_holds(self) -> bool:
        """Whether the session that was greeted may go on."""
        if self._volume is None:
            return True
        is_public = self._public_read and self._directory is None
        return trust.includes(self._role_now(self._volume, is_public=is_public), self._needed)

    def check(self, message: protocol.Message) -> None:
        """See Access."""
        if isinstance(message, protocol.Pair):
            return
        if self.is_ended or (self._volume is None and not self.is_known):
            raise self._not_paired()
        if not self.still_holds:
            raise self._too_low(self._needed, self._volume or "")
        if isinstance(message, protocol.Hello):
            if export_of(message.volume) is None:
                trust.check_volume(message.volume)
            return
        if isinstance(message, _ASKED_BY_COPIES) and self._directory is None:
            if not trust.includes(self._role_now(self._volume or "", is_public=False), "admin"):
                raise RefusedError(
                    f"this machine may not have a full replica of {self._volume!r}, which has all keys of the volume",
                    code="role-too-low",
                    hint="ask who runs the server for a token with the role `admin`, and give that to `packetfs pair`",
                    volume=self._volume or "",
                    needed="admin",
                )
            return
        is_about_directory = self._directory is not None
        if isinstance(message, _ASKED_BY_READERS) or (is_about_directory and isinstance(message, protocol.Ingest)):
            return
        if isinstance(message, _ASKED_BY_WRITERS) or (is_about_directory and isinstance(message, protocol.Checkout)):
            if self._needed == "read":
                raise self._too_low("write", self._volume or "")
            return
        raise RefusedError(
            f"a server answers no {type(message).__name__.upper()} about a volume",
            code="role-too-low",
            hint="name a directory that it exports, or reach that machine over ssh",
        )

    def place(self, hello: protocol.Hello) -> str:
        """See Access."""
        parts = trust.check_volume(hello.volume)
        name = os.fsdecode(b"/".join(parts))
        needed: trust.Role = "write" if hello.intent == "write" else "read"
        # Before anything is looked up: who may not use a volume is not told whether there is one.
        role = self._role_now(name, is_public=self._public_read)
        if not trust.includes(role, needed):
            raise self._too_low(needed, name)
        if os.fsdecode(parts[0]) in self._exports:
            raise RefusedError(
                f"{os.fsdecode(parts[0])!r} is a directory that the server exports, and no volume",
                code="outside-root",
                hint="`packetfs sync` reaches it as pfs://HOST/EXPORT:/DIR",
            )
        name, path, exists = self._root.find(hello.volume)
        if hello.create and not exists and not trust.includes(role, "admin"):
            raise RefusedError(
                f"the server has no volume {name!r}, and this machine may not make one there",
                code="role-too-low",
                hint="the role `admin` may; or `packetfs init` on the server makes it",
                volume=name,
            )
        if not hello.create and not exists:
            raise missing(name)
        self._volume, self._needed, self._role = name, needed, role
        return path

    def directory(self, hello: protocol.Hello) -> Directory | None:
        """See Access. Who may only read a directory is answered what reading takes, whatever was intended."""
        found = export_of(hello.volume)
        if found is None:
            return None
        name, path = found
        # As for volumes: who may not use an export is not told whether there is one. What is public is volumes.
        role = self._role_now(name, is_public=False)
        if not trust.includes(role, "read"):
            raise self._too_low("read", name, "directory")
        within = self._exports.find(name, path)
        may_write = trust.includes(role, "write") and not within.export.read_only
        meant = directory_in(within, self._environment, may_write=may_write)
        self._volume, self._needed, self._role = name, "write" if may_write else "read", role
        self._directory = meant
        return meant

    def keys(self, keys: bytes) -> bytes:
        """See Access. Who may read can verify; where chunks end only those may compute who write."""
        may_write = trust.includes(self._role, "write") if self._directory is None else self._directory.may_write
        return keys if may_write else keys[:_DIGEST_KEY_BYTES]

    def pair(self, pair: protocol.Pair) -> protocol.Paired:
        """See Access."""
        name = pair.name or "machine"

        def step(book: trust.Book) -> tuple[trust.Book, tuple[trust.Peer, trust.Invitation]]:
            after, peer, used = trust.redeemed(book, pair.secret, self._device, name, now_ns=self._env.now_ns())
            return after, (peer, used)

        peer, used = self._root.book.change(step)
        return protocol.Paired(server=self._env.host(), name=peer.name, role=used.role, volume=used.volume)

    def told(self, error: PacketFSError) -> PacketFSError:
        """See Access. Where the server keeps its volumes and what it exports is nobody's business."""
        error.message, error.hint = self._as_named(error.message), self._as_named(error.hint)
        error.values = {
            name: self._as_named(value) if isinstance(value, str) else value for name, value in error.values.items()
        }
        return error

    def _as_named(self, text: str) -> str:
        """`text` with what lies on this machine called as the peer calls it."""
        text = text.replace(f"{self._root.path}/", "")
        if self._directory is None:
            return text
        meant = self._directory
        text = _REACHED_BY.sub(lambda _: str(meant), text.replace(meant.volume, f"what is kept of {meant}"))
        return text.replace(meant.path, str(meant))

    def answered(self, message: protocol.Message | None, error: PacketFSError | None) -> None:
        """See Access. The audit log has what a peer came for, and all that was refused."""
        result = error.code if error is not None else "ok"
        peer = self._peer()
        if message is not None and not isinstance(message, _TOLD) and not isinstance(error, RefusedError):
            return
        event = type(message).__name__.lower() if message is not None else "broken"
        fields: dict[str, object] = {"device": self._device, "from": self._address}
        if peer is None and error is not None:
            self._root.audit.refused(result, asked=event, **fields)
            return
        fields["peer"] = peer.name if peer is not None else ""
        if isinstance(message, protocol.Hello):
            fields |= {"volume": message.volume.decode("utf-8", "backslashreplace"), "intent": message.intent}
            if (named := export_of(message.volume)) is not None:
                fields |= {"volume": named[0], "directory": named[1].decode("utf-8", "backslashreplace")}
            if self._directory is not None:
                fields["intent"] = self._needed
        else:
            fields |= {"volume": self._volume or ""}
        if isinstance(message, protocol.Commit | protocol.Want):
            fields["ref"] = message.ref
        self._root.audit.write(event, result=result, **fields)

    def _peer(self) -> trust.Peer | None:
        return next((peer for peer in self._root.book.read().peers if peer.device == self._device), None)

    def _role_now(self, name: str, *, is_public: bool) -> trust.Role | None:
        """Of the volume or the export `name`; everybody reads what is public."""
        peer = self._peer()
        role = peer.role(name) if peer is not None else None
        return role or ("read" if is_public else None)

    def _not_paired(self) -> RefusedError:
        return RefusedError(
            f"this machine, device {self._device[:12]}, is not paired with the server",
            code="not-paired",
            hint="ask who runs it for a token (`packetfs serve --root DIR --invite`), and give that to `packetfs pair`",
            device=self._device,
        )

    def _too_low(self, needed: trust.Role, volume: str, what: str = "") -> RefusedError:
        if not self.is_known:
            return self._not_paired()
        what = what or ("volume" if self._directory is None else "directory")
        return RefusedError(
            f"this machine may not {needed} the {what} {volume!r}",
            code="role-too-low",
            hint=f"ask who runs the server for a token with the role `{needed}`, and give that to `packetfs pair`",
            volume=volume,
            needed=needed,
        )
