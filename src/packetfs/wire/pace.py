"""A transport that moves no more than so many bytes a second in either direction. It delays, and decides nothing else.

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

__all__ = ["Paced"]

_PIECE_BYTES_MAX: Final = 64 << 10
_PIECES_A_SECOND: Final = 8  # at least, so that a slow link is used evenly


class Paced:
    """`transport`, at no more than `rate_bytes_s`; see Transport."""

    def __init__(self, transport: Transport, rate_bytes_s: int, *, env: Env = SYSTEM) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._transport = transport
        self._closed = threading.Event()
        self._piece_bytes = max(1, min(_PIECE_BYTES_MAX, rate_bytes_s // _PIECES_A_SECOND))
        self._sending = threading.Lock()
        self._out = _Bucket(rate_bytes_s, self._closed, env)
        self._in = _Bucket(rate_bytes_s, self._closed, env)

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """See Transport."""
        with self._sending:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                for at in range(0, view.nbytes, self._piece_bytes):
                    piece = view[at : at + self._piece_bytes]
                    self._transport.send([piece])
                    self.sent_bytes += piece.nbytes
                    self._out.spend(piece.nbytes)

    def receive(self) -> bytes:
        """See Transport."""
        data = self._transport.receive()
        self.received_bytes += len(data)
        self._in.spend(len(data))
        return data

    def close(self) -> None:
        """See Transport."""
        self._closed.set()
        self._transport.close()

    def ended(self) -> PacketFSError:
        """See Transport."""
        return self._transport.ended()


class _Bucket:
    """Tokens for bytes, which come in at a constant rate and are not saved up."""

    def __init__(self, rate_bytes_s: int, closed: threading.Event, env: Env) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._closed = closed
        self._env = env
        self._free_s = 0.0

    def spend(self, count: int) -> None:
        """Wait until `count` bytes have had their time, or nobody is interested any more."""
        now_s = self._env.monotonic_s()
        self._free_s = max(self._free_s, now_s) + count / self._rate_bytes_s
        self._closed.wait(self._free_s - now_s)
