"""Every transport does what a Transport promises; and what can go wrong with ssh is told as what it is."""

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from packetfs.errors import PacketFSError, UnavailableError, UsageError
from packetfs.format.location import Endpoint
from packetfs.wire.connection import Connection
from packetfs.wire.frames import FrameType, encode
from packetfs.wire.transports import Command, Memory, Ssh, Transport, memory_pair, ssh_arguments
from tests.wire.conftest import Sshd, script

FakeSsh: TypeAlias = Callable[[str], str]
HOST = Endpoint("ssh", "host.example", user="ann", port=2222)
LARGE = bytes(range(256)) * (1 << 14)  # 4 MiB: more than all buffers on the way hold


def received(transport: Transport, count: int) -> bytes:
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < count and (piece := transport.receive()):
        pieces.append(piece)
    return b"".join(pieces)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class TransportContract:
    """What holds of each; `echo` is one whose other end sends back what it gets, and ends when its input does."""

    def test_what_is_sent_arrives_in_order(self, echo: Transport) -> None:
        echo.send([b"one ", b"", bytearray(b"two "), memoryview(b"three")])
        echo.send([])

        assert received(echo, 13) == b"one two three"
        assert (echo.sent_bytes, echo.received_bytes) == (13, 13)

    def test_much_goes_both_ways_at_once(self, echo: Transport) -> None:
        sender = in_thread(lambda: echo.send([LARGE[:10], LARGE[10:]] * 3))

        assert received(echo, 3 * len(LARGE)) == 3 * LARGE
        sender.join()
        assert echo.sent_bytes == echo.received_bytes == 3 * len(LARGE)

    def test_many_small_buffers_are_one_send(self, echo: Transport) -> None:
        sender = in_thread(lambda: echo.send([b"%06d" % number for number in range(5000)]))

        assert received(echo, 30_000) == b"".join(b"%06d" % number for number in range(5000))
        sender.join()

    def test_closing_wakes_who_waits_to_receive(self, echo: Transport) -> None:
        found: list[bytes] = []
        reader = in_thread(lambda: found.append(echo.receive()))

        echo.close()
        reader.join()

        assert found == [b""]

    def test_it_waits_no_longer_than_it_is_told_to_and_loses_nothing_by_that(self, echo: Transport) -> None:
        with pytest.raises(TimeoutError):
            echo.receive(patience_s=0.01)

        echo.send([b"late"])
        assert received(echo, 4) == b"late"

    def test_closing_wakes_who_waits_to_send(self, echo: Transport) -> None:
        told: list[PacketFSError] = []

        def send() -> None:
            try:
                for _ in range(100):  # nobody receives what comes back
                    echo.send([LARGE])
            except PacketFSError as error:
                told.append(error)

        sender = in_thread(send)
        assert echo.receive()
        echo.close()
        sender.join()

        assert [error.code for error in told] == ["peer-gone"]

    def test_after_closing_there_is_nothing_more(self, echo: Transport) -> None:
        echo.close()
        echo.close()

        assert echo.receive() == b""
        with pytest.raises(UnavailableError) as caught:
            echo.send([b"late"])
        assert caught.value.code == "peer-gone"


class TestMemory(TransportContract):
    @pytest.fixture
    def echo(self) -> Iterator[Memory]:
        near, far = memory_pair(64 << 10)

        def back() -> None:
            try:
                while data := far.receive():
                    far.send([data])
            except UnavailableError:
                pass
            far.close()

        thread = in_thread(back)
        yield near
        near.close()
        thread.join()


class TestCommand(TransportContract):
    @pytest.fixture
    def echo(self) -> Iterator[Command]:
        with Command(["cat"]) as transport:
            yield transport


@pytest.mark.slow
class TestSsh(TransportContract):
    @pytest.fixture
    def echo(self, sshd: Sshd) -> Iterator[Ssh]:
        remote = script(sshd.place / "an echo", "exec cat")
        with Ssh(sshd.endpoint, ssh_command=sshd.ssh, remote_packetfs=remote) as transport:
            transport.send([b"hello"])
            assert received(transport, 5) == b"hello"
            transport.sent_bytes = transport.received_bytes = 0
            yield transport


class TestStdio(TransportContract):
    """The two ends of one pipe: a command whose other side is `Stdio`."""

    @pytest.fixture
    def echo(self) -> Iterator[Command]:
        text = "from packetfs.wire.transports import Stdio\nt = Stdio()\nwhile d := t.receive(): t.send([d])\nt.close()"
        with Command([sys.executable, "-c", text]) as transport:
            yield transport


def test_nothing_but_the_transport_reaches_standard_output() -> None:
    text = """
import os, subprocess
from packetfs.wire.transports import Stdio
transport = Stdio()
print("a library speaks", flush=True)
os.write(1, b"so does another\\n")
subprocess.run(["echo", "and a command"])
assert os.read(0, 1) == b""
transport.send([b"the answer"])
transport.close()
"""
    done = subprocess.run([sys.executable, "-c", text], input=b"", capture_output=True, check=True)

    assert done.stdout == b"the answer"
    assert done.stderr.splitlines() == [b"a library speaks", b"so does another", b"and a command"]


def test_what_memory_was_sent_before_its_end_is_received() -> None:
    near, far = memory_pair()
    near.send([b"last words"])
    near.close()

    assert far.receive() == b"last words"
    assert far.receive() == b""


# -- ssh ---------------------------------------------------------------------------------------------------------------


def failure(transport: Transport) -> PacketFSError:
    """What a session learns that waits for its first frame."""
    with Connection(transport) as connection, pytest.raises(PacketFSError) as caught:
        connection.receive()
    return caught.value


