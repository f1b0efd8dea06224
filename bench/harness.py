"""Two machines on one desk: two network namespaces joined by a cable, servers in the far one, meters on everything.

`Machines` makes them and always takes them away again; it needs root, since namespaces do. `Subject` is one way to
bring a tree from one machine to the other; `play` walks it through prepare, change, run, verify, clean and answers what
the run took. Nothing here knows who is measured or on what; nothing here leaves the two namespaces.

The disk is one and the same for both: what is at the far side is a directory that only the far side's processes use.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Protocol, Self

from bench import measure
from bench.trees import differences, size

NEAR, FAR = "192.0.2.1", "192.0.2.2"  # TEST-NET-1: routed nowhere
SSH_PORT = 2222  # inside the namespaces, where nobody else listens
HOST = "far"  # what the ssh configuration calls the far machine
# Ethernet 14 + IPv4 20 + TCP 20 + timestamps 12, the same for every packet once a connection stands. Segmentation is
# left to a card that is not there, so that a packet counts once, header and all, however long it is.
HEADER_BYTES = 66
HANDSHAKE_BYTES = 8  # the options of a SYN are longer by this
TOKEN_BUCKET_BYTES = 256 << 10  # four segments of the longest kind: a smaller bucket would tear them up
QUIET_WITHIN_S = 30.0  # a peer's server that is still there so long after its client is a finding, not a delay

OLD_DAY_NS = 1_700_000_000_123_456_789  # any two fixed days
NEW_DAY_NS = OLD_DAY_NS + 86_400 * 10**9


class HarnessError(Exception):
    """The machines could not be made or asked."""


class WrongCopyError(Exception):
    """What arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Link:
    """What lies between the machines."""

    mbit_per_s: int | None = None  # each way; None: as fast as the kernel copies
    round_trip_ms: int = 0  # added by a proxy that delays; connections end there, so windows do not fill with it

    def __str__(self) -> str:
        rate = "unlimited" if self.mbit_per_s is None else f"{self.mbit_per_s:,} Mbit/s"
        return rate if not self.round_trip_ms else f"{rate}, {self.round_trip_ms} ms round trip"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run took. Bytes are TCP payload as the cable saw it, the secure channel included."""

    wall_s: float = 0.0  # the syncfs at the end included, so that all promise the same
    sync_s: float = 0.0
    sent_bytes: int = 0  # near to far
    received_bytes: int = 0
    retransmitted_segments: int = 0  # both ways; if there are any, their bytes are in the counts above
    connections: int = 0
    near_cpu_s: float = 0.0
    far_cpu_s: float = 0.0
    near_anon_bytes: int = 0
    far_anon_bytes: int = 0
    round_trips: float | None = None  # as the session counts them, or as a slow link shows them
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def wire_bytes(self) -> int:
        """Both ways."""
        return self.sent_bytes + self.received_bytes

    @property
    def cpu_s(self) -> float:
        """Both machines."""
        return self.near_cpu_s + self.far_cpu_s

    @property
    def anon_bytes(self) -> int:
        """The larger of the two machines' peaks."""
        return max(self.near_anon_bytes, self.far_anon_bytes)

    @property
    def both_anon_bytes(self) -> int:
        """The two machines' peaks together, whether they were at the same time or not."""
        return self.near_anon_bytes + self.far_anon_bytes


@dataclass(frozen=True, slots=True)
class Scene:
    """Where one run of one subject happens. The source is at the near side, or at the far one for who pulls."""

    machines: Machines
    source: Path
    near: Path  # what the subject keeps at the near side: caches, replicas, archives, what was pulled
    far: Path  # what it keeps at the far side: the copy or the store


class Subject(Protocol):
    """One way to bring a tree to another machine, or to make it small."""

    name: str
    promise: str
    package: str  # the Debian package that brings it
    forgets: frozenset[str]  # kinds of difference (bench/trees.py) that it does not claim to avoid

    def missing(self) -> str:
        """Why it cannot be measured here; empty if it can."""

    def version(self) -> str:
        """What it calls itself."""

    def prepare(self, scene: Scene) -> None:
        """Bring both sides to the same state, whatever it takes. Not measured; not called before a first copy."""

    def run(self, scene: Scene) -> Reading:
        """Bring the other side up to date, measured."""

    def interrupt(self, scene: Scene, after_bytes: int) -> Reading:
        """`run`, killed with SIGKILL once so many bytes have gone to the far side."""

    def verify(self, scene: Scene) -> list[str]:
        """How what arrived differs from the source; empty if it does not."""

    def clean(self, scene: Scene) -> None:
        """End what it left running, if anything is; the files are removed by `play`."""


