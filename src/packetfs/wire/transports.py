"""Streams of bytes between two machines: a command's standard streams, ssh, our own, memory. Blocking and thin.

One thread may send while another receives, and either may close; more than that is not promised. A transport knows
nothing of frames. When its stream has ended, `ended()` is the error that says why, for whoever had expected more.
"""

import errno
import os
import select
import shlex
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from fcntl import F_SETPIPE_SZ, fcntl
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from packetfs.errors import PacketFSError, UnavailableError, UsageError
from packetfs.format.location import Endpoint

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["RECEIVE_BYTES", "Command", "Memory", "Ssh", "Stdio", "Transport", "memory_pair", "peer_gone"]

RECEIVE_BYTES: Final = 256 << 10  # one read; what is longer would be memory of its own, got and given back each time
_PIPE_BYTES: Final = (
    1 << 20
)  # the most that an unprivileged process may ask for; 64 KiB would wake both sides 16 x as often
_WRITEV_BUFFERS: Final = 1000  # IOV_MAX is 1024
_END_S: Final = 2.0  # how long a command may take to end after its input has; ssh needs a round trip or two
_SSH_FAILED: Final = 255  # ssh's own exit code for: no connection, no login
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127


class Transport(Protocol):
    """A reliable stream each way."""

    sent_bytes: int
    received_bytes: int

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """Write all of them, in order. UnavailableError when nobody is there to read."""

    def receive(self, patience_s: float | None = None) -> bytes:
        """What has come, at most RECEIVE_BYTES; waits for the first byte. Empty: the stream has ended or was closed.

        TimeoutError if one waits for longer than `patience_s`.
        """

    def close(self) -> None:
        """End both directions; a call that waits in another thread returns. Closing again does nothing."""

    def ended(self) -> PacketFSError:
        """Why the stream ended, to be raised where more was expected of it."""


def peer_gone(detail: str = "", **values: object) -> UnavailableError:
    """The error for a stream that ended before the session did."""
    return UnavailableError(
        "the connection to the other machine ended before everything was said" + (f": {detail}" if detail else ""),
        code="peer-gone",
        hint="run the same command again: what was stored stays, and it continues there",
        **values,
    )


class _Descriptors:
    """A stream that is read from one descriptor and written to another (or the same)."""

    def __init__(self, reading: int, writing: int) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._reading = reading
        self._writing = writing
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        # Readable once the transport is closed: it wakes whoever waits for the descriptors in another thread.
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for descriptor in (reading, writing):
            try:
                fcntl(descriptor, F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError:  # no pipe, or the user has too many large ones: it is only slower
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """See Transport."""
        rest = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
        with self._sending:
            while rest:
                if self._closed.is_set():
                    raise self.ended()
                try:
                    count = os.writev(self._writing, rest[:_WRITEV_BUFFERS])
                except BlockingIOError:
                    self._wait(self._writing, select.POLLOUT)
                    continue
                except OSError as error:
                    if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EBADF):
                        raise self.ended() from None
                    raise
                self.sent_bytes += count
                rest = _after(rest, count)

    def receive(self, patience_s: float | None = None) -> bytes:
        """See Transport."""
        with self._receiving:
            while not self._closed.is_set():
                if not self._wait(self._reading, select.POLLIN, patience_s):
                    raise TimeoutError
                if self._closed.is_set():
                    break
                try:
                    data = os.read(self._reading, RECEIVE_BYTES)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    return b""
                self.received_bytes += len(data)
                return data
            return b""

    def close(self) -> None:
        """See Transport."""
        if self._closed.is_set():
            return
        self._closed.set()
        os.eventfd_write(self._wake, 1)
        self._end()
        with self._receiving:
            os.close(self._reading)
        # A write that cannot be woken (the peer does not read, and the descriptor is not ours to make non-blocking)
        # keeps its descriptor, until the process ends.
        if self._sending.acquire(blocking=False):
            os.close(self._writing)
            os.close(self._wake)
            self._sending.release()

    def ended(self) -> PacketFSError:
        """See Transport."""
        return peer_gone()

    def _end(self) -> None:
        """What has to happen between waking both directions and giving their descriptors back."""

    def _wait(self, descriptor: int, event: int, patience_s: float | None = None) -> bool:
        poll = select.poll()
        poll.register(descriptor, event)
        poll.register(self._wake, select.POLLIN)
        return bool(poll.poll(None if patience_s is None else patience_s * 1000))


