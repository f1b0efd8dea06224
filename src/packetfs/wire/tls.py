"""TLS 1.3 over TCP, both sides with a certificate. It proves which key the peer has; whether that key is welcome is not
decided here.

X25519 and no session tickets: a handshake is one round trip and small, and every session has fresh keys. Python's
`ssl` must not be called by two threads at once for one connection, so each call is made under a lock, on a socket that
never blocks; waiting is done outside of it.
"""

import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from packetfs.env import SYSTEM, Env
from packetfs.errors import InvalidError, PacketFSError, RefusedError, UnavailableError
from packetfs.format.location import DEFAULT_PORT, Endpoint
from packetfs.wire.certificate import ROOT_PEM, device_of_certificate
from packetfs.wire.pace import Pace
from packetfs.wire.transports import RECEIVE_BYTES, peer_gone

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Tls",
    "accept",
    "address_of",
    "client_context",
    "connect",
    "peer_name",
    "server_context",
    "shut",
    "wrapped",
]

CONNECT_S: Final = 15.0  # a name looked up, a connection made and a handshake done, over the worst of mobile links
_RECORD_BYTES: Final = 16 << 10  # what one TLS record holds
_LINGER_S: Final = 1.0  # how long a server that has said its last words waits until they have been read
_LINGER_BYTES: Final = 1 << 20
_STALL_S: Final = 120.0  # a client that takes nothing for so long is gone, or wants to keep a server busy
_PATIENT_STALL_S: Final = 600.0  # a server may be made to wait: by its disk, by the pace it keeps
_KEEPALIVE_S: Final = 60  # a machine without power is noticed within some minutes
_KEEPALIVE_PROBES: Final = 4


