"""A connection loses nothing that came, hangs for nothing that did not, and counts what it cost."""

import threading
from contextlib import suppress
from itertools import accumulate

import msgspec
import pytest

from packetfs.env import SystemEnv
from packetfs.errors import InvalidError, PacketFSError, UnavailableError
from packetfs.testing.faults import Damage, Faults, Faulty
from packetfs.wire import connection as connection_module
from packetfs.wire.connection import Connection
from packetfs.wire.frames import FrameType, encode
from packetfs.wire.protocol import Begin, Bye, Client, Commit, Committed, Hello, Leased, Literals, Origin, Tree
from packetfs.wire.transports import Transport, memory_pair
from tests.wire.talk import COMMIT, COMMITTED, HELLO, ID, VERSION, WELCOME, joined, session_push_small

ACK = encode(FrameType.ACK, 0, b"\x91\x07")


either_reader = pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "itself"])


def serve(transport: Transport) -> None:
    """An origin that commits whatever it is sent."""
    origin = Origin(VERSION)
    with Connection(transport, ahead=False) as connection:
        while True:
            try:
                message = origin.receive(connection.receive()).message
                match message:
                    case Hello():
                        connection.send(origin.say(msgspec.structs.replace(WELCOME, leased=Leased(5, 4096))))
                    case Commit():
                        connection.send(origin.say(COMMITTED))
                    case Bye():
                        return
                    case Literals() | Begin() | Tree():
                        pass
            except PacketFSError:
                return


def push(transport: Transport) -> Committed:
    """The small push of the golden file."""
    client = Client(VERSION)
    with Connection(transport) as connection:
        connection.send(client.say(msgspec.structs.replace(HELLO, intent="write")))
        client.receive(connection.receive())
        connection.send(
            client.say(Literals(b"literals")), client.say(Begin(ID[:16])), client.say(Tree(b"tree")), client.say(COMMIT)
        )
        message = client.receive(connection.receive()).message
        with suppress(UnavailableError):  # it is durable: that nobody hears our farewell changes nothing
            connection.send(client.say(Bye()))
    assert isinstance(message, Committed)
    return message


def pushed(faults: Faults) -> Committed | PacketFSError:
    near, far = memory_pair()
    server = threading.Thread(target=serve, args=(far,))
    server.start()
    try:
        return push(Faulty(near, faults))
    except PacketFSError as error:
        return error
    finally:
        near.close()
        server.join()


def test_a_session_that_is_cut_at_any_byte_ends_at_once_and_says_so() -> None:
    said = session_push_small()
    up = sum(len(said[index]) for index in (0, 2, 3, 4, 5))  # what has to arrive for the push to be done
    down = sum(len(said[index]) for index in (1, 6))

    for offset in range(up):
        found = pushed(Faults(up=Damage(cut=offset)))
        assert isinstance(found, UnavailableError), offset
        assert found.code == "peer-gone"
    for offset in range(down):
        found = pushed(Faults(down=Damage(cut=offset)))
        assert isinstance(found, UnavailableError), offset
        assert found.code == "peer-gone"

    assert pushed(Faults(down=Damage(cut=down))) == COMMITTED


def test_a_session_with_any_byte_damaged_is_never_believed() -> None:
    said = session_push_small()
    up = sum(len(said[index]) for index in (0, 2, 3, 4, 5))
    down = sum(len(said[index]) for index in (1, 6))
    # A damaged length may make a side wait for bytes that never come; patience is the answer to that, tested below.
    begins = accumulate((len(said[index]) for index in (0, 2, 3, 4)), initial=0)
    lengths = {offset + index for offset in begins for index in (4, 5, 6, 7)}
    down_lengths = {offset + index for offset in (0, len(said[1])) for index in (4, 5, 6, 7)}

    for offset in sorted(set(range(up)) - lengths):
        found = pushed(Faults(up=Damage(corrupt=offset)))
        assert isinstance(found, UnavailableError), offset
    for offset in sorted(set(range(down)) - down_lengths):
        found = pushed(Faults(down=Damage(corrupt=offset)))
        assert isinstance(found, InvalidError | UnavailableError), offset


@either_reader
def test_a_peer_that_says_nothing_is_waited_for_as_long_as_one_wants(ahead: bool) -> None:
    near, _ = memory_pair()
    with (
        Connection(near, patience_s=0.01, ahead=ahead) as connection,
        pytest.raises(UnavailableError, match=r"0\.01 s") as caught,
    ):
        connection.receive()

    assert caught.value.code == "peer-gone"


def send_often(connection: Connection) -> None:
    for _ in range(1000):
        connection.send(ACK)