def _after(buffers: list[memoryview], count: int) -> list[memoryview]:
    """What is left of `buffers` when their first `count` bytes are written."""
    for index, view in enumerate(buffers):
        if count < view.nbytes:
            return [view[count:], *buffers[index + 1 :]]
        count -= view.nbytes
    return []


class Stdio(_Descriptors):
    """Our own standard input and output: the side that was started by ssh.

    From here on standard output belongs to the transport alone: whatever else is written there goes to standard error,
    and standard input is empty for everybody else.
    """

    def __init__(self) -> None:
        reading, writing = os.dup(0), os.dup(1)
        sys.stdout.flush()
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        os.close(nothing)
        super().__init__(reading, writing)


class Command(_Descriptors):
    """A command that speaks on its standard input and output; its standard error is ours.

    Closing ends its input, gives it a few seconds, and then ends the command. One that runs `alone` does not hear what
    the terminal says to us (Ctrl-C), and cannot ask there for a password.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, alone: bool = False) -> None:
        self.argv = tuple(argv)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=None if env is None else dict(env),
                bufsize=0,
                start_new_session=alone,
            )
        except OSError as error:
            raise UnavailableError(
                f"cannot run {argv[0]!r}: {os.strerror(error.errno or 0)}",
                code="peer-unreachable",
                hint="it is what connects to the other machine; is it installed?",
                command=argv[0],
            ) from None
        except ValueError as error:  # a NUL in an argument
            raise UsageError(f"cannot run {argv[0]!r}: {error}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        reading, writing = os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
        self._process.stdout.close()
        self._process.stdin.close()
        os.set_blocking(writing, False)  # this end of the pipe is ours alone; so a write can be woken
        super().__init__(reading, writing)

    def ended(self) -> PacketFSError:
        """See Transport. It waits a moment for the command, which closes its output right before it ends."""
        code = self._exit_code()
        if code is None:
            return peer_gone(command=self.argv[0])
        return self._told(code)

    def _told(self, code: int) -> PacketFSError:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return peer_gone(f"{os.path.basename(self.argv[0])} {how}", command=self.argv[0], exit=code)

    def _exit_code(self) -> int | None:
        return self._process.poll() if self._closed.is_set() else self._waited()

    def _end(self) -> None:
        # The end of its input asks the command to leave; that its output is read no more wakes it from writing. The
        # numbers stay taken until the other thread is known to be out.
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for lock, descriptor in ((self._sending, self._writing), (self._receiving, self._reading)):
            if lock.acquire(timeout=_END_S):
                os.dup2(nothing, descriptor, inheritable=False)
                lock.release()
        os.close(nothing)
        for more in (self._process.terminate, self._process.kill):
            if self._waited() is not None:
                return
            more()
        self._waited()

    def _waited(self) -> int | None:
        # Not `Popen.wait` with a time to wait: that looks only every 50 ms.
        if self._process.poll() is None:
            try:
                process = os.pidfd_open(self._process.pid)
            except ProcessLookupError:  # another thread has just been told of its end
                return self._process.wait()
            try:
                poll = select.poll()
                poll.register(process, select.POLLIN)
                if not poll.poll(_END_S * 1000):
                    return None
            finally:
                os.close(process)
        return self._process.wait()


class Ssh(Command):
    """`packetfs serve --stdio` on another machine, through ssh.

    The volume travels in HELLO, never on the remote command line, where a shell would read it. ssh itself asks for
    passwords and says what it has to say on the terminal.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        ssh_command: Sequence[str] = ("ssh",),
        remote_packetfs: str = "packetfs",
        env: Mapping[str, str] | None = None,
    ) -> None:
        assert endpoint.scheme == "ssh"
        self.endpoint = endpoint
        self._remote_packetfs = remote_packetfs
        super().__init__(ssh_arguments(endpoint, ssh_command, remote_packetfs), env=env)

    def _told(self, code: int) -> PacketFSError:
        host = self.endpoint.host
        if self.received_bytes:
            return super()._told(code)
        if code == _SSH_FAILED:
            return UnavailableError(
                f"cannot reach {host!r} through ssh",
                code="peer-unreachable",
                hint=f"see what ssh says above; does `{shlex.join(self._by_hand())}` work?",
                host=host,
                exit=code,
            )
        if code in (_NOT_FOUND, _NOT_EXECUTABLE):
            return UnavailableError(
                f"{self._remote_packetfs!r} cannot be run on {host!r}",
                code="remote-not-installed",
                hint="install packetfs there, or say where it is: --remote-packetfs PATH",
                host=host,
                remote_packetfs=self._remote_packetfs,
                exit=code,
            )
        return UnavailableError(
            f"packetfs on {host!r} ended with exit code {code} before it said anything",
            code="peer-gone",
            hint=f"see what it says above; is it new enough to serve? `{shlex.join(self._by_hand())}`",
            host=host,
            exit=code,
        )

    def _by_hand(self) -> tuple[str, ...]:
        """The command with which a person can try it."""
        return *self.argv[:-1], f"{shlex.quote(self._remote_packetfs)} version"


