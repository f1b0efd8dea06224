"""The bad network is as bad as it was asked to be, and not worse."""

import queue
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.env import SystemEnv
from packetfs.errors import UnavailableError
from packetfs.format.location import Endpoint
from packetfs.testing.faults import CLEAR, Damage, Faults, Line, Link, main, pump
from packetfs.wire.connection import Connection
from packetfs.wire.transports import Ssh
from tests.wire.conftest import Sshd, script

PROGRAM = [sys.executable, "-m", "packetfs.testing.faults"]


class FakeEnv(SystemEnv):
    """A clock that only sleeping turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@given(st.lists(st.binary(max_size=9)), st.none() | st.integers(0, 30), st.none() | st.integers(0, 30))
def test_bytes_arrive_up_to_the_cut_with_one_bit_changed(
    pieces: list[bytes], cut: int | None, corrupt: int | None
) -> None:
    line = Line(Damage(cut=cut, corrupt=corrupt))
    sent = b"".join(pieces)

    arrived = b"".join(line.through(piece) for piece in pieces)

    expected = bytearray(sent[:cut])
    if corrupt is not None and corrupt < len(expected):
        expected[corrupt] ^= 1
    assert arrived == expected
    assert line.is_cut == (cut is not None and len(sent) >= cut)


def carried(faults: Faults, pieces: list[bytes], env: FakeEnv) -> list[bytes]:
    """What comes out of a pump, and `None` for its end."""
    left = iter([*pieces, b""])
    out: queue.Queue[bytes] = queue.Queue()
    link = Link(faults, env)
    threads = pump(
        link,
        link.up,
        read=lambda _: next(left),
        write=out.put,
        end=lambda: out.put(b"end"),
        sever=lambda: out.put(b"severed"),
    )
    for thread in threads:
        thread.join()
    return [out.get() for _ in range(out.qsize())]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (CLEAR, [b"one", b"two", b"end"]),
        (Faults(up=Damage(cut=4)), [b"one", b"t", b"severed"]),
        (Faults(up=Damage(stall=4)), [b"one", b"t"]),
        (Faults(half_open=3), [b"one"]),
        (Faults(up=Damage(corrupt=0)), [b"nne", b"two", b"end"]),
    ],
)
def test_a_pump_does_what_was_asked(faults: Faults, expected: list[bytes]) -> None:
    assert carried(faults, [b"one", b"two"], FakeEnv()) == expected


def test_a_pump_takes_the_time_of_its_latency_and_rate() -> None:
    slow, narrow = FakeEnv(), FakeEnv()

    carried(Faults(latency_s=0.25), [b"one"], slow)
    carried(Faults(rate_bytes_s=1000), [bytes(500), bytes(1500)], narrow)

    assert slow.now_s == pytest.approx(100.5)  # the byte and the end, each a quarter of a second
    assert narrow.now_s >= 102


@contextmanager
def proxied(port: int, *options: str) -> Iterator[tuple[str, int]]:
    command = [*PROGRAM, *options, "--listen", "127.0.0.1:0", "--to", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        host, _, taken = proxy.stdout.readline().strip().rpartition(":")
        try:
            yield host, int(taken)
        finally:
            proxy.kill()


def test_a_tcp_connection_is_cut_for_both_sides() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        proxied(server.getsockname()[1], "--cut-down", "5") as address,
        socket.create_connection(address) as near,
    ):
        far, _ = server.accept()
        near.sendall(b"hello")
        assert far.recv(5, socket.MSG_WAITALL) == b"hello"
        far.sendall(b"0123456789")

        assert near.makefile("rb").read() == b"01234"
        assert far.recv(1) == b""
        far.close()


def test_a_tcp_connection_ends_as_it_would_without_the_proxy() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        proxied(server.getsockname()[1], "--latency-ms", "1") as address,
        socket.create_connection(address) as near,
    ):
        far, _ = server.accept()
        near.sendall(b"hello")
        near.shutdown(socket.SHUT_WR)
        assert far.makefile("rb").read() == b"hello"
        far.sendall(b"and back")
        far.close()

        assert near.makefile("rb").read() == b"and back"


@pytest.mark.parametrize(
    ("options", "sent", "arrives", "code"),
    [
        ([], b"hello", b"hello", 0),
        (["--corrupt-up", "1"], b"hello", b"hdllo", 0),
        (["--cut-down", "3"], b"hello", b"hel", 137),
        (["--cut-up", "3"], b"hello", b"", 137),
    ],
)
def test_a_command_behind_a_bad_network(options: list[str], sent: bytes, arrives: bytes, code: int) -> None:
    done = subprocess.run([*PROGRAM, *options, "--", "cat"], input=sent, capture_output=True, check=False)

    assert done.stdout[: len(arrives)] == arrives
    assert done.returncode == code
    if code == 0:
        assert done.stdout == arrives


def test_the_exit_code_of_the_command_is_passed_on() -> None:
    done = subprocess.run([*PROGRAM, "--", "sh", "-c", "exit 127"], stdin=subprocess.DEVNULL, check=False)

    assert done.returncode == 127


@pytest.mark.parametrize("arguments", [[], ["--listen", "a:1"], ["--listen", "a:1", "--to", "b:2", "--", "cat"]])
def test_wrong_use_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2


@pytest.mark.slow
def test_it_stands_before_ssh(sshd: Sshd) -> None:
    remote = script(sshd.place / "echo", "exec cat")
    command = [*PROGRAM, "--latency-ms", "5", "--", *sshd.ssh]
    with Ssh(sshd.endpoint, ssh_command=command, remote_packetfs=remote) as transport:
        transport.send([b"hello"])

        assert transport.receive() == b"hello"


@pytest.mark.slow
def test_ssh_through_a_connection_that_is_cut_is_told(sshd: Sshd) -> None:
    port = sshd.endpoint.port
    assert port is not None
    with proxied(port, "--cut-down", "60") as (host, taken):
        command = ("ssh", "-o", "StrictHostKeyChecking=no", *sshd.ssh[1:])
        endpoint = Endpoint("ssh", host, user=sshd.endpoint.user, port=taken)
        with Connection(Ssh(endpoint, ssh_command=command)) as connection, pytest.raises(UnavailableError) as caught:
            connection.receive()

    assert caught.value.code == "peer-unreachable"