@either_reader
def test_last_words_are_heard_also_after_a_send_has_failed(ahead: bool) -> None:
    near, far = memory_pair()
    with Connection(near, ahead=ahead) as connection:
        far.send(ACK)
        far.close()
        with pytest.raises(UnavailableError):
            send_often(connection)

        assert connection.receive().type is FrameType.ACK
        with pytest.raises(UnavailableError):
            connection.receive()
        with pytest.raises(UnavailableError):
            connection.send(ACK)


@either_reader
def test_what_is_no_frame_ends_the_connection_in_both_directions(ahead: bool) -> None:
    near, far = memory_pair()
    with Connection(near, ahead=ahead) as connection:
        far.send([*ACK, b"and then rubbish"])

        assert connection.receive().type is FrameType.ACK
        with pytest.raises(InvalidError, match="and then rubbish"):
            connection.receive()
        with pytest.raises(InvalidError):
            connection.send(ACK)


@either_reader
def test_who_prints_before_the_first_frame_is_not_packetfs(ahead: bool) -> None:
    near, far = memory_pair()
    with Connection(near, ahead=ahead) as connection:
        far.send([b"Last login: Tue\n"])
        with pytest.raises(UnavailableError, match="Last login") as caught:
            connection.receive()

    assert caught.value.code == "not-packetfs"


@either_reader
def test_closing_wakes_who_waits(ahead: bool) -> None:
    near, _ = memory_pair()
    connection = Connection(near, ahead=ahead)
    told: list[PacketFSError] = []

    def wait() -> None:
        try:
            connection.receive()
        except PacketFSError as error:
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    connection.close()
    connection.close()
    waiting.join()

    assert [error.code for error in told] == ["peer-gone"]


def test_reading_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "QUEUE_BYTES_MAX", 100)
    near, far = memory_pair(capacity_bytes=18)
    with Connection(near) as connection:
        sender = threading.Thread(target=far.send, args=(ACK * 50,))
        sender.start()

        assert sum(connection.receive().type is FrameType.ACK for _ in range(50)) == 50
        sender.join()


def test_who_does_not_read_ahead_begins_with_it_when_much_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_MUCH_BYTES", 100)
    near, far = memory_pair(capacity_bytes=18)
    with Connection(near, ahead=False) as connection:
        for _ in range(100 // len(joined(*[ACK])) + 1):
            assert not readers()
            far.send(ACK)
            connection.receive()
        assert len(readers()) == 1

        far.send(ACK * 50)  # more than is on its way: somebody takes it

        assert sum(connection.receive().type is FrameType.ACK for _ in range(50)) == 50
    assert not readers()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "packetfs-reader"]


def test_bytes_and_round_trips_are_counted() -> None:
    near, far = memory_pair()
    server = threading.Thread(target=serve, args=(far,))
    server.start()
    said = session_push_small()
    client = Client(VERSION)
    with Connection(near) as connection:
        connection.send(client.say(msgspec.structs.replace(HELLO, intent="write")))
        client.receive(connection.receive())
        connection.send(client.say(Literals(b"literals")), client.say(Begin(ID[:16])), client.say(Tree(b"tree")))
        connection.send(client.say(COMMIT))
        client.receive(connection.receive())

        assert connection.round_trips == 2
        assert connection.sent_bytes == sum(len(said[index]) for index in (0, 2, 3, 4, 5))
        assert connection.received_bytes == sum(len(said[index]) for index in (1, 6))
        connection.send(client.say(Bye()))
    server.join()


def test_requests_that_were_sent_together_are_one_round_trip() -> None:
    near, far = memory_pair()
    request = [encode(FrameType.ASK, number, b"") for number in range(1, 6)]
    answer = [encode(FrameType.KNOWN, number, b"") for number in range(1, 6)]
    with Connection(near) as connection:
        connection.send(*request[:3])
        far.send([b"".join((joined(*answer[:3]), joined(ACK)))])
        for _ in range(2):
            connection.receive()
        connection.send(request[3])  # while the third answer is under way
        for _ in range(2):
            connection.receive()
        far.send(answer[3])
        connection.receive()

        assert connection.round_trips == 2


class Clock(SystemEnv):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


def test_a_frame_that_drips_is_waited_for_no_longer_than_one_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, frame = Clock(), iter(joined(ACK))
    near, _ = memory_pair()

    def drip(patience_s: float | None = None) -> bytes:
        assert patience_s is not None
        clock.now_s += 6
        return bytes([next(frame)])

    monkeypatch.setattr(near, "receive", drip)
    connection = Connection(near, patience_s=10, ahead=False, env=clock)
    with connection, pytest.raises(UnavailableError, match="10 s"):
        connection.receive()
    assert clock.now_s == 12
