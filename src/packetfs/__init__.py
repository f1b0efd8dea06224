"""PacketFS: directory trees kept in volumes, address spaces of bytes in which nothing is stored twice.

    import packetfs

    with packetfs.open("/srv/volumes/home", create=True) as volume:
        packetfs.push(volume, ["/home/ada"], "main")
        packetfs.pull(volume, "main@~1:/notes", "/tmp/notes")

What is named in `__all__` is public; it is loaded when it is first used, so that the command line starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from packetfs.release import VERSION

if TYPE_CHECKING:
    from packetfs.api import compare, connect, create, find, open, pull, push, verify  # noqa: A004 - packetfs.open("vol") reads well
    from packetfs.errors import (
        BusyError,
        ConflictError,
        DamagedError,
        InvalidError,
        NotFoundError,
        PacketFSError,
        PartialError,
        RefusedError,
        UnavailableError,
        UsageError,
    )
    from packetfs.volume import Selection, Volume

__version__: Final = VERSION

_HOMES: Final = {
    **dict.fromkeys(("compare", "connect", "create", "find", "open", "pull", "push", "verify"), "packetfs.api"),
    **dict.fromkeys(("Selection", "Volume"), "packetfs.volume"),
    **dict.fromkeys(
        (
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
        ),
        "packetfs.errors",
    ),
}

__all__ = [
    "BusyError",
    "ConflictError",
    "DamagedError",
    "InvalidError",
    "NotFoundError",
    "PacketFSError",
    "PartialError",
    "RefusedError",
    "Selection",
    "UnavailableError",
    "UsageError",
    "Volume",
    "__version__",
    "compare",
    "connect",
    "create",
    "find",
    "open",
    "pull",
    "push",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'packetfs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