@pytest.mark.parametrize(
    ("endpoint", "command", "remote", "expected"),
    [
        (HOST, ["ssh"], "packetfs", ["ssh", "-T", "-p", "2222", "--", "ann@host.example", "packetfs serve --stdio"]),
        (
            Endpoint("ssh", "host"),
            ["ssh", "-4"],
            "packetfs",
            ["ssh", "-4", "-T", "--", "host", "packetfs serve --stdio"],
        ),
        (Endpoint("ssh", "[::1]"), ["ssh"], "p", ["ssh", "-T", "--", "::1", "p serve --stdio"]),
        (Endpoint("ssh", "h"), ["ssh"], "/o p/$(x)", ["ssh", "-T", "--", "h", "'/o p/$(x)' serve --stdio"]),
    ],
)
def test_the_command_line_of_ssh(endpoint: Endpoint, command: list[str], remote: str, expected: list[str]) -> None:
    assert ssh_arguments(endpoint, command, remote) == expected


def test_an_empty_command_is_wrong_use() -> None:
    with pytest.raises(UsageError):
        Ssh(HOST, ssh_command=[])


@pytest.mark.parametrize(
    ("text", "code", "says", "hint"),
    [
        ("exit 255", "peer-unreachable", "cannot reach 'host.example'", "ssh -T -p 2222 -- ann@host.example"),
        ("exit 127", "remote-not-installed", "'packetfs' cannot be run on 'host.example'", "--remote-packetfs"),
        ("exit 126", "remote-not-installed", "cannot be run", "--remote-packetfs"),
        ("exit 2", "peer-gone", "exit code 2 before it said anything", "new enough"),
        ("kill -9 $$", "peer-gone", "exit code -9", "new enough"),
        ("echo Welcome to host; exec cat", "not-packetfs", "begins with 'Welcome to host", "start-up file"),
        ("printf PF", "peer-gone", "ended with exit code 0", "again"),
    ],
)
def test_what_ssh_does_wrong_is_told(fake_ssh: FakeSsh, text: str, code: str, says: str, hint: str) -> None:
    error = failure(Ssh(HOST, ssh_command=[fake_ssh(text)]))

    assert isinstance(error, UnavailableError)
    assert error.code == code
    assert says in error.message
    assert hint in error.hint


@pytest.fixture
def fake_ssh(tmp_path: Path) -> FakeSsh:
    return lambda text: script(tmp_path / "ssh", text)


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(UnavailableError, match="no-such-ssh") as caught:
        Ssh(HOST, ssh_command=["no-such-ssh"])

    assert caught.value.code == "peer-unreachable"


def test_the_errors_of_ssh_itself_reach_the_user(fake_ssh: FakeSsh, capfd: pytest.CaptureFixture[str]) -> None:
    failure(Ssh(HOST, ssh_command=[fake_ssh("echo host key verification failed >&2; exit 255")]))

    assert capfd.readouterr().err == "host key verification failed\n"


def test_a_command_that_does_not_leave_is_made_to(fake_ssh: FakeSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetfs.wire.transports._END_S", 0.05)
    transport = Ssh(HOST, ssh_command=[fake_ssh("trap '' TERM; while :; do read line || exec sleep 1000; done")])

    transport.close()

    assert transport._process.returncode is not None


@pytest.mark.slow
def test_a_remote_without_packetfs(sshd: Sshd) -> None:
    error = failure(Ssh(sshd.endpoint, ssh_command=sshd.ssh, remote_packetfs="/does/not exist/packetfs"))

    assert error.code == "remote-not-installed"
    assert "'/does/not exist/packetfs'" in error.message


@pytest.mark.slow
def test_a_host_where_nobody_listens(sshd: Sshd) -> None:
    error = failure(Ssh(Endpoint("ssh", "127.0.0.1", port=1), ssh_command=sshd.ssh))

    assert error.code == "peer-unreachable"


@pytest.mark.slow
def test_a_host_that_does_not_let_us_in(sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    command = [word.replace(str(sshd.place / "user"), str(tmp_path / "other")) for word in sshd.ssh]

    assert failure(Ssh(sshd.endpoint, ssh_command=command)).code == "peer-unreachable"


@pytest.mark.slow
def test_a_host_whose_key_is_not_known(sshd: Sshd, tmp_path: Path) -> None:
    command = [word.replace(str(sshd.place / "known"), str(tmp_path / "none")) for word in sshd.ssh]

    assert failure(Ssh(sshd.endpoint, ssh_command=command)).code == "peer-unreachable"


@pytest.mark.slow
def test_a_remote_that_prints_a_greeting(sshd: Sshd) -> None:
    remote = script(sshd.place / "motd", "echo 'You have mail.'; exec cat")

    error = failure(Ssh(sshd.endpoint, ssh_command=sshd.ssh, remote_packetfs=remote))

    assert error.code == "not-packetfs"
    assert "You have mail." in error.message


@pytest.mark.slow
def test_a_remote_that_dies_in_the_middle(sshd: Sshd) -> None:
    frame = b"".join(bytes(part) for part in encode(FrameType.ACK, 0, b"\x91\x07"))
    (sshd.place / "frame").write_bytes(frame)
    remote = script(sshd.place / "dies", f"cat {shlex.quote(str(sshd.place / 'frame'))}; kill -9 $$")
    transport = Ssh(sshd.endpoint, ssh_command=sshd.ssh, remote_packetfs=remote)

    with Connection(transport) as connection:
        assert connection.receive().type is FrameType.ACK
        with pytest.raises(UnavailableError) as caught:
            connection.receive()

    assert caught.value.code == "peer-gone"
