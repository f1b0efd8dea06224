"""A server: takes connections, finds out whose they are, and has each answered in a thread of its own.

The loop that accepts waits for nobody. A handshake is done in the connection's own thread and has to end within
seconds; of connections that have not yet shown who they are there are so many at most, and for a new one the oldest has
to go from where most come: somebody who only knocks cannot keep out who comes in. What a peer may do is decided in
`access.py`.
"""

import errno
import os
import select
import socket
import ssl
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from packetfs.env import SYSTEM, Env
from packetfs.errors import BusyError, PacketFSError, UnavailableError, UsageError
from packetfs.format import trust
from packetfs.format.token import Token, encode_token
from packetfs.release import VERSION
from packetfs.sync.access import AsPeer
from packetfs.sync.counts import Counts
from packetfs.sync.exports import NO_EXPORTS, Exports
from packetfs.sync.identity import own_identity
from packetfs.sync.root import Root
from packetfs.sync.serve import serve
from packetfs.sync.usage import Usage
from packetfs.volume.health import check_usable
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.frames import GREETING_BYTES_MAX, LITERALS_BYTES_MAX
from packetfs.wire.pace import Pace
from packetfs.wire.tls import Tls, accept, peer_name, server_context, shut, wrapped

__all__ = ["Limits", "Server", "listen_error"]