class Side:
    """The processes of one machine: a control group if the kernel has groups, or the tree below its first process."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self._group = _control_group(f"{namespace}")
        self._roots: list[int] = []
        self._ended_cpu_s = 0.0

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """`command`, to be run inside this machine."""
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *map(str, command)]
        if self._group is None:
            return inside
        join = 'echo $$ >"$1" && shift && exec "$@"'
        return ["sh", "-c", join, "sh", str(self._group / "cgroup.procs"), *inside]

    def started(self, pid: int) -> None:
        """A process of this machine that the harness started."""
        self._roots.append(pid)

    def ended(self, pid: int, cpu_s: float) -> None:
        """It was waited for, and had used this much."""
        self._roots.remove(pid)
        self._ended_cpu_s += cpu_s

    def pids(self) -> list[int]:
        """Every process of this machine now."""
        if self._group is not None:
            return [int(line) for line in (self._group / "cgroup.procs").read_text().split()]
        return [pid for root in self._roots for pid in measure.tree(root)]

    def cpu_s(self) -> float:
        """User + system time of all processes that this machine ever had."""
        if self._group is not None:
            usage = (self._group / "cpu.stat").read_text().split("\n", maxsplit=1)[0]
            return int(usage.removeprefix("usage_usec ")) / 1e6
        return self._ended_cpu_s + measure.cpu_s(self.pids())

    def end(self) -> None:
        """Kill what is left of this machine's own processes, and wait for it to be gone."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _until(lambda: not [pid for pid in self.pids() if _alive(pid)], f"processes of the {self.name} machine to end")
        if self._group is not None:
            self._group.rmdir()


