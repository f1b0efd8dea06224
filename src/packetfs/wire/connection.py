"""A transport with frames on it: a thread that reads ahead, a queue, and counts. Decides nothing about what is said.

The reader goes on while its owner writes, so that two machines that both send do not wait for each other, as long as
one of them sends little (a client that sends literals is answered in small frames only, see `protocol.SPOKEN`). It is
enough that one side reads ahead: a server, which has a thousand peers that say little, begins with it where one sends
much.
"""

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from packetfs.env import SYSTEM, Env
from packetfs.errors import InvalidError, UnavailableError
from packetfs.wire.frames import HEADER_BYTES, LITERALS_BYTES_MAX, Buffers, Decoder, Frame, request_of
from packetfs.wire.transports import Transport, peer_gone

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["QUEUE_BYTES_MAX", "Connection"]

_MUCH_BYTES: Final = 1 << 20  # from a peer, and reading ahead is worth a thread
QUEUE_BYTES_MAX: Final = 4 << 20  # read ahead of its owner; with one frame more, a fifth of what a side may take


class Connection:
    """Frames to and from a peer.

    `send` and `receive` may be called by different threads. An error of the stream ends the connection, and is raised
    by every later call; frames that came before it are still given out, so that a peer's last words are heard.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        patience_s: float | None = None,
        body_bytes_max: int = LITERALS_BYTES_MAX,
        ahead: bool = True,
        env: Env = SYSTEM,
    ) -> None:
        """With `patience_s`, `receive` waits no longer than that for a peer that says nothing.

        Of a peer that nobody knows, `body_bytes_max` bounds what it can make us keep. Unless `ahead`, its owner reads
        in `receive` until the peer has sent much; then only one thread may call that.
        """
        self._decoder = Decoder(body_bytes_max=body_bytes_max)
        self._queue_bytes_max = min(QUEUE_BYTES_MAX, body_bytes_max)
        self._transport = transport
        self._patience_s = patience_s
        self._env = env
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._queued_bytes = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._said = 0  # the last request that was sent
        self._heard = 0  # the last request that had been sent when the last round trip ended
        self._round_trips = 0
        self._reader: threading.Thread | None = None
        if ahead:
            self._begin_ahead()

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
        if self._reader is None:
            return self._read_here()
        with self._changed:
            if not self._changed.wait_for(lambda: self._frames or self._failure, self._patience_s):
                raise self._out_of_patience()
            return self._taken()

    def close(self) -> None:
        """End the stream and the reader. Frames that came are dropped; closing again does nothing."""
        with self._changed:
            self._closed = True
            self._failure = self._failure or peer_gone("it was closed here")
            self._changed.notify_all()
        self._transport.close()
        if self._reader not in (None, threading.current_thread()):
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

    def _begin_ahead(self) -> None:
        self._reader = threading.Thread(target=self._read_ahead, name="packetfs-reader", daemon=True)
        self._reader.start()

    def _read_here(self) -> Frame:
        until_s = None if self._patience_s is None else self._env.monotonic_s() + self._patience_s
        while not self._frames and self._failure is None:
            left_s = None if until_s is None else until_s - self._env.monotonic_s()
            try:
                if left_s is not None and left_s <= 0:  # it says something all the time, and never a whole frame
                    raise TimeoutError
                self._read(left_s)
            except TimeoutError:
                raise self._out_of_patience() from None
        with self._changed:
            frame = self._taken()
        if self._transport.received_bytes >= _MUCH_BYTES and self._failure is None:
            self._begin_ahead()
        return frame

    def _read_ahead(self) -> None:
        while self._failure is None:
            self._read(None)

    def _read(self, patience_s: float | None) -> None:
        """Read once, and queue the frames that are whole by that."""
        try:
            if data := self._transport.receive(patience_s):
                self._decoder.feed(data)
                while (frame := self._decoder.next()) is not None:
                    self._queue(frame)
            else:
                self._fail(self._transport.ended())
        except TimeoutError:
            raise
        except InvalidError as error:
            self._fail(_strange(error) if error.values.get("offset") == 0 else error)
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads that use the connection
            self._fail(error)

    def _out_of_patience(self) -> UnavailableError:
        return UnavailableError(
            f"the other machine has said nothing for {self._patience_s:g} s",
            code="peer-gone",
            hint="run the same command again: what was stored stays, and it continues there",
        )

    def _queue(self, frame: Frame) -> None:
        with self._changed:
            if self._reader is not None:
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