HANDSHAKES_MAX: Final = 256  # a thread and some 100 KiB each; a handshake of 300 ms round trip: 400 machines a second
HANDSHAKE_S: Final = 10.0
SESSIONS_MAX: Final = 2048  # of all peers together: one or two threads and some ten open files each
_BACKLOG: Final = 512
_LISTEN_HINTS: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "another program listens there, perhaps another `packetfs serve`",
    errno.EACCES: "only root may listen at a port below 1024",
}
_LOOK_S: Final = 0.25  # how long a session may outlive its peer's rights
_GREETING_S: Final = 10.0  # how long a stranger may take to say what it wants
_IDLE_S: Final = 3600.0  # a session that says nothing for so long is over; the client's next command opens another
_PAUSE_S: Final = 0.05  # when the system has no descriptor left for another connection
_STUCK_S: Final = 5.0  # the loop turns four times a second
_LEAVE_S: Final = 20.0  # a commit that is under way when the server is ended takes no longer


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may take."""

    sessions: int = 8
    """At once; everybody who only reads what is public counts as one peer."""
    bytes_per_s: int | None = None
    """Over all of its sessions, each way counted."""
    quota_bytes: int | None = None
    """What each volume may take on disk."""


class Server:
    """A server of the volumes beneath a root; a context manager. It listens as soon as it is made."""

    def __init__(
        self,
        root: Root,
        host: str,
        port: int,
        *,
        exports: Exports = NO_EXPORTS,
        limits: Limits = Limits(),
        public_read: bool = False,
        lock_wait_s: float = 10.0,
        failed: Callable[[Exception], None] = lambda _: None,
        environment: Mapping[str, str] = os.environ,
        env: Env = SYSTEM,
    ) -> None:
        """UsageError `cannot-listen` if one cannot at `host`, `port` (0: any that is free).

        Of `exports` none may be called as something in the root is: UsageError.

        `failed` is told of what is a bug: it ends the one session in which it shows.
        """
        self._root = root
        self._exports = exports
        for export in exports:
            if os.path.lexists(os.path.join(root.path, export.name)):
                raise UsageError(
                    f"there is a {export.name!r} in {root.path!r} already, and a directory is to be exported so",
                    hint="volumes and exports share their names: give the export another",
                )
        self._limits = limits
        self._environment = environment
        self._public_read = public_read
        self._lock_wait_s = lock_wait_s
        self._env = env
        identity = own_identity(environment, env)
        self.device = root.claim(identity)
        self._context = server_context(identity.path)
        self._lock = threading.Lock()
        self._arriving: OrderedDict[int, tuple[str, ssl.SSLSocket | Tls]] = OrderedDict()
        self._looked_at: trust.Book | None = None
        self._sessions: dict[int, tuple[bytes, AsPeer, Tls]] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._paces: dict[bytes, Pace] = {}
        self._connected: dict[int, Connection] = {}
        self.counts = Counts()
        """What was done for peers; what open connections have moved is in `totals` only."""
        self._numbers = 0
        self._looked_s = self._turned_s = env.monotonic_s()
        self._leaving = False
        self._failed = failed
        self._listener = _listener(host, port)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        try:
            root.listens(self.address)
        except BaseException:
            self._listener.close()
            raise

    @property
    def address(self) -> str:
        """HOST:PORT at which it listens."""
        return f"{self.host}:{self.port}"

    def public_token(self, addresses: list[str]) -> str:
        """A token with which others can read what is public."""
        return encode_token(Token(self.device, b"", addresses))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self) -> None:
        """Serve until `stop` is called, or an exception (a signal) comes."""
        self._root.audit.write("start", at=self.address)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not self._leaving:
            self._turned_s = self._env.monotonic_s()
            if poll.poll(_LOOK_S * 1000):
                self._accept()
            self._look()

    def stop(self) -> None:
        """Let `run` return, from another thread."""
        self._leaving = True

    def connections(self) -> tuple[int, int]:
        """How many sessions are open, and how many connections have not shown yet who they are."""
        with self._lock:
            return len(self._sessions), len(self._arriving)

    def totals(self) -> Counter[tuple[str, str]]:
        """All that was counted, with what connections that are open have moved so far."""
        with self._lock:
            totals = self.counts.totals()
            for connection in self._connected.values():
                for name, value in _moved(connection):
                    totals[name, ""] += value
        return totals

    def check(self) -> None:
        """Raise why no machine could push to a volume just now; nothing if one could."""
        if self._leaving:
            raise UnavailableError("the server ends", code="server-ends")
        idle_s = self._env.monotonic_s() - self._turned_s
        if idle_s > _STUCK_S:
            raise UnavailableError(f"no connection could be accepted for {idle_s:.0f} s", code="server-stuck")
        self._root.book.read()
        self._root.audit.check()
        for path in self._root.volumes():
            check_usable(path, env=self._env)

    def close(self) -> None:
        """Take no more connections and end those that are open: what they have received and not committed is kept."""
        self._leaving = True
        self._listener.close()
        with self._lock:
            threads = list(self._threads.values())
            for _, connection in self._arriving.values():
                _wake(connection)
            for _, _, transport in self._sessions.values():
                transport.abort()
        until_s = self._env.monotonic_s() + _LEAVE_S
        for thread in threads:
            thread.join(max(0.0, until_s - self._env.monotonic_s()))
        with suppress(PacketFSError):
            self._root.audit.flush(now=True)
            self._root.audit.write("stop", at=self.address)

    # The loop

    def _accept(self) -> None:
        try:
            plain, (host, *_) = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._drop_one()
                self._env.sleep(_PAUSE_S)
            return  # else the peer has left before it was let in
        try:
            connection = wrapped(plain, self._context)
        except PacketFSError as error:
            self.counts.add("errors", label=error.code)
            with suppress(PacketFSError):
                self._root.audit.refused(error.code)
            return
        with self._lock:
            self._numbers += 1
            number = self._numbers
            while len(self._arriving) >= HANDSHAKES_MAX:
                self._drop_one_locked()
            self._arriving[number] = _neighbours(host), connection
            thread = threading.Thread(
                target=self._meet, args=(number, connection), name=f"packetfs-peer-{number}", daemon=True
            )
            self._threads[number] = thread
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self._left(number)
            connection.close()

    def _look(self) -> None:
        """End the sessions whose peer has been revoked, and write down who knocked."""
        now_s = self._env.monotonic_s()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        book: trust.Book | None = None
        with suppress(PacketFSError):
            book = self._root.book.read()
        sessions: list[tuple[bytes, AsPeer, Tls]] = []
        if book is None or book is not self._looked_at:  # a thousand sessions are not asked for nothing
            with self._lock:
                sessions = list(self._sessions.values())
        self._looked_at = book
        # A disk that takes no line of the log refuses who comes; it is no reason to end the server, or to let one stay.
        for device, access, transport in sessions:
            if not access.is_ended and not _holds(access):
                access.end()
                with suppress(PacketFSError):
                    self._root.audit.write("ended", result="not-paired", device=device.hex())
                transport.abort()
        with suppress(PacketFSError):
            self._root.audit.flush()

    def _drop_one(self) -> None:
        with self._lock:
            if self._arriving:
                self._drop_one_locked()

    def _drop_one_locked(self) -> None:
        """The oldest from where most come: who knocks a thousand times takes only his own places."""
        (most, _), *_ = Counter(host for host, _ in self._arriving.values()).most_common(1)
        number = next(number for number, (host, _) in self._arriving.items() if host == most)
        _wake(self._arriving.pop(number)[1])

    # One connection

    def _meet(self, number: int, connection: ssl.SSLSocket) -> None:
        """Everything that happens to a connection, in its own thread."""
        address = peer_name(connection)
        try:
            self._converse(number, connection, address)
        except PacketFSError as error:
            self.counts.add("errors", label=error.code)
            with suppress(PacketFSError):
                self._root.audit.refused(error.code, **{"from": address})
        except Exception as error:  # noqa: BLE001 - a bug ends this session, and is told; the others go on
            self._failed(error)
        finally:
            self._left(number)
            connection.close()

    def _converse(self, number: int, connection: ssl.SSLSocket, address: str) -> None:
        transport = accept(connection, deadline_s=HANDSHAKE_S, env=self._env)
        with self._lock:
            if number in self._arriving:
                self._arriving[number] = self._arriving[number][0], transport
        try:
            access = AsPeer(
                self._root,
                transport.device,
                address,
                exports=self._exports,
                public_read=self._public_read,
                quota_bytes=self._limits.quota_bytes,
                environment=self._environment,
                env=self._env,
            )
            if access.is_known:
                self._admit(number, transport, access)
                patience_s, body_bytes_max = _IDLE_S, LITERALS_BYTES_MAX
            else:
                patience_s, body_bytes_max = _GREETING_S, GREETING_BYTES_MAX
        except PacketFSError as error:
            _refuse(transport, error)
            raise
        except BaseException:
            transport.close()
            raise
        with Connection(
            transport, patience_s=patience_s, body_bytes_max=body_bytes_max, ahead=False, env=self._env
        ) as connected:
            with self._lock:
                self._connected[number] = connected
            serve(
                connected,
                lock_wait_s=self._lock_wait_s,
                access=access,
                counts=self.counts,
                usage=Usage(thread=True),
                env=self._env,
            )

    def _admit(self, number: int, transport: Tls, access: AsPeer) -> None:
        """Count it as a session; BusyError if there are too many."""
        who = transport.device if access.is_paired else b""
        with self._lock:
            own = sum(device == who for device, _, _ in self._sessions.values())
            if own >= self._limits.sessions or len(self._sessions) >= SESSIONS_MAX or self._leaving:
                whose = "of this machine" if own >= self._limits.sessions else "in all"
                raise BusyError(
                    f"the server has {own if whose == 'of this machine' else len(self._sessions)} sessions {whose} "
                    "already, and takes no more",
                    code="too-many-sessions",
                    hint="try again when one has ended",
                    sessions=own,
                )
            self._arriving.pop(number, None)
            self._sessions[number] = (who, access, transport)
            self.counts.add("sessions_opened")
            if self._limits.bytes_per_s is not None:
                transport.pace = self._paces.setdefault(who, Pace(self._limits.bytes_per_s, self._env))

    def _left(self, number: int) -> None:
        with self._lock:
            self._arriving.pop(number, None)
            who = self._sessions.pop(number, None)
            self._threads.pop(number, None)
            connected = self._connected.pop(number, None)
            for name, value in _moved(connected) if connected is not None else ():
                self.counts.add(name, value)
            if who is not None and not any(device == who[0] for device, _, _ in self._sessions.values()):
                self._paces.pop(who[0], None)


def _neighbours(host: str) -> str:
    """Addresses that somebody has who has `host`: of IPv6 networks of 64 bits are given out."""
    if ":" not in host or host.lower().startswith("::ffff:"):
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()


def _listener(host: str, port: int) -> socket.socket:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        (family, kind, proto, _, address), *_ = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        raise listen_error(host, port, error, "--listen") from None
    return listener


def listen_error(host: str, port: int, error: OSError | UnicodeError, option: str) -> UsageError:
    """What to say when `error` came of listening where `option` says, or its default."""
    number = error.errno if isinstance(error, OSError) else None
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = _LISTEN_HINTS.get(number or 0, "write an address of this machine (`ip address` lists them)")
    return UsageError(
        f"cannot listen at {host}:{port}: {why}",
        code="cannot-listen",
        hint=f"{hint}; {option} chooses",
        host=host,
        port=port,
    )


def _moved(connection: Connection) -> tuple[tuple[str, int], ...]:
    return (
        ("received_bytes", connection.received_bytes),
        ("sent_bytes", connection.sent_bytes),
        ("round_trips", connection.round_trips),
    )


def _refuse(transport: Tls, error: PacketFSError) -> None:
    """Tell a peer why it is not let in, whatever it will ask."""
    with suppress(PacketFSError):
        transport.send(protocol.Origin(VERSION).fail(error))
    transport.close()


def _holds(access: AsPeer) -> bool:
    try:
        return access.still_holds
    except PacketFSError:
        return False  # who is trusted cannot be read: nobody is


def _wake(connection: "ssl.SSLSocket | Tls") -> None:
    if isinstance(connection, Tls):
        connection.abort()
    else:
        shut(connection)
