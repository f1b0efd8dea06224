"""Whom a machine trusts, as values: the peers of a served root, and the servers that one has paired with.

What may be done to them is here as functions from one state to the next; files, locks and clocks are not.
Both are JSON so that a person can read them (docs/formats/trust.md).
"""

import hashlib
import os
import re
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from packetfs.errors import DamagedError, InvalidError, NotFoundError, RefusedError, UsageError

__all__ = [
    "EVERY_VOLUME",
    "ROLES",
    "Book",
    "Invitation",
    "Peer",
    "Role",
    "Server",
    "Servers",
    "cancelled",
    "check_export",
    "check_name",
    "check_volume",
    "decode_book",
    "decode_servers",
    "encode",
    "find_peer",
    "includes",
    "invited",
    "name_from",
    "open_invitations",
    "redeemed",
    "renamed",
    "revoked",
]

Role: TypeAlias = Literal["read", "write", "admin"]
ROLES: Final[tuple[Role, ...]] = ("read", "write", "admin")
"""Each may do what those before it may: read; push to volumes that are there; make new volumes."""
EVERY_VOLUME: Final = "*"
BYTES_MAX: Final = 16 << 20  # some 50,000 peers; more is no file of ours
_KEPT_NS: Final = 30 * 86_400 * 10**9  # for how long one can be told that a token has expired, or was used
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_DIGITS_MIN: Final = 8  # of an id, so that nobody is meant by accident
_HEX: Final = r"^[0-9a-f]{64}$"

Kind = TypeVar("Kind")
Hex = Annotated[str, Meta(pattern=_HEX)]
Hex0 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
"""A device id, or empty."""
Nanoseconds = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine that may do something."""

    device: Hex
    name: str
    grants: dict[str, Role]
    """By name of a volume or of an exported directory; `*` is every one of them."""
    paired_ns: Nanoseconds

    def role(self, volume: str) -> Role | None:
        """What it may do with a volume."""
        given = [self.grants[name] for name in (volume, EVERY_VOLUME) if name in self.grants]
        return max(given, key=ROLES.index) if given else None


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that was printed. Of its secret only the SHA-256 is kept."""

    digest: Hex
    role: Role
    volume: str
    expires_ns: Nanoseconds
    used_by: Hex0 = ""


class Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everybody whom the server of a root lets in."""

    version: Literal[1] = 1
    device: Hex0 = ""
    """Of the server itself: a root is served with one key."""
    peers: list[Peer] = []
    invitations: list[Invitation] = []


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server that this machine has paired with."""

    device: Hex
    name: str


class Servers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of them, by HOST:PORT."""

    version: Literal[1] = 1
    servers: dict[str, Server] = {}


# Bytes


def encode(value: Book | Servers) -> bytes:
    """As it is written."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def decode_book(data: bytes, path: str) -> Book:
    """What is written in `path`; DamagedError when it is none of ours. Then nobody is trusted."""
    return _decoded(data, path, Book)


def decode_servers(data: bytes, path: str) -> Servers:
    """The same for servers."""
    return _decoded(data, path, Servers)


