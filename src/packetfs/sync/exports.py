"""Directories that a server lets others sync with, each under a name of its own. Whoever else may: see `access.py`.

Each is held open from when the server starts: what a peer means is found from there (`beneath.py`), and a directory
that is put in its place later is not served. What a server stands on itself is not exported.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from packetfs.errors import InvalidError, NotFoundError, RefusedError, UsageError, disk_error
from packetfs.format import trust
from packetfs.sync.beneath import ANCHOR, descend

__all__ = ["NO_EXPORTS", "Export", "Exports", "Within", "parse_export"]

_READ_ONLY: Final = ":ro"


@dataclass(frozen=True, slots=True)
class Export:
    """A directory, and what peers call it."""

    name: str
    path: str
    """As it was given; in `Exports` the real one."""
    read_only: bool = False
    handle: int = -1
    """The directory itself, once it is open."""


@dataclass(frozen=True, slots=True)
class Within:
    """A directory in an export. It does not have to be there."""

    export: Export
    parts: tuple[bytes, ...]

    def __str__(self) -> str:
        """What a peer calls it: `site:/sub`."""
        return f"{self.export.name}:/{os.fsdecode(b'/'.join(self.parts))}"

    @property
    def path(self) -> str:
        """Where it is on this machine, unless somebody has moved something since. For names, never to be opened."""
        return os.path.join(self.export.path, *map(os.fsdecode, self.parts))

    @contextmanager
    def opened(self, *, make: bool = False) -> Iterator[str | None]:
        """A path that means this directory within the block, and no other; None if it is missing and not to be made."""
        handle = descend(self.export.handle, self.parts, str(self), make=make)
        try:
            yield None if handle is None else f"/proc/self/fd/{handle}"
        finally:
            if handle is not None:
                os.close(handle)

    def other(self, said: bytes) -> "Within":
        """What a peer means by a path that begins in this directory, or, absolute, in the export."""
        above = () if said.startswith(b"/") else self.parts
        return Within(self.export, (*above, *_parts(said)))


class Exports:
    """The exports of one server; a context manager."""

    def __init__(self, exports: Sequence[Export] = (), *, spared: Sequence[str] = ()) -> None:
        """Open them. UsageError for two of one name, or for what is no directory.

        RefusedError for one that lies in a directory of `spared`, or in which one of them lies: who may write there
        could let himself in.
        """
        self._found: dict[str, Export] = {}
        try:
            for export in exports:
                if export.name in self._found:
                    raise UsageError(
                        f"two directories are exported as {export.name!r}", hint="give each a name of its own"
                    )
                self._found[export.name] = _opened(export, spared)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Export]:
        return iter(self._found.values())

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Serve them no more; idempotent."""
        found, self._found = self._found, {}
        for export in found.values():
            os.close(export.handle)

    def find(self, name: str, said: bytes) -> Within:
        """The directory at the path `said` in the export `name`; NotFoundError if there is no such export."""
        if name not in self._found:
            raise NotFoundError(
                f"the server exports no directory {name!r}",
                code="export-not-found",
                hint="who runs it chooses what is exported: `packetfs serve --export NAME=DIR`",
            )
        return Within(self._found[name], _parts(said))


NO_EXPORTS: Final = Exports()


def parse_export(text: str) -> Export:
    """What `NAME=DIR` or `NAME=DIR:ro` says; UsageError if it says nothing."""
    name, separator, path = text.partition("=")
    read_only = path.endswith(_READ_ONLY)
    path = path.removesuffix(_READ_ONLY)
    if not separator or not path:
        raise UsageError(f"{text!r} exports nothing", hint="write NAME=DIR, or NAME=DIR:ro for reading only")
    return Export(trust.check_export(name), path, read_only)


def _opened(export: Export, spared: Sequence[str]) -> Export:
    real = os.path.realpath(export.path)
    for other in map(os.path.realpath, spared):
        if os.path.commonpath([real, other]) in (real, other):
            raise RefusedError(
                f"{export.path!r} cannot be exported: {other!r}, which the server itself needs, "
                f"{'lies in it' if os.path.commonpath([real, other]) == real else 'holds it'}",
                hint="export a directory beside it; --root and XDG_DATA_HOME say where the server keeps its own",
                path=export.path,
            )
    try:
        handle = os.open(real, ANCHOR)
    except FileNotFoundError:
        raise UsageError(
            f"{export.path!r} cannot be exported: there is no such directory", hint="make it first, empty or not"
        ) from None
    except NotADirectoryError:
        raise UsageError(f"{export.path!r} is no directory", hint="only directories are exported") from None
    except OSError as error:
        raise disk_error("export", export.path, error.errno or 0) from None
    return Export(export.name, real, export.read_only, handle)


def _parts(said: bytes) -> tuple[bytes, ...]:
    parts = tuple(part for part in said.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise RefusedError(
            f"{os.fsdecode(said)!r} leads out of what is served", code="outside-root", hint="leave `..` out"
        )
    if any(b"\0" in part or len(part) > 255 for part in parts):
        raise InvalidError(
            f"{os.fsdecode(said)!r} is no path",
            code="bad-location",
            hint="each of its names has to be of 1 to 255 bytes, none of them zero",
        )
    return parts
