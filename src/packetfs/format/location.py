"""A location: which path of which snapshot of which ref of which volume, and where. One parser, two spellings.

    shell   [[user@]host:]VOLUME[::[REF][@WHEN][:/PATH]]
    URL     pfs://HOST[:PORT]/VOLUME[:REF[@WHEN][/PATH]]
            ssh://[USER@]HOST[:PORT]/DIR/VOLUME[:REF[@WHEN][/PATH]]
            file:///DIR/VOLUME[:REF[@WHEN][/PATH]]

In the shell spelling a host is what stands before a `:` that comes before the first `/`, as with scp and rsync; write
`./a:b::main` for a volume with a colon in its name. In a URL what would be a delimiter is percent-encoded. Nothing
here asks whether the volume exists.
"""

import os
import re
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Final, Literal

from packetfs.errors import UsageError
from packetfs.format.when import LATEST, When, parse_when

__all__ = [
    "DEFAULT_PORT",
    "DEFAULT_REF",
    "Endpoint",
    "Location",
    "check_ref",
    "directory_text",
    "parse_address",
    "parse_directory",
    "parse_location",
    "parse_path",
    "with_volume",
]

DEFAULT_REF: Final = "main"
DEFAULT_PORT: Final = 20550  # of a server: the letters PF as a number; registered to nobody, below the ports of clients
REF_CHARACTERS_MAX: Final = 255  # a ref must fit where file names fit
_REF = re.compile(r"[A-Za-z0-9._-]+")
_SCHEME = re.compile(r"(pfs|ssh|file)://")
# Neither begins with "-": ssh would take it for an option.
_WHO: Final = r"(?:([^\s@/\[\]:-][^\s@/\[\]:]*)@)?(\[[0-9A-Fa-f:.]+\]|\w[\w.-]*)"
_HOST = re.compile(_WHO)
_EXPORT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*:/")
_AUTHORITY = re.compile(_WHO + r"(?::([0-9]{1,5}))?")
_HINT: Final = "a location looks like VOLUME::REF, host:VOLUME::REF@WHEN:/PATH or pfs://HOST/VOLUME:REF"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The machine on which a volume is, and how it is reached."""

    scheme: Literal["pfs", "ssh"]
    host: str
    user: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a volume. Without an endpoint it is on this machine; an empty volume is the configured one."""

    volume: str
    """Path of the volume, or its name at a `pfs` endpoint; bytes that are not UTF-8 as surrogates (`os.fsdecode`)."""
    ref: str | None = None
    """None when only the volume was named; see `line`."""
    when: When = LATEST
    path: bytes = b""
    """Path inside the snapshot without a leading slash; empty is the root."""
    endpoint: Endpoint | None = None

    @property
    def line(self) -> str:
        """The ref that is meant: `main` unless another was named."""
        return self.ref or DEFAULT_REF

    def __str__(self) -> str:
        """The shell spelling where there is one, else the URL."""
        if self.endpoint is not None and (self.endpoint.scheme == "pfs" or self.endpoint.port is not None):
            return self.url()
        host = ""
        if self.endpoint is not None:
            user = f"{self.endpoint.user}@" if self.endpoint.user else ""
            host = f"{user}{self.endpoint.host}:"
        volume = self.volume
        if "::" in volume or volume.endswith(":"):
            return self.url()
        if not host and (":" in volume.partition("/")[0] or _SCHEME.match(volume)):
            volume = f"./{volume}"
        return host + volume + self._inside("::", ":/", os.fsdecode(self.path))

    def url(self) -> str:
        """The URL spelling. There is none for a relative path on this machine: make it absolute first."""
        from urllib.parse import quote, quote_from_bytes  # 2.5 ms, and the shell spelling never needs it

        path = quote_from_bytes(self.path, safe="/")
        volume = quote(os.fsencode(self.volume), safe="/")
        if self.endpoint is None:
            return f"file://{volume}" + self._inside(":", "/", path)
        end = self.endpoint
        user = f"{quote(end.user, safe='')}@" if end.user else ""
        port = f":{end.port}" if end.port is not None else ""
        slash = "" if volume.startswith("/") else "/"
        return f"{end.scheme}://{user}{end.host}{port}{slash}{volume}" + self._inside(":", "/", path)

    def _inside(self, before_ref: str, before_path: str, path: str) -> str:
        if self.ref is None and self.when == LATEST and not path:
            return ""
        when = "" if self.when == LATEST else f"@{self.when}"
        return f"{before_ref}{self.line}{when}" + (f"{before_path}{path}" if path else "")


