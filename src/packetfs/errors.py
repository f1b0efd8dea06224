"""Everything that can go wrong, grouped by who can act on it. Nothing is recovered here.

    PacketFSError            1    it failed; the message says what and the hint what to do
    ├── NotFoundError        1    a volume, ref, snapshot or path that was named is not there
    ├── InvalidError         1    a value from outside cannot be what it claims to be
    ├── UsageError           2    the request itself is wrong; nothing was done
    ├── PartialError         3    done, except for the files that are listed
    ├── ConflictError        4    somebody else was first; what they did stands
    ├── DamagedError         5    bytes at rest are not what their digest or checksum says
    ├── BusyError            6    another process holds the lock; try again
    ├── UnavailableError     7    a disk or a peer does not do its part
    └── RefusedError         8    it would break a rule that keeps data safe

The number is the exit code of the command (docs/adr/0007). An error is `message`, a stable `code`, a `hint` (what to do
next, or empty) and `values`, which `--json` prints beside the code.
"""

import errno as _errno
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

__all__ = [
    "CODES",
    "EXIT_CODES",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "BusyError",
    "ConflictError",
    "DamagedError",
    "InvalidError",
    "NotFoundError",
    "PacketFSError",
    "PartialError",
    "RefusedError",
    "UnavailableError",
    "UsageError",
    "disk_error",
]


class PacketFSError(Exception):
    """The root of the tree: catch this to catch everything PacketFS raises on purpose."""

    default_code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, code: str = "", hint: str = "", **values: object) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.values: Mapping[str, object] = MappingProxyType(values)

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return next(EXIT_CODES[kind] for kind in type(self).__mro__ if kind in EXIT_CODES)


class NotFoundError(PacketFSError):
    """A volume, ref, snapshot or path that was named is not there."""

    default_code = "not-found"


class InvalidError(PacketFSError):
    """A value from outside cannot be what it claims to be: a malformed page, an impossible parameter."""

    default_code = "invalid"


class UsageError(PacketFSError):
    """The request itself is wrong. Nothing was done."""

    default_code = "usage"


class PartialError(PacketFSError):
    """The operation was carried out, except for the files that are listed."""

    default_code = "partial"


class ConflictError(PacketFSError):
    """Somebody else was first, and what they did stands. What this call stored stays, so running it again is cheap."""

    default_code = "conflict"


class DamagedError(PacketFSError):
    """Bytes at rest are not what their digest, checksum or length says. They were not shown to anybody."""

    default_code = "damaged"


class BusyError(PacketFSError):
    """Another process holds what is needed, for longer than one was willing to wait. Nothing changed."""

    default_code = "busy"


class UnavailableError(PacketFSError):
    """A disk or a peer does not do its part: full, gone, read-only, no permission, an input/output error."""

    default_code = "unavailable"


class RefusedError(PacketFSError):
    """It would break a rule that keeps data safe. Nothing was done."""

    default_code = "refused"


EXIT_OK: Final = 0
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as every shell expects it

# The one place where an error becomes a number.
EXIT_CODES: Final[Mapping[type[PacketFSError], int]] = MappingProxyType(
    {
        PacketFSError: 1,
        UsageError: 2,
        PartialError: 3,
        ConflictError: 4,
        DamagedError: 5,
        BusyError: 6,
        UnavailableError: 7,
        RefusedError: 8,
    }
)

