"""A transport with frames on it: a thread that reads ahead, a queue, and counts. Decides nothing about what is said.

The reader goes on while its owner writes, so that two machines that both send do not wait for each other, as long as
one of them sends little (a client that sends literals is answered in small frames only, see `protocol.SPOKEN`).
"""

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from packetfs.errors import InvalidError, UnavailableError
from packetfs.wire.frames import HEADER_BYTES, LITERALS_BYTES_MAX, Buffers, Decoder, Frame, request_of
from packetfs.wire.transports import Transport, peer_gone

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["QUEUE_BYTES_MAX", "Connection"]

QUEUE_BYTES_MAX: Final = 4 << 20  # read ahead of its owner; with one frame more, a fifth of what a side may take


class Connection:
    """Frames to and from a peer.

    `send` and `receive` may be called by different threads. An error of the stream ends the connection, and is raised
    by every later call; frames that came before it are still given out, so that a peer's last words are heard.
    """

    def __init__(
        self, transport: Transport, *, patience_s: float | None = None, body_bytes_max: int = LITERALS_BYTES_MAX
    ) -> None:
        """With `patience_s`, `receive` waits no longer than that for a peer that says nothing.

        Of a peer that nobody knows, `body_bytes_max` bounds what it can make us keep.
        """
        self._body_bytes_max = body_bytes_max
        self._queue_bytes_max = min(QUEUE_BYTES_MAX, body_bytes_max)
        self._transport = transport
        self._patience_s = patience_s
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._queued_bytes = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._said = 0  # the last request that was sent
        self._heard = 0  # the last request that had been sent when the last round trip ended
        self._round_trips = 0
        self._reader = threading.Thread(target=self._read, name="packetfs-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sent_bytes(self) -> int:
        """Bytes that went into the stream."""
        return self._transport.sent_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes that came out of it."""
        return self._transport.received_bytes

    @property
    def round_trips(self) -> int:
        """How often one waited for an answer after having asked; requests that were sent together count once."""
        return self._round_trips

    def send(self, *frames: Buffers) -> None:
        """Write frames, one after the other, in one go."""
        buffers: list[Buffer] = []
        for frame in frames:
            buffers += frame
            self._said = max(self._said, request_of(frame))
        with self._sending:
            if self._failure is not None:
                raise self._failure
            self._transport.send(buffers)

    def receive(self) -> Frame:
        """The next frame; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._frames or self._failure, self._patience_s):
                raise UnavailableError(
                    f"the other machine has said nothing for {self._patience_s:g} s",
                    code="peer-gone",
                    hint="run the same command again: what was stored stays, and it continues there",
                )
            return self._taken()

    def receive_ready(self) -> Frame | None:
        """The next frame if it has come already."""
        with self._changed:
            return self._taken() if self._frames or self._failure else None

    def close(self) -> None:
        """End the stream and the reader. Frames that came are dropped; closing again does nothing."""
        with self._changed:
            self._closed = True
            self._failure = self._failure or peer_gone("it was closed here")
            self._changed.notify_all()
        self._transport.close()
        if self._reader is not threading.current_thread():
            self._reader.join()

    def _taken(self) -> Frame:
        if not self._frames:
            assert self._failure is not None
            raise self._failure
        frame = self._frames.popleft()
        self._queued_bytes -= HEADER_BYTES + len(frame.body)
        self._changed.notify_all()
        # An answer to something said after the last round trip began: one has waited for it. This counts what the
        # order of requests makes necessary, not what the network happened to be quick enough for.
        if frame.request > self._heard:
            self._round_trips += 1
            self._heard = self._said
        return frame

    def _read(self) -> None:
        decoder = Decoder(body_bytes_max=self._body_bytes_max)
        try:
            while data := self._transport.receive():
                decoder.feed(data)
                while (frame := decoder.next()) is not None:
                    self._queue(frame)
            self._fail(self._transport.ended())
        except InvalidError as error:
            self._fail(_strange(error) if error.values.get("offset") == 0 else error)
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads that use the connection
            self._fail(error)

    def _queue(self, frame: Frame) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queued_bytes < self._queue_bytes_max)
            if self._closed:
                return
            self._frames.append(frame)
            self._queued_bytes += HEADER_BYTES + len(frame.body)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()


def _strange(error: InvalidError) -> UnavailableError:
    """The error for a stream that begins with something else than a frame."""
    begins = error.values.get("begins", b"")
    assert isinstance(begins, bytes)
    text = begins.decode("utf-8", "backslashreplace")
    return UnavailableError(
        f"what answers on the other machine is not packetfs: it begins with {text!r}",
        code="not-packetfs",
        hint="if a start-up file of the shell there prints this, let it do so only in interactive shells",
        begins=text,
    )
