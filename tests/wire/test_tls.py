"""TLS as a transport, whose key it is that answers, and what happens to handshakes that go wrong."""

import datetime as dt
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from packetfs.env import SystemEnv
from packetfs.errors import InvalidError, PacketFSError, RefusedError, UnavailableError
from packetfs.format.location import Endpoint
from packetfs.wire.certificate import ROOT_PEM, device_of_certificate, device_of_pem, identity_pem, made_root_pem
from packetfs.wire.pace import Pace
from packetfs.wire.tls import Tls, accept, client_context, connect, server_context, wrapped
from tests.wire.test_transports import TransportContract

GOLDEN = Path(__file__).parents[1] / "golden" / "identity-v1.pem"


class Pair:
    """Two machines: keys in files, and a server of the first that does one handshake."""

    def __init__(self, place: Path) -> None:
        self.server, self.client = place / "server.pem", place / "client.pem"
        for number, path in enumerate((self.server, self.client)):
            path.write_bytes(identity_pem(bytes([number]) * 32))
        self.device = device_of_pem(self.server.read_bytes())
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("pfs", "127.0.0.1", port=self.listener.getsockname()[1])

    def accept(self, deadline_s: float = 10.0) -> Tls:
        """The server's side; the socket is closed when the handshake fails."""
        plain, _ = self.listener.accept()
        connection = wrapped(plain, server_context(str(self.server)))
        try:
            return accept(connection, deadline_s=deadline_s)
        except BaseException:
            connection.close()
            raise

    def connect(self, expected: bytes | None = None, identity: Path | None = None) -> Tls:
        return connect(self.endpoint, client_context(str(identity or self.client)), expected or self.device)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.listener.close()


class Far:
    """The server's side in a thread: what became of it."""

    def __init__(self, pair: Pair, deadline_s: float = 10.0, *, echoes: bool = True) -> None:
        self.error: PacketFSError | None = None
        self.device = b""
        self._pair, self._deadline_s, self._echoes = pair, deadline_s, echoes
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._pair.accept(self._deadline_s) as transport:
                self.device = transport.device
                with suppress(UnavailableError):
                    while self._echoes and (data := transport.receive()):
                        transport.send([data])
        except PacketFSError as error:
            self.error = error

    def join(self) -> "Far":
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self


class TestTls(TransportContract):
    @pytest.fixture
    def echo(self, pair: Pair) -> Iterator[Tls]:
        far = Far(pair)
        with pair.connect() as transport:
            yield transport
        far.join()


def test_each_side_learns_the_key_of_the_other(pair: Pair) -> None:
    far = Far(pair)

    with pair.connect() as transport:
        transport.send([b"x"])
        assert transport.receive() == b"x"
    far.join()

    assert transport.device == device_of_pem(pair.server.read_bytes())
    assert far.device == device_of_pem(pair.client.read_bytes())


def test_a_channel_is_tls_1_3_with_x25519_and_has_no_tickets(pair: Pair) -> None:
    far = Far(pair)
    with pair.connect() as transport:
        transport.send([b"x"])
        transport.receive()
        secured = transport._socket

        assert secured.version() == "TLSv1.3"
        assert secured.session is None or not secured.session.has_ticket
    far.join()
    assert server_context(str(pair.server)).num_tickets == 0


def test_a_machine_with_another_key_is_told_nothing(pair: Pair) -> None:
    far = Far(pair)

    with pytest.raises(RefusedError) as caught:
        pair.connect(expected=bytes(32))

    assert caught.value.code == "server-changed"
    assert far.join().device  # it did a handshake, and heard nothing


def test_what_a_server_says_last_is_heard_although_it_has_not_read_everything(pair: Pair) -> None:
    far = threading.Thread(target=lambda: _says_and_closes(pair), daemon=True)
    far.start()

    with pair.connect() as transport:
        with suppress(UnavailableError):
            transport.send([bytes(100_000)])

        assert transport.receive() == b"last words"
    far.join(20)


def _says_and_closes(pair: Pair) -> None:
    with pair.accept() as transport:
        transport.send([b"last words"])


# -- handshakes that go wrong ------------------------------------------------------------------------------------------


def dial(pair: Pair) -> socket.socket:
    return socket.create_connection((pair.endpoint.host, pair.endpoint.port), timeout=20)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PF\x01\x01" + bytes(60),
        bytes(4096),
        b"\x16\x03\x01\xff\xff" + b"\x01\xff\xff\xff" + bytes(20_000),  # a hello that says it has 16 MiB
        b"\x16\x03\x01\x00\x04\x0b\x00\x00\x00",  # a certificate first
    ],
    ids=["http", "frame", "zeros", "oversized", "out-of-turn"],
)
def test_what_is_no_handshake_is_refused(pair: Pair, said: bytes) -> None:
    far = Far(pair)

    with dial(pair) as connection, suppress(OSError):
        connection.sendall(said)
        while connection.recv(4096):
            pass

    error = far.join().error
    assert error is not None
    assert error.code == "tls-failed"


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_a_handshake_that_does_not_end_is_ended(pair: Pair, said: bytes) -> None:
    """Half-open, or a byte now and then: the time is for all of it."""
    far = Far(pair, deadline_s=0.05)

    with dial(pair) as connection:
        connection.sendall(said)
        error = far.join().error

    assert error is not None
    assert error.code == "tls-failed"
    assert "too long" in error.message