# Every stable code with what it tells. Scripts match on these: add to the list, never rename.
CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "failed": "something failed that has no code of its own",
        "not-found": "what was named is not there",
        "volume-not-found": "there is no volume at that path",
        "ref-not-found": "the volume has no ref of that name",
        "snapshot-not-found": "the ref has no such snapshot",
        "path-not-found": "the snapshot has no such path",
        "source-not-found": "a path to push does not exist",
        "file-not-found": "a file or directory does not exist",
        "not-a-directory": "a path inside a snapshot goes through something that is no directory",
        "not-a-file": "a path inside a snapshot names no file",
        "invalid": "a value from outside cannot be what it claims to be",
        "usage": "the request itself is wrong",
        "bad-location": "a location cannot be parsed",
        "bad-ref": "a ref name has characters that are not allowed",
        "bad-when": "a point in time or history cannot be parsed",
        "ambiguous-id": "more than one snapshot begins with those digits",
        "duplicate-name": "two sources would get the same name in the snapshot",
        "partial": "some files were not read or written",
        "conflict": "somebody else was first",
        "ref-moved": "the ref moved while the push was running",
        "volume-exists": "there is a volume at that path already",
        "damaged": "bytes at rest are not what their digest or checksum says",
        "journal-damaged": "journal.db is damaged or truncated",
        "journal-missing": "journal.db is missing",
        "journal-stale": "journal.db is older than the segments beside it",
        "descriptor-damaged": "volume.toml cannot be read",
        "secret-damaged": "the volume's secret is missing, has a wrong length or belongs to another volume",
        "snapshot-damaged": "a snapshot's bytes do not have the digest they should",
        "busy": "another process holds the lock",
        "unavailable": "a disk or a peer does not do its part",
        "disk-full": "no space is left, or a quota is exceeded",
        "not-enough-space": "what is to be written needs more space than there is; nothing was written",
        "disk-read-only": "the file system is read-only",
        "too-many-watches": "the system lets nobody watch that many directories",
        "disk-failed": "the disk reported an input/output error",
        "permission-denied": "the operating system denies access",
        "volume-failed": "an earlier write of this open volume failed; it has to be opened again",
        "refused": "it would break a rule that keeps data safe",
        "format-unknown": "the volume was made by a newer version of PacketFS",
        "feature-unknown": "the volume uses a feature that this version does not know",
        "secret-mode": "the volume's secret can be read by others",
        "directory-not-empty": "a volume is only made in a new or empty directory",
        "source-holds-volume": "a source contains the volume itself",
        "source-in-volume": "a source is the volume or lies inside it",
        "bad-config": "the configuration file or a PACKETFS_ variable cannot be used",
        "config-missing": "the configuration file that PACKETFS_CONFIG names does not exist",
        "config-invalid": "the configuration file has a key or value that cannot be used",
        "bad-duration": "a duration cannot be parsed",
        "bad-link": "a rate and a round-trip time of a link cannot be parsed",
        "bad-switch": "a setting is neither yes nor no",
        "bad-number": "a setting is not a number",
        "owner-not-set": "the owner of some entries could not be set",
        "owner-unknown": "this machine has no user or group of that name",
        "no-volume": "a location names no volume and none is configured",
        "remote-unsupported": "a location is on another machine; this version works on local volumes",
        "bad-frame": "what a peer sent is no frame, or its body is not what the frame's type says",
        "protocol-violation": "a peer said something that may not be said at that point of a session",
        "version-skew": "the two machines speak different versions of the protocol",
        "transfer-damaged": "what arrived from the other machine is not what was promised",
        "read-only-session": "a session that was opened for reading was asked to write",
        "not-origin": "a replica is asked for what only the origin of its volume does",
        "is-replica": "a full replica was to be written to, or its journal rebuilt",
        "not-a-replica": "a copy of a volume that is no full replica was to be promoted or brought up to date",
        "fenced": "a copy of a volume was written to although another one has been promoted",
        "not-fenced": "a copy of a volume was to be fenced by an epoch that is none later than its own",
        "diverged": "two copies of a volume have gone different ways: their journals do not go on from each other",
        "not-leased": "a peer wants to fill a segment that was not leased to it",
        "peer-unreachable": "the other machine cannot be reached, or does not let us in",
        "peer-gone": "the connection to the other machine ended before the session did",
        "remote-not-installed": "packetfs was not found on the other machine",
        "not-packetfs": "what answers on the other machine is not packetfs, or something else writes into the stream",
        "peer-not-found": "a server knows no machine of that name or device id",
        "bad-identity": "a key or certificate that should say who a machine is does not",
        "identity-mode": "the key of this machine can be read by others",
        "bad-token": "a token for `packetfs pair` cannot be read, or not all of it was given",
        "token-unknown": "a server does not know the token that a machine wants to pair with",
        "token-used": "a token was used by another machine before, or by one that was revoked since",
        "token-expired": "a token was used too late",
        "trust-damaged": "the list of peers, or that of servers, cannot be read; nobody is trusted then",
        "not-paired": "a server does not let this machine in: it was not paired, or was revoked",
        "role-too-low": "a server does not let this machine do that with that volume",
        "outside-root": "a peer named something on a server that leads out of its root",
        "export-not-found": "a server exports no directory of that name",
        "server-unknown": "this machine has not paired with that server",
        "server-ends": "`/healthz` says so: the server was told to end and takes no more connections",
        "server-stuck": "`/healthz` says so: the loop that accepts connections has not turned for some seconds",
        "server-changed": "the server has another key than the one that was paired",
        "tls-failed": "no secure channel could be made with the other machine",
        "too-many-sessions": "a server has as many sessions of this machine, or in all, as it takes",
        "quota-exceeded": "a volume takes as much of a server's disk as it may",
        "cannot-listen": "a server cannot listen at that address",
        "different-volumes": "two locations of one comparison lie in different volumes",
        "unverified": "files were written whose bytes nobody can verify, because the volume's secret is lost",
        "too-much-to-delete": "a pull would have deleted more names than it may, and deleted none",
        "pull-incomplete": "some entries of a snapshot could not be written",
        "newest-snapshot": "the newest snapshot of a ref is always kept",
        "keeps-nothing": "the rules of a `forget` keep nothing but the newest snapshot",
        "volume-in-use": "somebody uses the volume since before what is to be reclaimed was chosen",
        "reclaimed-meanwhile": "space of the volume was reclaimed while a push was running",
        "interrupted": "it was stopped by Ctrl-C or by SIGTERM",
        "bug": "a bug in PacketFS; what it did not finish has not happened",
    }
)

_HINTS: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        _errno.ENOSPC: ("disk-full", "free some space and run the command again: it continues where it stopped"),
        _errno.EDQUOT: ("disk-full", "raise the quota or free some space and run the command again"),
        _errno.EROFS: ("disk-read-only", "remount it writable"),
        _errno.EIO: ("disk-failed", "look at the system log (dmesg) and check the disk"),
        _errno.EACCES: ("permission-denied", "check who owns it and its mode"),
        _errno.EPERM: ("permission-denied", "check who owns it and its mode"),
        _errno.EMFILE: ("unavailable", "raise the limit of open files (ulimit -n)"),
        _errno.ENFILE: ("unavailable", "the machine has no open files left: end other programs"),
        _errno.ENOMEM: ("unavailable", "the machine has no memory left: end other programs"),
    }
)


def disk_error(action: str, path: str | bytes | os.PathLike[str], errno: int) -> PacketFSError:
    """The error for a system call that failed; `action` is an imperative: "open", "write"."""
    shown = os.fsdecode(path)
    message = f"cannot {action} {shown!r}: {os.strerror(errno)}"
    if errno in (_errno.ENOENT, _errno.ENOTDIR):
        return NotFoundError(message, code="file-not-found", path=shown, errno=errno)
    code, hint = _HINTS.get(errno, ("unavailable", ""))
    return UnavailableError(message, code=code, hint=hint, path=shown, errno=errno)
