"""A bad network: a proxy that is slow, cuts, stalls or damages what passes through it, at a byte that one chooses.

    python -m packetfs.testing.faults [OPTIONS] -- COMMAND...                   between us and a command (as ssh -e)
    python -m packetfs.testing.faults [OPTIONS] --listen HOST:PORT --to HOST:PORT   between TCP connections

Latency is per direction: a round trip takes twice as long more. *Up* is from the one who connects, *down* towards it.
It delays and damages, but never reorders and never invents bytes: that is what a network under TCP can do to us.
"""

import argparse
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from packetfs.env import SYSTEM, Env
from packetfs.errors import PacketFSError
from packetfs.wire.transports import Transport, peer_gone

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CLEAR", "Damage", "Faults", "Faulty", "Line", "Link", "main", "pump"]

_PIECE_BYTES: Final = 64 << 10  # read at a time by a pump: small against a rate, so that it is kept to the millisecond
_ON_WAY_PIECES: Final = 1024  # read and not yet delivered: 64 MiB, 1 s at 500 Mbit/s


@dataclass(frozen=True, slots=True)
class Damage:
    """What happens to one direction, at offsets counted from its first byte; None: never."""

    cut: int | None = None
    """The stream ends here."""
    stall: int | None = None
    """From here on nothing arrives, and nobody is told."""
    corrupt: int | None = None
    """The lowest bit of this byte is the other one."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad the network is."""

    latency_s: float = 0.0
    """Each way."""
    rate_bytes_s: float | None = None
    """Each way; None: as fast as it goes."""
    up: Damage = field(default_factory=Damage)
    down: Damage = field(default_factory=Damage)
    half_open: int | None = None
    """From this byte up, nothing arrives in either direction any more, and no end is passed on."""


CLEAR: Final = Faults()


class Line:
    """One direction: what comes out of it for what goes in. Pure."""

    def __init__(self, damage: Damage) -> None:
        self.damage = damage
        self.offset = 0
        """Bytes that have gone in."""

    @property
    def is_cut(self) -> bool:
        """Whether the stream has ended on the way."""
        return self.damage.cut is not None and self.offset >= self.damage.cut

    @property
    def is_stalled(self) -> bool:
        """Whether nothing arrives any more."""
        return self.damage.stall is not None and self.offset >= self.damage.stall

    def through(self, data: bytes) -> bytes:
        """What arrives of the next piece."""
        begin = self.offset
        self.offset += len(data)
        ends = [end - begin for end in (self.damage.cut, self.damage.stall) if end is not None]
        arrives = data[: max(0, min(ends))] if ends else data
        at = -1 if self.damage.corrupt is None else self.damage.corrupt - begin
        if 0 <= at < len(arrives):
            return arrives[:at] + bytes([arrives[at] ^ 1]) + arrives[at + 1 :]
        return arrives


class Faulty:
    """A transport through a bad network, in the same process: for tests that count bytes. It has no clock."""

    def __init__(self, transport: Transport, faults: Faults) -> None:
        assert faults.latency_s == 0
        assert faults.rate_bytes_s is None
        self._transport = transport
        self._up = Line(faults.up)
        self._down = Line(faults.down)
        self._half_open = faults.half_open
        self._closed = threading.Event()
        self.sent_bytes = 0
        self.received_bytes = 0

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """See Transport. What comes after a cut is an error, what comes after a stall is as good as sent."""
        for buffer in buffers:
            data = bytes(buffer)
            if self._up.is_cut:
                self._transport.close()
                raise peer_gone("cut by a test")
            room = len(data) if self._half_open is None else max(0, self._half_open - self._up.offset)
            arrives = self._up.through(data)[:room]
            self.sent_bytes += len(data)
            if arrives:
                self._transport.send([arrives])
        if self._up.is_cut:
            self._transport.close()

    def receive(self, patience_s: float | None = None) -> bytes:
        """See Transport."""
        while not self._down.is_cut:
            if self._down.is_stalled:
                self._closed.wait()
                return b""
            data = self._transport.receive(patience_s)
            if not data:
                return b""
            arrives = self._down.through(data)
            if self._is_half_open:
                continue  # until it is closed: then there is no more data
            self.received_bytes += len(arrives)
            if arrives:
                return arrives
        self._transport.close()
        return b""

    @property
    def _is_half_open(self) -> bool:
        return self._half_open is not None and self._up.offset >= self._half_open

    def close(self) -> None:
        """See Transport."""
        self._closed.set()
        self._transport.close()

    def ended(self) -> PacketFSError:
        """See Transport."""
        return self._transport.ended()


class Link:
    """Both directions of one connection, for pumps."""

    def __init__(self, faults: Faults, env: Env) -> None:
        self.faults = faults
        self.env = env
        self.up = Line(faults.up)
        self.down = Line(faults.down)

    @property
    def is_half_open(self) -> bool:
        """Whether nothing arrives any more either way."""
        return self.faults.half_open is not None and self.up.offset >= self.faults.half_open


