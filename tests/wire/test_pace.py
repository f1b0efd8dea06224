"""A transport with a limit moves everything, unchanged, and not sooner than it may."""

import threading
import time

import pytest

from packetfs.errors import UnavailableError
from packetfs.wire.pace import Paced
from packetfs.wire.transports import memory_pair

RATE = 1 << 20
SIZE = 200 << 10


@pytest.mark.parametrize("paced", ["sender", "receiver"])
def test_bytes_arrive_as_they_are_and_take_their_time(paced: str) -> None:
    near, far = memory_pair(64 << 10)
    sender = Paced(near, RATE) if paced == "sender" else near
    receiver = Paced(far, RATE) if paced == "receiver" else far
    data = bytes(range(256)) * (SIZE // 256)
    begun_s = time.monotonic()
    thread = threading.Thread(target=sender.send, args=([data[:1000], memoryview(data)[1000:]],))
    thread.start()

    got = b""
    while len(got) < SIZE:
        got += receiver.receive()
    thread.join()

    assert got == data
    assert time.monotonic() - begun_s >= SIZE / RATE * 0.99
    assert (sender.sent_bytes, receiver.received_bytes) == (SIZE, SIZE)


def test_closing_wakes_who_waits_for_the_time_of_his_bytes() -> None:
    near, far = memory_pair(1 << 20)
    paced = Paced(near, 1000)
    failures: list[BaseException] = []

    def send() -> None:
        try:
            paced.send([bytes(1 << 20)])
        except UnavailableError as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    far.receive()

    paced.close()
    thread.join(10)

    assert not thread.is_alive()
    assert len(failures) == 1