def test_a_byte_now_and_then_does_not_win_time(pair: Pair) -> None:
    """The clock of this server runs on with every look at it: each byte finds less of the time left."""

    class Hasty(SystemEnv):
        now_s = 0.0

        def monotonic_s(self) -> float:
            self.now_s += 1.0
            return self.now_s

    def drip() -> None:
        with dial(pair) as connection, suppress(OSError):
            for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(200):
                connection.sendall(bytes([byte]))
                connection.settimeout(0.01)
                with suppress(TimeoutError):
                    if not connection.recv(1):
                        return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    plain, _ = pair.listener.accept()
    secured = wrapped(plain, server_context(str(pair.server)))
    with secured, pytest.raises(UnavailableError, match="too long"):
        accept(secured, deadline_s=5, env=Hasty())
    thread.join(20)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_an_older_tls_is_refused(pair: Pair, version: ssl.TLSVersion) -> None:
    far = Far(pair)
    context = client_context(str(pair.client))
    context.minimum_version = version
    context.maximum_version = version

    with pytest.raises(UnavailableError) as caught:
        connect(pair.endpoint, context, pair.device)

    assert caught.value.code == "tls-failed"
    error = far.join().error
    assert error is not None
    assert error.code == "tls-failed"


def certified(place: Path, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey) -> Path:
    """A key of another kind, in a certificate that somebody else signed."""

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(named("mallory"))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(day)
        .not_valid_after(day + dt.timedelta(days=40_000))
        .sign(signer, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    place.write_bytes(secret + made.public_bytes(Encoding.PEM))
    return place


@pytest.mark.parametrize("issuer", ["mallory", "packetfs public root"])
def test_a_certificate_that_is_not_ours_is_refused(pair: Pair, tmp_path: Path, issuer: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    foreign = certified(tmp_path / "foreign.pem", key, issuer, key)
    far = Far(pair)

    with suppress(UnavailableError), pair.connect(identity=foreign) as transport:
        assert transport.receive() == b""

    error = far.join().error
    assert error is not None
    assert error.code == "tls-failed"


def test_a_client_without_a_certificate_is_refused(pair: Pair) -> None:
    far = Far(pair)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    with dial(pair) as plain, suppress(OSError), context.wrap_socket(plain) as secured:
        assert secured.recv(1) == b""

    error = far.join().error
    assert error is not None
    assert error.code == "tls-failed"


def test_a_certificate_is_not_enough_without_its_key(pair: Pair, tmp_path: Path) -> None:
    """Whoever has seen a certificate (all who ever connected have) cannot be that machine."""
    stolen = pair.client.read_bytes()
    certificate = stolen[stolen.index(b"-----BEGIN CERTIFICATE") :]
    other = identity_pem(bytes([9]) * 32)
    mixed = tmp_path / "mixed.pem"
    mixed.write_bytes(other[: other.index(b"-----BEGIN CERTIFICATE")] + certificate)

    with pytest.raises(InvalidError) as caught:
        client_context(str(mixed))

    assert caught.value.code == "bad-identity"


def test_a_client_that_takes_nothing_does_not_hold_a_server(pair: Pair) -> None:
    """What is being sent to it ends after a time without progress; a minute or two, here as good as none."""
    far: list[Tls] = []
    thread = threading.Thread(target=lambda: far.append(pair.accept()))
    thread.start()
    with pair.connect():
        thread.join()
        assert far[0]._stall_s == 120
        far[0]._stall_s = 0.05

        with pytest.raises(UnavailableError) as caught:
            far[0].send([bytes(64 << 20)])
        far[0].close()

    assert caught.value.code == "peer-gone"
    assert "it took nothing for 0.05 s" in caught.value.message


def test_a_connection_that_is_reset_at_once_is_no_harm(pair: Pair) -> None:
    far = Far(pair)
    connection = dial(pair)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

    error = far.join().error
    assert error is not None
    assert error.code == "tls-failed"


def test_nobody_listens(pair: Pair) -> None:
    pair.listener.close()

    with pytest.raises(UnavailableError) as caught:
        pair.connect()

    assert caught.value.code == "peer-unreachable"
    assert str(pair.endpoint.port) in caught.value.message


# -- certificates and pace ---------------------------------------------------------------------------------------------


def test_an_identity_is_the_same_for_the_same_seed_in_every_version() -> None:
    assert identity_pem(bytes(range(32))) + made_root_pem() == GOLDEN.read_bytes()
    assert made_root_pem() == ROOT_PEM.encode()


def test_a_device_id_is_the_digest_of_the_public_key() -> None:
    pem = identity_pem(bytes(range(32)))
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index(b"-----BEGIN CERTIFICATE") :].decode())

    assert device_of_certificate(der) == device_of_pem(pem)
    assert device_of_certificate(der).hex() == "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x30\x82\xff\xff" + bytes(500)])
def test_what_is_no_certificate_is_no_identity(data: bytes) -> None:
    with pytest.raises(InvalidError) as caught:
        device_of_certificate(data)
    assert caught.value.code == "bad-identity"


def test_a_pace_lets_no_more_through_than_it_says_however_many_share_it() -> None:
    class Clock(SystemEnv):
        now_s = 0.0

        def monotonic_s(self) -> float:
            return self.now_s

    clock = Clock()
    pace = Pace(1000, clock)

    assert pace.after(500) == pytest.approx(0.5)
    assert pace.after(500) == pytest.approx(1.0)
    clock.now_s = 10.0
    assert pace.after(100) == pytest.approx(0.1)  # what was not used is not saved up