def pump(
    link: Link,
    line: Line,
    *,
    read: Callable[[int], bytes],
    write: Callable[[bytes], None],
    end: Callable[[], None],
    sever: Callable[[], None],
) -> list[threading.Thread]:
    """Start to carry bytes from `read` to `write` until either fails.

    `end` then tells the receiving side; a line that was cut is told to both, by `sever`.

    Two threads: one reads and says when each piece is due, the other waits and writes, so that many pieces are on
    their way at once as they are on a real line.
    """
    on_way: queue.Queue[tuple[float, bytes] | None] = queue.Queue(_ON_WAY_PIECES)
    faults, env = link.faults, link.env

    def carry() -> None:
        free_s = 0.0  # when the line has taken the piece before
        while not line.is_cut:
            try:
                data = read(_PIECE_BYTES)
            except OSError:
                break
            if not data:
                break
            was_half_open = link.is_half_open
            arrives = line.through(data)
            if was_half_open or not arrives:
                continue
            free_s = max(free_s, env.monotonic_s())
            if faults.rate_bytes_s is not None:
                free_s += len(arrives) / faults.rate_bytes_s
            on_way.put((free_s + faults.latency_s, arrives))
        on_way.put(None)

    def deliver() -> None:
        gone = False
        while (piece := on_way.get()) is not None:
            due_s, data = piece
            if gone:
                continue
            wait_s = due_s - env.monotonic_s()
            if wait_s > 0:
                env.sleep(wait_s)
            try:
                write(data)
            except OSError:
                gone = True
        if not (link.is_half_open or line.is_stalled):
            # The end takes its time as the bytes did.
            if faults.latency_s:
                env.sleep(faults.latency_s)
            (sever if line.is_cut else end)()

    threads = [threading.Thread(target=work, daemon=True) for work in (carry, deliver)]
    for thread in threads:
        thread.start()
    return threads


# -- as a program ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, *, env: Env = SYSTEM) -> int:
    """Run the proxy that `arguments` describe; the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = _parser().parse_args(arguments[:split]), list(arguments[split + 1 :])
    faults = Faults(
        latency_s=options.latency_ms / 1000,
        rate_bytes_s=options.rate_mbit * 125_000 if options.rate_mbit else None,
        up=Damage(options.cut_up, options.stall_up, options.corrupt_up),
        down=Damage(options.cut_down, options.stall_down, options.corrupt_down),
        half_open=options.half_open,
    )
    if bool(command) == bool(options.listen) or bool(options.listen) != bool(options.to):
        _parser().error("give either --listen and --to, or -- and a command")
    if command:
        return _before_command(faults, command, env)
    _before_tcp(faults, _address(options.listen), _address(options.to), env)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("packetfs.testing.faults", description="A network as bad as you like.")
    parser.add_argument("--listen", metavar="HOST:PORT", help="port 0: any; the one that was taken is printed")
    parser.add_argument("--to", metavar="HOST:PORT")
    parser.add_argument("--latency-ms", type=float, default=0.0, metavar="MS", help="each way")
    parser.add_argument("--rate-mbit", type=float, default=0.0, metavar="MBIT", help="per second, each way")
    for fault, what in (("cut", "end the stream"), ("stall", "swallow everything"), ("corrupt", "flip a bit")):
        for way in ("up", "down"):
            parser.add_argument(f"--{fault}-{way}", type=int, metavar="BYTE", help=f"{what} at this byte")
    parser.add_argument("--half-open", type=int, metavar="BYTE", help="from this byte up, nothing arrives either way")
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def _before_tcp(faults: Faults, listen: tuple[str, int], to: tuple[str, int], env: Env) -> None:
    """Carry connections until the process is ended."""
    with socket.create_server(listen) as server:
        host, port = server.getsockname()[:2]
        sys.stdout.write(f"{host}:{port}\n")
        sys.stdout.flush()
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(to)
            except OSError as error:
                sys.stderr.write(f"cannot connect to {to[0]}:{to[1]}: {error}\n")
                near.close()
                continue
            _join(faults, near, far, env)


def _join(faults: Faults, near: socket.socket, far: socket.socket, env: Env) -> None:
    link = Link(faults, env)
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def sever() -> None:
        _shut(near, socket.SHUT_RDWR)
        _shut(far, socket.SHUT_RDWR)

    threads = [
        *pump(link, link.up, read=near.recv, write=far.sendall, end=lambda: _shut(far), sever=sever),
        *pump(link, link.down, read=far.recv, write=near.sendall, end=lambda: _shut(near), sever=sever),
    ]

    def release() -> None:
        for thread in threads:
            thread.join()
        near.close()
        far.close()

    threading.Thread(target=release, daemon=True).start()


def _shut(end: socket.socket, directions: int = socket.SHUT_WR) -> None:
    try:
        end.shutdown(directions)
    except OSError:  # it has gone by itself
        pass


def _before_command(faults: Faults, command: Sequence[str], env: Env) -> int:
    """Run `command` behind the bad network; its exit code, as a shell would tell it."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    link = Link(faults, env)
    pump(
        link,
        link.up,
        read=lambda count: os.read(0, count),
        write=lambda data: _write_all(stdin.fileno(), data),
        end=stdin.close,
        sever=process.kill,
    )
    _, deliver = pump(
        link,
        link.down,
        read=lambda count: os.read(stdout.fileno(), count),
        write=lambda data: _write_all(1, data),
        end=lambda: None,
        sever=process.kill,
    )
    deliver.join()
    if link.is_half_open or link.up.is_stalled or link.down.is_stalled:
        threading.Event().wait()  # a machine that is not there does not end either
    if link.up.is_cut or link.down.is_cut:
        process.kill()
        process.wait()
        return 128 + signal.SIGKILL  # whether or not it had got as far as to end by itself
    code = process.wait()
    return 128 - code if code < 0 else code


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if __name__ == "__main__":
    sys.exit(main())
