"""Says messages to an origin and hears its answers, in the order that the protocol asks for. Understands none."""

import threading
from collections import deque
from typing import Final, TypeVar

from packetfs.errors import InvalidError, PacketFSError, UnavailableError
from packetfs.release import VERSION
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.frames import Buffers

__all__ = ["ID_BYTES", "Link"]

ID_BYTES: Final = 16  # of an id, where it only has to tell one that was named before from another
_HELD_BYTES_MAX: Final = 64 << 10  # frames that wait for each other; more fills packets anyway

Answer = TypeVar("Answer", bound=protocol.Message)


class Link:
    """Says and hears messages in the order that the protocol asks for. Threads may share it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._client = protocol.Client(software=VERSION)
        self._rules = threading.Lock()
        self._hearing = threading.Lock()
        self._saying = threading.Lock()
        self._heard: dict[int, deque[protocol.Message | PacketFSError]] = {}
        self._held: list[Buffers] = []
        self._held_bytes = 0
        self._ended: PacketFSError | None = None
        self._dropped: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be said."""
        return self._ended is not None or self._client.phase is protocol.Phase.CLOSED

    def counters(self) -> tuple[int, int, int]:
        """Bytes sent, bytes received, round trips, so far."""
        connection = self.connection
        return connection.sent_bytes, connection.received_bytes, connection.round_trips

    def say(self, message: protocol.Message, *, more: bool = False) -> int:
        """Send `message`; the request by which its answer is heard.

        With `more` it may wait for what is said next: a small push is then one packet, not one for each of its frames.
        """
        try:
            with self._saying:
                with self._rules:
                    if self._ended is not None:
                        raise self._ended
                    frame = self._client.say(message)
                    request = self._client.request
                self._held.append(frame)
                self._held_bytes += sum(memoryview(piece).nbytes for piece in frame)
                if not more or self._held_bytes >= _HELD_BYTES_MAX:
                    self._send_held()
        except UnavailableError as error:
            raise self._last_words(error) from None
        return request

    def flush(self) -> None:
        """Send what waits."""
        try:
            with self._saying:
                self._send_held()
        except UnavailableError as error:
            raise self._last_words(error) from None

    def _send_held(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self.connection.send(*held)

    def give_up(self) -> None:
        """Let the origin forget what a push that failed has said and not committed; it keeps the bytes.

        A tree whose digest is zeros is none, so that commit is refused, which ends what it would have claimed.
        """
        if self._ended is not None or self._client.phase is not protocol.Phase.SENDING:
            return
        nothing = protocol.Commit(ref="none", root_digest=bytes(ID_BYTES))
        try:
            self.ask(nothing, protocol.Committed)
        except PacketFSError:
            if self.is_over:
                raise

    def hear(self, request: int, kind: type[Answer]) -> Answer:
        """The next answer to `request`; what the origin could not do is raised."""
        message = self.next(request)
        if not isinstance(message, kind):
            raise InvalidError(
                f"the peer answered {type(message).__name__} where {kind.__name__} belongs", code="protocol-violation"
            )
        return message

    def drop(self, request: int) -> None:
        """What is still to come of the answer to `request` is not wanted."""
        with self._hearing:
            self._heard.pop(request, None)
            self._dropped.add(request)

    def next(self, request: int) -> protocol.Message:
        """The next answer to `request`, of whatever kind."""
        with self._hearing:
            while not self._heard.get(request):
                self._hear_one()
            message = self._heard[request].popleft()
            if not self._heard[request]:
                del self._heard[request]
        if isinstance(message, PacketFSError):
            raise message
        return message

    def ask(self, message: protocol.Message, kind: type[Answer]) -> Answer:
        """Say and hear."""
        return self.hear(self.say(message), kind)

    def _hear_one(self) -> None:
        try:
            frame = self.connection.receive()
        except PacketFSError as error:
            raise self._over(error) from None
        try:
            with self._rules:
                event = self._client.receive(frame)
        except PacketFSError as error:
            if not protocol.said_by_peer(error) or frame.request == 0:
                raise self._over(error) from None
            if frame.request not in self._dropped:
                self._heard.setdefault(frame.request, deque()).append(error)
        else:
            if event.request and event.request not in self._dropped:
                self._heard.setdefault(event.request, deque()).append(event.message)

    def _over(self, error: PacketFSError) -> PacketFSError:
        """Nothing is said or heard any more; the error that is raised from now on, which is the first."""
        with self._rules:
            self._ended = self._ended or error
        return self._ended

    def _last_words(self, error: PacketFSError) -> PacketFSError:
        """Why nothing can be sent any more: the origin may have said so before it left (its disk is full)."""
        with self._hearing:
            try:
                while self._ended is None:
                    self._hear_one()
            except PacketFSError:
                pass
        return self._over(error)