def _decoded(data: bytes, path: str, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(
            f"{path!r} cannot be read: {error}",
            code="trust-damaged",
            hint="nobody is trusted until it is repaired, or deleted: then every machine has to be paired again",
            path=path,
        ) from None


# Names


def check_name(name: str) -> str:
    """`name` if a peer may be called so, else UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a machine",
            hint="use letters, digits, '.', '_' and '-', at most 64 of them",
        )
    return name


def name_from(text: str) -> str:
    """A name that a machine may have, made of what it calls itself."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip(".-")[:64] or "machine"


def check_volume(name: bytes) -> tuple[bytes, ...]:
    """The components of the name of a volume beneath a root. InvalidError `bad-location` when it could be no such name.

    None is empty or begins with a dot: what does is the server's own, or leads out of the root.
    """
    parts = tuple(name.split(b"/"))
    if not all(0 < len(part) <= 255 and not part.startswith(b".") and b"\0" not in part for part in parts):
        raise InvalidError(
            f"{os.fsdecode(name)!r} cannot be the name of a volume on a server",
            code="bad-location",
            hint="a name is directories beneath the server's root, none of which begins with a dot: photos, team/site",
        )
    return parts


def check_export(name: str) -> str:
    """`name` if a directory may be exported so, else UsageError. Every such name could be that of a volume, too."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of an exported directory",
            hint="use letters, digits, '.', '_' and '-', at most 64 of them, and no '.' or '-' in front",
        )
    return name


# From one state to the next


def includes(role: Role | None, needed: Role) -> bool:
    """Whether who has `role` may do what takes `needed`."""
    return role is not None and ROLES.index(role) >= ROLES.index(needed)


def digest_of(secret: bytes) -> str:
    """What is kept of a token's secret. It has 128 random bits: nothing slower is needed."""
    return hashlib.sha256(b"packetfs invitation 1" + secret).hexdigest()


def invited(book: Book, secret: bytes, role: Role, volume: str, *, expires_ns: int, now_ns: int) -> Book:
    """With one invitation more, and without those that are long past."""
    kept = [one for one in book.invitations if one.expires_ns + _KEPT_NS > now_ns]
    return replace(book, invitations=[*kept, Invitation(digest_of(secret), role, volume, expires_ns)])


def redeemed(book: Book, secret: bytes, device: str, name: str, *, now_ns: int) -> tuple[Book, Peer, Invitation]:
    """The machine `device` uses a token: what it may do is added to what it may already.

    RefusedError if the token is unknown, used or expired. The same machine may use it again as long as it is paired:
    it may not have heard the first answer.
    """
    digest = digest_of(secret)
    found = next((one for one in book.invitations if one.digest == digest), None)
    paired = next((peer for peer in book.peers if peer.device == device), None)
    if found is None:
        raise _refused("the server does not know that token", "token-unknown")
    if found.used_by:
        if found.used_by != device or paired is None:
            raise _refused("that token has been used", "token-used")
        return book, paired, found
    if found.expires_ns <= now_ns:
        raise _refused("that token has expired", "token-expired")
    used = replace(found, used_by=device)
    others = [peer for peer in book.peers if peer.device != device]
    if paired is None:
        paired = Peer(device, _free_name(name_from(name), {peer.name for peer in others}), {}, now_ns)
    role = paired.grants.get(found.volume)
    grants = {**paired.grants, found.volume: max((found.role, *filter(None, [role])), key=ROLES.index)}
    peer = replace(paired, grants=grants)
    invitations = [used if one is found else one for one in book.invitations]
    return replace(book, peers=[*others, peer], invitations=invitations), peer, used


def find_peer(book: Book, text: str) -> Peer:
    """The peer whose name is `text`, or whose device id begins with it; NotFoundError if there is not one."""
    found = [peer for peer in book.peers if peer.name == text]
    if not found and len(text) >= _DIGITS_MIN:
        found = [peer for peer in book.peers if peer.device.startswith(text.lower())]
    if len(found) != 1:
        raise NotFoundError(
            f"there is no peer {text!r}" if not found else f"more than one device id begins with {text!r}",
            code="peer-not-found",
            hint="`packetfs peers --root DIR` lists them",
            peer=text,
        )
    return found[0]


def renamed(book: Book, peer: Peer, name: str) -> Book:
    """With another name for `peer`."""
    check_name(name)
    if any(other.name == name for other in book.peers if other.device != peer.device):
        raise UsageError(f"there is a peer {name!r} already", hint="choose another name")
    return replace(book, peers=[replace(one, name=name) if one.device == peer.device else one for one in book.peers])


def revoked(book: Book, peer: Peer) -> Book:
    """Without `peer`."""
    return replace(book, peers=[one for one in book.peers if one.device != peer.device])


def open_invitations(book: Book, now_ns: int) -> list[Invitation]:
    """Those with which a machine can still come in, the one that ends first first."""
    return sorted((one for one in book.invitations if not one.used_by and one.expires_ns > now_ns), key=_expiry)


def cancelled(book: Book, text: str, now_ns: int) -> tuple[Book, Invitation] | None:
    """Without the open invitation whose digest begins with `text`; None if there is not one."""
    found = [one for one in open_invitations(book, now_ns) if len(text) >= _DIGITS_MIN and one.digest.startswith(text)]
    if len(found) != 1:
        return None
    return replace(book, invitations=[one for one in book.invitations if one is not found[0]]), found[0]


def _expiry(invitation: Invitation) -> int:
    return invitation.expires_ns


def _free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while (numbered := f"{name[:58]}-{number}") in taken:
        number += 1
    return numbered


def _refused(what: str, code: str) -> RefusedError:
    return RefusedError(
        what, code=code, hint="ask who runs the server for another: `packetfs serve --root DIR --invite`"
    )
