"""What systemd wants to know of a service: that it is ready, and that it ends. See sd_notify(3); elsewhere nothing."""

import os
import socket
from contextlib import suppress

__all__ = ["notify"]


def notify(**fields: object) -> None:
    """Tell whoever started this process (`NOTIFY_SOCKET`), e.g. `notify(READY=1)`. That nobody listens is no error."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    text = "\n".join(f"{name}={value}" for name, value in fields.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + place[1:] if place.startswith("@") else place)
        channel.sendall(text.encode("utf-8", "backslashreplace"))
