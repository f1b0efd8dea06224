"""How fast bytes may go, and a transport that keeps to it in either direction. It delays, and decides nothing else.

What is received is delayed before it is given out: then the pipes and sockets behind it fill, and the peer has to wait.
"""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from packetfs.env import SYSTEM, Env
from packetfs.errors import PacketFSError
from packetfs.wire.transports import Transport

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Pace", "Paced"]

_PIECE_BYTES_MAX: Final = 64 << 10
_PIECES_A_SECOND: Final = 8  # at least, so that a slow link is used evenly


class Pace:
    """How fast bytes may go, for all connections that share it. Thread-safe."""

    def __init__(self, bytes_per_s: float, env: Env = SYSTEM) -> None:
        self._bytes_per_s = bytes_per_s
        self._env = env
        self._lock = threading.Lock()
        self._free_s = env.monotonic_s()

    def after(self, count: int) -> float:
        """Count `count` bytes that went just now; for how many seconds nothing more may go."""
        with self._lock:
            now = self._env.monotonic_s()
            self._free_s = max(self._free_s, now) + count / self._bytes_per_s
            return self._free_s - now


class Paced:
    """`transport`, at no more than `rate_bytes_s`; see Transport."""

    def __init__(self, transport: Transport, rate_bytes_s: int, *, env: Env = SYSTEM) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._transport = transport
        self._closed = threading.Event()
        self._piece_bytes = max(1, min(_PIECE_BYTES_MAX, rate_bytes_s // _PIECES_A_SECOND))
        self._sending = threading.Lock()
        self._out = Pace(rate_bytes_s, env)
        self._in = Pace(rate_bytes_s, env)

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """See Transport."""
        with self._sending:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                for at in range(0, view.nbytes, self._piece_bytes):
                    piece = view[at : at + self._piece_bytes]
                    self._transport.send([piece])
                    self.sent_bytes += piece.nbytes
                    self._closed.wait(self._out.after(piece.nbytes))

    def receive(self, patience_s: float | None = None) -> bytes:
        """See Transport."""
        data = self._transport.receive(patience_s)
        self.received_bytes += len(data)
        self._closed.wait(self._in.after(len(data)))
        return data

    def close(self) -> None:
        """See Transport."""
        self._closed.set()
        self._transport.close()

    def ended(self) -> PacketFSError:
        """See Transport."""
        return self._transport.ended()