class Machines:
    """The near and the far machine while the block lasts.

    On any way out the processes are ended, the namespaces removed (the cable with them) and the keys deleted.
    """

    def __init__(self, link: Link | None = None) -> None:
        self._link = link or Link()
        self._undo = contextlib.ExitStack()
        self._proxies: dict[int, subprocess.Popen[bytes]] = {}
        self._servers: list[subprocess.Popen[bytes] | subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        if why := impossible():
            raise HarnessError(why)
        with contextlib.ExitStack() as undo:
            self.directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="packetfs-bench-")))
            self.near = self._side("near", undo)
            self.far = self._side("far", undo)
            self._cable()
            undo.callback(self._end_servers)
            self._sshd = self._serve_ssh()
            undo.callback(self._end_proxies)
            self.set_link(self._link)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    # What subjects use

    @property
    def ssh(self) -> list[str]:
        """The ssh command that finds the far machine under the name `HOST`."""
        return ["ssh", "-F", str(self.directory / "ssh_config")]

    @property
    def ssh_command(self) -> str:
        """The same as one line, as `-e` takes it."""
        return shlex.join(self.ssh)

    def set_link(self, link: Link) -> None:
        """Change the rate and the round trip; existing connections keep the round trip they have."""
        self._link = link
        for side in (self.near, self.far):
            kind = ["noqueue"]
            if link.mbit_per_s is not None:
                kind = ["tbf", "rate", f"{link.mbit_per_s}mbit", "burst", str(TOKEN_BUCKET_BYTES), "latency", "50ms"]
            self._inside(side, "tc", "qdisc", "replace", "dev", "cable", "root", *kind)
        self._end_proxies()
        self._write_ssh_config(self.reached(SSH_PORT))

    def reached(self, port: int) -> tuple[str, int]:
        """Where the near machine connects to, to reach that port of the far one over the link as it is now.

        Through a proxy that delays, if the link has a round trip; a connection ends at the proxy, so that TCP's own
        round trip at its beginning takes no time.
        """
        if not self._link.round_trip_ms:
            return FAR, port
        if port not in self._proxies:
            self._start_proxy(port)
        return "127.0.0.1", port

    def serve(
        self, command: Sequence[str | Path], port: int, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a server at the far machine, and wait until it listens at `port`. `end` ends it."""
        path = self.directory / f"server-{port}.log"
        with path.open("wb") as log:
            server = self._start(self.far, command, environment, log)
        self._servers.append(server)
        _until(lambda: _listens(server.pid, port) or server.poll() is not None, f"{command[0]} to listen")
        if server.returncode is not None:
            self._servers.remove(server)
            self.far.ended(server.pid, 0.0)
            raise HarnessError(f"{shlex.join(map(str, command))}: ended: {path.read_text()[-500:]}")
        return server

    def end(self, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
        """End what `serve` or `converse` started."""
        process.terminate()
        self.wait(process)

    def wait(self, process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> int:
        """Wait until what `serve` or `converse` started has ended by itself; its exit code."""
        if process in self._servers:
            self._servers.remove(process)
            code = self._wait(self.far, process)
        else:
            code = self._wait(self.near, process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        return code

    def run(
        self,
        command: Sequence[str | Path],
        settle: Path,
        environment: Mapping[str, str] | None = None,
        *,
        kill_after_sent: int | None = None,
        receiver: subprocess.Popen[bytes] | None = None,
    ) -> Reading:
        """Run `command` at the near machine, wait until the far one is quiet again, `syncfs`; what that took.

        `kill_after_sent`: kill the command and its children with SIGKILL once so many bytes have gone to the far side.
        `receiver`: what `serve` started for this run alone; the time ends when it has ended as well.
        """
        with self.measured(settle) as meter, tempfile.TemporaryFile() as output:
            child = self._start(self.near, command, environment, output)
            killed = False
            while kill_after_sent is not None and child.poll() is None:
                if self.sent_bytes() - meter.sent_before >= kill_after_sent:
                    _kill_tree(child.pid)
                    killed = True
                    break
                threading.Event().wait(0.001)
            code = self._wait(self.near, child)
            if kill_after_sent is not None and not killed:
                raise HarnessError(f"{shlex.join(map(str, command))}: ended ({code}) before it could be killed")
            if code != 0 and not killed:
                output.seek(0)
                tail = output.read()[-2000:].decode(errors="replace")
                raise measure.CommandFailedError(f"{shlex.join(map(str, command))}: exit {code}\n{tail}")
            if receiver is not None and (code := self.wait(receiver)):
                raise measure.CommandFailedError(f"what received at the far side: exit {code}")
            meter.command_ended()
            self.wait_until_quiet()
        return meter.reading

    def at_far(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
        """Run `command` at the far machine, unmeasured; what it prints."""
        done = subprocess.run(
            self.far.command(command), env=os.environ | dict(environment or {}), capture_output=True, check=False
        )
        if done.returncode != 0:
            raise measure.CommandFailedError(
                f"{shlex.join(map(str, command))}: exit {done.returncode}\n{done.stderr!r}"
            )
        return done.stdout.decode()

    def forget(self) -> None:
        """Empty the home of the far side's servers: caches and archives that an earlier run left there."""
        home = self.directory / "far-home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()

    def converse(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a process at the near machine that is spoken to in lines."""
        child = subprocess.Popen(
            self.near.command(command),
            env=os.environ | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.near.started(child.pid)
        return child

    @contextlib.contextmanager
    def measured(self, settle: Path) -> Iterator[Meter]:
        """Everything between here and the end of the block is one reading."""
        measure.sync(settle)  # what others left to be written is not this one's cost
        meter = Meter(self, settle)
        try:
            yield meter
        finally:
            meter.stop()

    def wait_until_quiet(self) -> None:
        """Until the far side has nothing but servers that wait, and no connection, so that all counts are in."""
        resting = {server.pid for server in self._servers}
        _until(
            lambda: set(self.far.pids()) == resting and not _is_connected(self._sshd.pid),
            "the far side's sessions to end",
        )

    def sent_bytes(self) -> int:
        """Payload that has gone from near to far."""
        return self.traffic().sent_bytes

    # How they are made

    def _side(self, name: str, undo: contextlib.ExitStack) -> Side:
        namespace = f"packetfs-bench-{os.getpid()}-{name}"
        _call("ip", "netns", "add", namespace)
        undo.callback(_call, "ip", "netns", "delete", namespace)
        side = Side(name, namespace)
        undo.callback(side.end)
        return side

    def _cable(self) -> None:
        near, far = self.near.namespace, self.far.namespace
        _call("ip", "link", "add", "cable", "netns", near, "type", "veth", "peer", "name", "cable", "netns", far)
        cards: dict[Side, str] = {}
        for side, address in ((self.near, NEAR), (self.far, FAR)):
            # No neighbour discovery of either kind: its packets are nobody's bytes.
            self._inside(side, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            self._inside(side, "ip", "link", "set", "lo", "up")
            self._inside(side, "ip", "address", "add", f"{address}/30", "dev", "cable")
            self._inside(side, "ip", "link", "set", "cable", "up")
            cards[side] = self._inside(side, "ip", "-o", "link", "show", "cable").split("link/ether ")[1].split()[0]
        for side, address, other in ((self.near, FAR, self.far), (self.far, NEAR, self.near)):
            permanent = ["lladdr", cards[other], "dev", "cable", "nud", "permanent"]
            self._inside(side, "ip", "neighbour", "replace", address, *permanent)

    def _serve_ssh(self) -> subprocess.Popen[bytes]:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
        for key in ("host_key", "user_key"):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / key))
        home = self.directory / "far-home"
        self.forget()
        public = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"{HOST} {public}")
        (self.directory / "sshd_config").write_text(
            f"""\
Port {SSH_PORT}
ListenAddress {FAR}
HostKey {self.directory}/host_key
PidFile none
AuthorizedKeysFile {self.directory}/user_key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
MaxStartups 100
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
SetEnv HOME={home} UNISON={home}/unison XDG_DATA_HOME={home}/data XDG_CACHE_HOME={home}/cache
"""
        )
        sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "sshd"
        return self.serve([sshd, "-D", "-e", "-f", self.directory / "sshd_config"], SSH_PORT)

    def _write_ssh_config(self, address: tuple[str, int]) -> None:
        (self.directory / "ssh_config").write_text(
            f"""\
Host {HOST}
    HostName {address[0]}
    Port {address[1]}
    User {getpass.getuser()}
    HostKeyAlias {HOST}
    IdentityFile {self.directory}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {self.directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    PreferredAuthentications publickey
    BatchMode yes
    Compression no
    ControlMaster no
    ControlPath none
    UpdateHostKeys no
    LogLevel ERROR
"""
        )

    def _start_proxy(self, port: int) -> None:
        latency = f"{self._link.round_trip_ms / 2:g}"
        command = [*PROXY, "--listen", f"127.0.0.1:{port}", "--to", f"{FAR}:{port}", "--latency-ms", latency]
        # In the near machine's network, not among its processes: what the proxy uses is not the subject's.
        inside = ["nsenter", f"--net=/run/netns/{self.near.namespace}", "--", *command]
        path = self.directory / f"proxy-{port}.log"
        with path.open("wb") as log:
            proxy = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._proxies[port] = proxy
        _until(lambda: _listens(proxy.pid, port) or proxy.poll() is not None, "the delaying proxy to listen")
        if proxy.poll() is not None:
            del self._proxies[port]
            raise HarnessError(f"the delaying proxy ended: {path.read_text()[-500:]}")

    def _end_proxies(self) -> None:
        while self._proxies:
            _, proxy = self._proxies.popitem()
            proxy.terminate()
            proxy.wait()

    def _end_servers(self) -> None:
        for server in list(self._servers):
            self.end(server)

    def _inside(self, side: Side, *command: str) -> str:
        return _call("nsenter", f"--net=/run/netns/{side.namespace}", "--", *command)

    def _start(
        self, side: Side, command: Sequence[str | Path], environment: Mapping[str, str] | None, output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            side.command(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
            start_new_session=True,
        )
        side.started(child.pid)
        return child

    def _wait(self, side: Side, child: subprocess.Popen[bytes] | subprocess.Popen[str]) -> int:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        side.ended(child.pid, used.ru_utime + used.ru_stime)
        return child.returncode

    def traffic(self) -> Traffic:
        """Payload so far, as the far machine's end of the cable counts it."""
        card = Path(f"/proc/{self._sshd.pid}/net/dev").read_text()
        columns = card.split("cable:")[1].split("\n", maxsplit=1)[0].split()
        rx_bytes, rx_packets, tx_bytes, tx_packets = (int(columns[n]) for n in (0, 1, 8, 9))
        return Traffic(rx_bytes - HEADER_BYTES * rx_packets, tx_bytes - HEADER_BYTES * tx_packets)

    def protocol(self) -> tuple[int, int]:
        """Connections that were opened over the cable, and segments sent again, by either side."""
        far = _tcp_counters(Path(f"/proc/{self._sshd.pid}/net/snmp").read_text())
        near = _tcp_counters(self._inside(self.near, "cat", "/proc/net/snmp"))
        return far["PassiveOpens"] + far["ActiveOpens"], far["RetransSegs"] + near["RetransSegs"]


class Meter:
    """What is read before and after; `reading` is there once the block has ended."""

    def __init__(self, machines: Machines, settle: Path) -> None:
        self.reading = Reading()
        self._machines = machines
        self._settle = settle
        self._ended: float | None = None
        self._synced_s = 0.0
        self._memory = measure.PeakMemory(machines.near.pids, machines.far.pids)
        self._opened, self._retransmitted = machines.protocol()
        self._traffic = machines.traffic()
        self.sent_before = self._traffic.sent_bytes
        self._cpu = machines.near.cpu_s(), machines.far.cpu_s()
        self._memory.start()
        self._began = time.perf_counter()

    def command_ended(self) -> None:
        """The time ends here, with a `syncfs`; what comes until the end of the block counts for the other meters."""
        before = time.perf_counter()
        measure.sync(self._settle)
        self._ended = time.perf_counter()
        self._synced_s = self._ended - before

    def stop(self) -> None:
        """Called at the end of the block."""
        ended = self._ended or time.perf_counter()
        near_anon, far_anon = self._memory.stop()
        opened, retransmitted = self._machines.protocol()
        traffic = self._machines.traffic()
        connections = opened - self._opened
        self.reading = Reading(
            wall_s=ended - self._began,
            sync_s=self._synced_s,
            sent_bytes=traffic.sent_bytes - self._traffic.sent_bytes - HANDSHAKE_BYTES * connections,
            received_bytes=traffic.received_bytes - self._traffic.received_bytes - HANDSHAKE_BYTES * connections,
            retransmitted_segments=retransmitted - self._retransmitted,
            connections=connections,
            near_cpu_s=self._machines.near.cpu_s() - self._cpu[0],
            far_cpu_s=self._machines.far.cpu_s() - self._cpu[1],
            near_anon_bytes=near_anon,
            far_anon_bytes=far_anon,
        )


PROXY = (sys.executable, "-m", "packetfs.testing.faults")


def play(
    machines: Machines,
    subject: Subject,
    place: Path,
    link: Link,
    old: Callable[[Path], None] | None,
    new: Callable[[Path], None],
    *,
    kill_at: float | None = None,
) -> Reading:
    """One run: `old` makes the state that both sides have (None: a first copy), `new` makes of it what is to arrive.

    `kill_at`: a run before is killed once this share of the source's bytes is sent; the reading is of the run after it.
    Raises WrongCopyError if what arrived is not what was sent: a figure of a wrong copy is no figure.
    """
    with staged(machines, subject, place, link) as scene:
        if old is not None:
            made(scene.source, old, OLD_DAY_NS)
            subject.prepare(scene)
        made(scene.source, new, NEW_DAY_NS)
        if kill_at is not None:
            subject.interrupt(scene, int(kill_at * size(scene.source).bytes))
        reading = subject.run(scene)
        subject.clean(scene)  # before the proxy goes that its connection may lead through
        machines.set_link(Link())
        check(subject, scene)
    return reading


@contextlib.contextmanager
def staged(machines: Machines, subject: Subject, place: Path, link: Link) -> Iterator[Scene]:
    """An empty scene for one subject over that link; what is left of it is ended and removed.

    After an error its files stay for a look, until the next one.
    """
    machines.forget()
    shutil.rmtree(place, ignore_errors=True)
    scene = Scene(machines, place / "source", place / "near", place / "far")
    for directory in (scene.source, scene.near, scene.far):
        directory.mkdir(parents=True)
    # The preparation goes over the same link: a session that is kept keeps the round trip that it was opened over.
    machines.set_link(link)
    try:
        yield scene
    finally:
        subject.clean(scene)
        machines.set_link(Link())
    shutil.rmtree(place)


def check(subject: Subject, scene: Scene) -> None:
    """Raise WrongCopyError if what arrived is not what was sent."""
    if wrong := subject.verify(scene):
        raise WrongCopyError("\n  ".join([f"{subject.name} did not bring what it was given:", *wrong[:10]]))


def made(tree: Path, make: Callable[[Path], None], day_ns: int) -> None:
    """Let `make` work on the tree, then give what it wrote just now times that are the same in each run.

    Times travel, so they must not be the moment's: bytes would change from run to run. And a copy made within the same
    second as its source is one that rsync takes for dated already. They look like real ones (`ticking`): a regular step
    would cost nothing to send.
    """
    began_ns = Path(tempfile.mkdtemp(dir=tree.parent)).stat().st_mtime_ns
    make(tree)
    fresh = [
        path
        for directory, _, names in os.walk(tree)
        for path in (directory, *(os.path.join(directory, name) for name in names))
        if os.lstat(path).st_mtime_ns >= began_ns
    ]
    for path, moment_ns in zip(sorted(fresh), ticking(day_ns, files_per_tick=4), strict=False):
        os.utime(path, ns=(moment_ns, moment_ns), follow_symlinks=False)


def ticking(start_ns: int, *, files_per_tick: int) -> Iterator[int]:
    """Times as a file system gives them to files written one after the other: equal within a tick of the kernel's clock
    (4 ms, a little late each time), some `files_per_tick` of them, now and then a longer wait.
    """
    dice = random.Random(start_ns)
    moment_ns = start_ns
    while True:
        yield moment_ns
        if dice.randrange(files_per_tick) == 0:
            moment_ns += 4_000_000 * dice.choice((1, 1, 1, 1, 2, 3)) + dice.randrange(-9_000, 9_000)


def compared(source: Path, found: Path, forgets: frozenset[str]) -> list[str]:
    """How two trees differ, leaving out the kinds of difference that the subject does not claim to avoid."""
    lines = differences(source, found, limit=sys.maxsize if forgets else 10)
    return [line for line in lines if line.partition(" differs")[0] not in forgets]


def counted_round_trips(reading: Reading, slow: Reading, round_trip_ms: int) -> Reading:
    """`reading`, with the round trips that the same run on a slow link shows: what it took longer, in round trips.

    TCP's own, which ends at the proxy, is added for each connection.
    """
    return replace(reading, round_trips=reading.connections + (slow.wall_s - reading.wall_s) / (round_trip_ms / 1000))


def impossible() -> str:
    """Why two machines cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "two network namespaces need root"
    programs = {
        "ip": "iproute2",
        "tc": "iproute2",
        "nsenter": "util-linux",
        "ssh": "openssh-client",
        "sysctl": "procps",
    }
    absent = [package for name, package in programs.items() if shutil.which(name) is None]
    if shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        absent.append("openssh-server")
    return f"apt-get install {' '.join(sorted(set(absent)))}" if absent else ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload that went over the cable, handshakes' longer headers still in it."""

    sent_bytes: int
    received_bytes: int


def _tcp_counters(snmp: str) -> dict[str, int]:
    names, values = (line.split()[1:] for line in snmp.splitlines() if line.startswith("Tcp:"))
    return dict(zip(names, map(int, values), strict=True))


def _control_group(name: str) -> Path | None:
    """A control group of version 2 of its own, where groups may be made: it knows every process, daemons as well."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if kind == "cgroup2":
            group = Path(mounted) / name
            try:
                group.mkdir()
            except OSError:
                continue
            return group
    return None


def _listens(pid: int, port: int) -> bool:
    return any(state == "0A" and local == port for local, state in _sockets(pid))


def _is_connected(pid: int) -> bool:
    return any(state not in ("0A", "06") for _, state in _sockets(pid))  # neither listening nor waiting for strays


def _sockets(pid: int) -> list[tuple[int, str]]:
    """Local port and state of every TCP socket in the network of that process."""
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        return [(int(row[1].rpartition(":")[2], 16), row[3]) for row in rows]
    return []


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _kill_tree(pid: int) -> None:
    for member in reversed(measure.tree(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + QUIET_WITHIN_S
    while not true():
        if time.monotonic() > deadline:
            raise HarnessError(f"waited {QUIET_WITHIN_S:g} s for {what}")
        threading.Event().wait(0.005)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HarnessError(f"{shlex.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout
