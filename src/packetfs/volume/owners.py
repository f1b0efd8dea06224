"""Names and numbers of users and groups on this machine, as its own directory services know them. It remembers nothing:
the kernel asks once for each.
"""

import grp
import os
import pwd
from typing import Literal

from packetfs.errors import UsageError

__all__ = ["Kind", "name_of", "named_or_numbered", "number_of"]

Kind = Literal["user", "group"]
_NAME_BYTES_MAX = 255  # what an entry holds
_NUMBER_MAX = (1 << 32) - 2  # the last one means "leave it" to chown


def name_of(kind: str, number: int) -> bytes:
    """What this machine calls a user or a group; empty if it has no name, or none that an entry can hold."""
    try:
        name = pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return b""
    raw = os.fsencode(name)
    return raw if len(raw) <= _NAME_BYTES_MAX else b""


def number_of(kind: str, name: bytes) -> int | None:
    """The number of a user or group; None if this machine does not know the name."""
    text = os.fsdecode(name)
    try:
        return pwd.getpwnam(text).pw_uid if kind == "user" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        return None


def named_or_numbered(kind: Kind, text: str) -> int:
    """What a person means by `text`: a name that this machine knows, or a number. UsageError if it is neither."""
    number = number_of(kind, os.fsencode(text))
    if number is None and text.isascii() and text.isdigit() and int(text) <= _NUMBER_MAX:
        number = int(text)
    if number is None:
        raise UsageError(
            f"this machine has no {kind} {text!r}",
            code="owner-unknown",
            hint=f"name another {kind}, or give its number",
        )
    return number