class Tls:
    """A transport. `device` is the device id of the peer, which has proved that it has that key."""

    def __init__(
        self,
        secured: ssl.SSLSocket,
        device: bytes,
        *,
        name: str,
        lingers: bool,
        env: Env = SYSTEM,
    ) -> None:
        """Use `connect` or `accept`. The handshake is done; the socket does not block. A server `lingers`."""
        self.device = device
        self.sent_bytes = 0
        self.received_bytes = 0
        self.pace: Pace | None = None
        self._name = name
        self._socket = secured
        self._lingers = lingers
        self._env = env
        self._stall_s = _STALL_S if lingers else _PATIENT_STALL_S
        self._tls = threading.Lock()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._closing = threading.Lock()
        self._closed = threading.Event()
        self._is_released = False
        self._has_ended = False
        self._room = bytearray(_RECORD_BYTES)
        self._why = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """See Transport. Small buffers go together, a record each 16 KiB."""
        with self._sending:
            for piece in _records(buffers):
                self._send(piece)

    def receive(self, patience_s: float | None = None) -> bytes:
        """See Transport. A record that comes slowly is waited for no longer than one that does not come."""
        until_s = None if patience_s is None else self._env.monotonic_s() + patience_s
        with self._receiving:
            while not self._closed.is_set():
                try:
                    count = self._read()
                except ssl.SSLWantReadError:
                    self._make_room(_RECORD_BYTES)  # a thousand peers that say nothing are not to keep 256 MiB
                    self._wait(select.POLLIN, until_s)
                except ssl.SSLWantWriteError:
                    self._wait(select.POLLOUT)
                except (OSError, ValueError) as error:  # SSLError among them; ValueError: it was closed meanwhile
                    self._note(error)
                    return b""
                else:
                    self.received_bytes += count
                    data = bytes(memoryview(self._room)[:count])
                    if count == len(self._room):
                        self._make_room(RECEIVE_BYTES)
                    self._keep_pace(count)
                    return data
            return b""

    def close(self) -> None:
        """See Transport. With `lingers`, what was sent last is given a second to be read."""
        with self._closing:
            if self._closed.is_set():
                return
            self._closed.set()
        self._say_end()
        if self._lingers:
            self._linger()
        self.abort()
        with self._receiving, self._sending, self._closing:
            self._is_released = True
            self._socket.close()

    def abort(self) -> None:
        """End the connection at once, from any thread; whoever waits for it is woken. It still has to be closed."""
        with self._closing:
            if not self._is_released:
                shut(self._socket)

    def ended(self) -> PacketFSError:
        """See Transport."""
        return peer_gone(self._why, peer=self._name)

    def _make_room(self, count: int) -> None:
        if len(self._room) != count:
            self._room = bytearray(count)

    def _read(self) -> int:
        """Read what has come, as far as there is room. 0: the stream has ended. SSLWantReadError: nothing has come."""
        room, count = memoryview(self._room), 0
        while count < len(room):
            try:
                with self._tls:
                    got = 0 if self._closed.is_set() else self._socket.recv_into(room[count:])
            except (OSError, ValueError):
                if count:
                    break  # what has come first; the next call meets it again
                raise
            if not got:
                self._has_ended = True
                break
            count += got
        return count

    def _send(self, piece: memoryview) -> None:
        while piece.nbytes:
            if self._closed.is_set():
                raise self.ended()
            try:
                with self._tls:
                    count = self._socket.send(piece)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)
                continue
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
                continue
            except (OSError, ValueError) as error:
                self._note(error)
                raise self.ended() from None
            self.sent_bytes += count
            piece = piece[count:]
            self._keep_pace(count)

    def _wait(self, event: int, until_s: float | None = None) -> None:
        poll = select.poll()
        poll.register(self._socket.fileno(), event)
        if event == select.POLLIN:
            left_s = None if until_s is None else until_s - self._env.monotonic_s()
            if (left_s is not None and left_s <= 0) or not poll.poll(None if left_s is None else left_s * 1000):
                raise TimeoutError
        elif not poll.poll(self._stall_s * 1000):
            self._why = f"it took nothing for {self._stall_s:g} s"
            self.abort()

    def _keep_pace(self, count: int) -> None:
        if self.pace is not None and (delay_s := self.pace.after(count)) > 0:
            self._closed.wait(delay_s)

    def _say_end(self) -> None:
        """Tell the peer that this is the end, and no cut; unless it has said so itself, or takes nothing any more."""
        if not self._has_ended:
            # It may have come, and nobody has read it yet: to answer it would be one turn more.
            with self._tls, suppress(OSError, ValueError):
                self._has_ended = not self._socket.recv(_RECORD_BYTES)
        # `unwrap` would wait for the answer if the socket could block; nobody reads any more by now.
        if not self._has_ended:
            with self._tls, suppress(OSError, ValueError):
                self._socket.unwrap()

    def _linger(self) -> None:
        """Say that nothing more comes, and take what still comes from the peer until it has read that.

        A socket that is closed with bytes in it that nobody has read resets the connection, and with it what the peer
        has not read yet: the reason why it is refused.
        """
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
        if not self._receiving.acquire(timeout=_LINGER_S):
            return
        try:
            poll, left = select.poll(), _LINGER_BYTES
            poll.register(self._socket.fileno(), select.POLLIN)
            until_s = self._env.monotonic_s() + _LINGER_S  # for all of it, however it drips
            while left > 0 and poll.poll(max(0.0, until_s - self._env.monotonic_s()) * 1000):
                # Beneath TLS: it is thrown away.
                taken = len(socket.socket.recv(self._socket, min(left, 64 << 10)))
                if not taken or self._env.monotonic_s() >= until_s:
                    return
                left -= taken
        except OSError:
            return
        finally:
            self._receiving.release()

    def _note(self, error: BaseException) -> None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            self._why = self._why or _reason(error)