def parse_location(text: str, *, zone: tzinfo | None = None) -> Location:
    """The location `text` spells; UsageError when it spells none. `zone` is for times without one."""
    if "\0" in text:
        raise _wrong(text, "it has a NUL in it")
    if _SCHEME.match(text):
        return _parse_url(text, zone)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise _wrong(text, "only pfs://, ssh:// and file:// are known")
    return _parse_shell(text, zone)


def parse_directory(text: str) -> tuple[Endpoint | None, str]:
    """The machine (None: this one) and the directory that `text` spells, the slash at its end included.

        [[user@]host:]DIR
        ssh://[user@]host[:port]/DIR
        pfs://host[:port]/EXPORT:/DIR

    Of the last the directory is `EXPORT:/DIR`. UsageError when it spells none.
    """
    if "\0" in text:
        raise _no_directory(text, "it has a NUL in it")
    if _SCHEME.match(text):
        from urllib.parse import unquote_to_bytes

        scheme, _, rest = text.partition("://")
        authority, slash, tail = rest.partition("/")
        path = os.fsdecode(unquote_to_bytes(tail))
        if not slash or "\0" in path:
            raise _no_directory(text, "it names no directory")
        endpoint = _parse_authority(text, scheme, authority)
        if scheme != "pfs":
            return endpoint, f"/{path}"
        if not _EXPORT.match(path):
            raise _no_directory(text, "a server has directories under names, pfs://HOST/EXPORT:/DIR")
        return endpoint, path
    found = _HOST.match(text)
    if not found or text[found.end() : found.end() + 1] != ":":
        if not text:
            raise _no_directory(text, "it is empty")
        return None, text
    rest = text[found.end() + 1 :]
    if rest.startswith(":"):
        raise _no_directory(text, "`::` is how rsync names a daemon's module, or a ref in a volume")
    if not rest:
        raise _no_directory(text, "it names a machine and no directory")
    return Endpoint("ssh", found[2], user=found[1] or ""), rest


def directory_text(endpoint: Endpoint | None, path: str) -> str:
    """The shortest that `parse_directory` takes for this directory."""
    if endpoint is None or endpoint.scheme == "ssh":
        return str(Location(path, endpoint=endpoint))
    from urllib.parse import quote

    port = f":{endpoint.port}" if endpoint.port is not None else ""
    return f"pfs://{endpoint.host}{port}/{quote(os.fsencode(path), safe='/:')}"


def parse_path(text: str | bytes) -> bytes:
    """A path inside a snapshot: components joined by one slash, none at the ends; empty is the root."""
    parts = [part for part in os.fsencode(text).split(b"/") if part]
    if any(part in (b".", b"..") or b"\0" in part for part in parts):
        raise UsageError(
            f"{os.fsdecode(text)!r} is no path inside a snapshot",
            code="bad-location",
            hint="paths begin at the snapshot's root and have no '.' or '..' in them",
        )
    return b"/".join(parts)


def parse_address(text: str, *, port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of `HOST[:PORT]`, `[IPV6][:PORT]` or `:PORT` (every interface); UsageError if it is none."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|\w[\w.-]*|)(?::([0-9]{1,5}))?", text)
    if found is None or not text or (found[2] and int(found[2]) > 65_535):
        raise UsageError(
            f"{text!r} is no address",
            code="bad-location",
            hint="write HOST:PORT, [IPV6]:PORT, or :PORT for every interface",
        )
    return found[1] or "0.0.0.0", int(found[2] or port)  # noqa: S104 - that is what was asked for