def ssh_arguments(endpoint: Endpoint, ssh_command: Sequence[str], remote_packetfs: str) -> list[str]:
    """The command line that serves a volume at `endpoint`."""
    if not ssh_command:
        raise UsageError("the command to reach the other machine is empty", hint="leave -e out for ssh")
    host = endpoint.host.removeprefix("[").removesuffix("]")
    port = ["-p", str(endpoint.port)] if endpoint.port is not None else []
    user = f"{endpoint.user}@" if endpoint.user else ""
    # -T: no terminal at the other end, which would change bytes. `--`: no name is an option.
    return [*ssh_command, "-T", *port, "--", f"{user}{host}", f"{shlex.quote(remote_packetfs)} serve --stdio"]


class _Pool:
    """Bytes on their way in one direction of a memory transport."""

    def __init__(self, capacity_bytes: int) -> None:
        self.pieces: deque[bytes] = deque()
        self.held_bytes = 0
        self.capacity_bytes = capacity_bytes
        self.closed = False
        self.changed = threading.Condition()


class Memory:
    """One of two ends in the same process. A sender waits while the other end has a full buffer, as with a pipe."""

    def __init__(self, incoming: _Pool, outgoing: _Pool) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._incoming = incoming
        self._outgoing = outgoing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, buffers: "Sequence[Buffer]") -> None:
        """See Transport."""
        pool = self._outgoing
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest.nbytes:
                with pool.changed:
                    pool.changed.wait_for(lambda: pool.closed or pool.held_bytes < pool.capacity_bytes)
                    if pool.closed:
                        raise self.ended()
                    piece = bytes(rest[: pool.capacity_bytes - pool.held_bytes])
                    pool.pieces.append(piece)
                    pool.held_bytes += len(piece)
                    pool.changed.notify_all()
                self.sent_bytes += len(piece)
                rest = rest[len(piece) :]

    def receive(self, patience_s: float | None = None) -> bytes:
        """See Transport."""
        pool = self._incoming
        with pool.changed:
            if not pool.changed.wait_for(lambda: pool.closed or pool.pieces, patience_s):
                raise TimeoutError
            if not pool.pieces:
                return b""
            piece = pool.pieces.popleft()
            pool.held_bytes -= len(piece)
            pool.changed.notify_all()
        self.received_bytes += len(piece)
        return piece

    def close(self) -> None:
        """See Transport. What was sent before can still be received by the other end."""
        for pool in (self._outgoing, self._incoming):
            with pool.changed:
                pool.closed = True
                pool.changed.notify_all()
        with self._incoming.changed:
            self._incoming.pieces.clear()

    def ended(self) -> PacketFSError:
        """See Transport."""
        return peer_gone()


def memory_pair(capacity_bytes: int = 1 << 20) -> tuple[Memory, Memory]:
    """Two ends of one stream each way, in this process."""
    first, second = _Pool(capacity_bytes), _Pool(capacity_bytes)
    return Memory(first, second), Memory(second, first)