def server_context(identity: str) -> ssl.SSLContext:
    """What a server speaks TLS with; `identity` is the file of its key and certificate."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0
    return context


def client_context(identity: str) -> ssl.SSLContext:
    """What a client speaks TLS with."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, identity)
    context.check_hostname = False  # there are no names: the key is compared
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def wrapped(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """An accepted connection before its handshake. UnavailableError if the peer has left; it is then closed."""
    try:
        connection.setblocking(False)
        connection.getpeername()  # `wrap_socket` would lose the descriptor of one that was reset
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        connection.close()
        raise _failed("a peer that has left", error) from None


def accept(connection: ssl.SSLSocket, *, deadline_s: float, env: Env = SYSTEM) -> Tls:
    """Do the handshake of a connection that was accepted, in `deadline_s` seconds at most.

    UnavailableError `tls-failed` or InvalidError `bad-identity` when it fails; the socket is then still to be closed.
    """
    return _secured(connection, peer_name(connection), deadline_s, env, lingers=True)


def shut(connection: socket.socket) -> None:
    """End a connection that another thread may wait for; it is woken."""
    # Not SSLSocket's own method: that would let a thread that still reads see what is not decrypted.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def connect(
    endpoint: Endpoint,
    context: ssl.SSLContext,
    expected: bytes,
    *,
    deadline_s: float = CONNECT_S,
    env: Env = SYSTEM,
) -> Tls:
    """Connect to the machine with the device id `expected`. Nothing is said to any other.

    UnavailableError `peer-unreachable` or `tls-failed`; RefusedError `server-changed` when it is another machine.
    """
    host, port = address_of(endpoint)
    until_s = env.monotonic_s() + deadline_s
    try:
        connection = socket.create_connection((host, port), timeout=deadline_s)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number) if number is not None and number > 0 else str(error)
        raise UnavailableError(
            f"cannot reach {host!r} at port {port}: {why}",
            code="peer-unreachable",
            hint="does `packetfs serve` run there, and does a firewall let us through?",
            host=host,
            port=port,
        ) from None
    left_s = max(0.0, until_s - env.monotonic_s())
    try:
        connection.setblocking(False)
        connection = secured = context.wrap_socket(connection, do_handshake_on_connect=False)
        transport = _secured(secured, f"{host}:{port}", left_s, env, lingers=False)
    except OSError as error:
        connection.close()
        raise _failed(f"{host}:{port}", error) from None
    except BaseException:
        connection.close()
        raise
    if transport.device != expected:
        found = transport.device
        transport.close()
        raise RefusedError(
            f"the machine that answers at {host!r}, port {port}, is not the one that was paired: "
            f"its device id is {found.hex()[:12]}, not {expected.hex()[:12]}",
            code="server-changed",
            hint="nothing was said to it; if the server was set up anew, pair with it again",
            host=host,
            port=port,
            found=found,
            expected=expected,
        )
    return transport


def address_of(endpoint: Endpoint) -> tuple[str, int]:
    """Host and port of a `pfs` endpoint."""
    return endpoint.host.removeprefix("[").removesuffix("]"), endpoint.port or DEFAULT_PORT


def _context(protocol: int, identity: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("X25519")
    context.verify_mode = ssl.CERT_REQUIRED if protocol == ssl.PROTOCOL_TLS_SERVER else context.verify_mode
    context.load_verify_locations(cadata=ROOT_PEM)
    try:
        context.load_cert_chain(identity, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise InvalidError(
            f"{identity!r} is no identity of PacketFS: {_reason(error)}",
            code="bad-identity",
            hint="restore it from a backup; or delete it, and pair this machine again everywhere",
            path=identity,
        ) from None
    return context


def _secured(connection: ssl.SSLSocket, name: str, deadline_s: float, env: Env, *, lingers: bool) -> Tls:
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            connection.setsockopt(socket.IPPROTO_TCP, option, _KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        _shake_hands(connection, env.monotonic_s() + deadline_s, env)
        certificate = connection.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        raise _failed(name, error) from None
    return Tls(connection, device_of_certificate(certificate or b""), name=name, lingers=lingers, env=env)


def _failed(name: str, error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"no secure channel with {name}: {_reason(error)}",
        code="tls-failed",
        hint="is it `packetfs serve` that listens there, of this version?",
        peer=name,
    )


def _shake_hands(secured: ssl.SSLSocket, until_s: float, env: Env) -> None:
    poll = select.poll()
    while True:
        try:
            secured.do_handshake()
            return
        except ssl.SSLWantReadError:
            poll.register(secured.fileno(), select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.register(secured.fileno(), select.POLLOUT)
        left_s = until_s - env.monotonic_s()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError("the handshake took too long")


def _records(buffers: "Sequence[Buffer]") -> Iterator[memoryview]:
    """What to write at a time: long buffers as they are, neighbours that are short together."""
    short = bytearray()
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        if len(short) + view.nbytes <= _RECORD_BYTES:
            short += view
            continue
        if short:
            # A record is filled up: what is left of a long buffer goes uncopied.
            head = view[: _RECORD_BYTES - len(short)]
            yield memoryview(bytes(short) + bytes(head))
            short.clear()
            view = view[head.nbytes :]
        while view.nbytes > _RECORD_BYTES:
            yield view[:_RECORD_BYTES]
            view = view[_RECORD_BYTES:]
        short += view
    if short:
        yield memoryview(bytes(short))


def peer_name(connection: socket.socket) -> str:
    """HOST:PORT of the other end, for people."""
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return "a peer that has left"
    return f"{host}:{port}"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "the connection ended").replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