def check_ref(name: str) -> str:
    """`name` if a ref may be called so, else UsageError."""
    if not _REF.fullmatch(name) or len(name) > REF_CHARACTERS_MAX:
        raise UsageError(
            f"{name!r} cannot be the name of a ref",
            code="bad-ref",
            hint=f"use letters, digits, '.', '_' and '-', at most {REF_CHARACTERS_MAX} of them",
            ref=name,
        )
    return name


def _parse_shell(text: str, zone: tzinfo | None) -> Location:
    endpoint, rest = _split_host(text)
    volume, separator, inside = rest.partition("::")
    if not separator:
        if not volume:
            raise _wrong(text, "it names no volume")
        return Location(volume, endpoint=endpoint)
    # The path begins at the first `:/`; a time has colons, but never one before a slash.
    head, _, path = inside.partition(":/")
    ref, when = _parse_inside(text, head, zone)
    return Location(volume, ref=ref, when=when, path=parse_path(path), endpoint=endpoint)


def _split_host(text: str) -> tuple[Endpoint | None, str]:
    """The host before the first colon, if that colon comes before any slash and is not the `::` of a local volume."""
    found = _HOST.match(text)
    if not found or text[found.end() : found.end() + 1] != ":":
        return None, text
    rest = text[found.end() + 1 :]
    if rest.startswith(":"):
        return None, text
    if not rest:
        raise _wrong(text, "it names no volume")
    return Endpoint("ssh", found[2], user=found[1] or ""), rest


def _parse_url(text: str, zone: tzinfo | None) -> Location:
    from urllib.parse import unquote, unquote_to_bytes

    scheme, _, rest = text.partition("://")
    authority, slash, tail = rest.partition("/")
    endpoint = _parse_authority(text, scheme, authority)
    volume_text, separator, inside = tail.partition(":")
    volume = os.fsdecode(unquote_to_bytes(volume_text))
    if not slash or not volume or "\0" in volume:
        raise _wrong(text, "it names no volume")
    if scheme != "pfs":
        volume = f"/{volume}"
    if not separator:
        return Location(volume, endpoint=endpoint)
    head, _, path = inside.partition("/")
    ref, when = _parse_inside(text, unquote(head), zone)
    return Location(volume, ref=ref, when=when, path=parse_path(unquote_to_bytes(path)), endpoint=endpoint)


def _parse_authority(text: str, scheme: str, authority: str) -> Endpoint | None:
    from urllib.parse import unquote

    if scheme == "file":
        if authority not in ("", "localhost"):
            raise _wrong(text, "a file:// location is on this machine; use ssh:// or pfs:// for another")
        return None
    found = _AUTHORITY.fullmatch(authority)
    port = int(found[3]) if found and found[3] else None
    if not found or (port is not None and not 0 < port < 65_536) or (found[1] and scheme == "pfs"):
        raise _wrong(text, f"{authority!r} is no host")
    return Endpoint("pfs" if scheme == "pfs" else "ssh", found[2], user=unquote(found[1] or ""), port=port)


def _parse_inside(text: str, head: str, zone: tzinfo | None) -> tuple[str, When]:
    """REF and WHEN from `[REF][@WHEN]`."""
    ref, at, when = head.partition("@")
    if "/" in head or (at and not when):
        raise _wrong(text, f"{head!r} is no REF or REF@WHEN (a path follows as ':/PATH')")
    return check_ref(ref or DEFAULT_REF), parse_when(when, zone=zone) if at else LATEST


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r} is no location: {why}", code="bad-location", hint=_HINT, location=text)


def _no_directory(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text!r} is no directory: {why}",
        code="bad-location",
        hint="write DIR (./a:b for one here with a colon), [USER@]HOST:DIR, ssh://HOST/DIR or pfs://HOST/EXPORT:/DIR",
        location=text,
    )


def with_volume(location: Location, volume: str, endpoint: Endpoint | None = None) -> Location:
    """`location` in `volume`, for a spelling that left the volume to the configuration (`::main`)."""
    return replace(location, volume=volume, endpoint=endpoint)
