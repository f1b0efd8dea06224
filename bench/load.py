"""Many clients of one server: all at once, and hundreds of small pushes a second beside a thousand idle sessions.

    .venv/bin/python -m bench.load                       # all parts, full counts: some four minutes
    .venv/bin/python -m bench.load --seconds 600         # sustained for ten minutes
    .venv/bin/python -m bench.load --clients 8 --mib 4 --idle 50 --rate 20 --seconds 5

The server is the real command on loopback, over TLS. Clients are sessions of the public API (`packetfs.connect`), some
in each of a few processes, as a thousand processes would measure the start of Python. Their replicas are in memory,
where there is such a place: the disk is the server's.

*At once*: each client pushes noise of its own; beside it one client pushes as much as all of them. *Sustained*: each
push changes one small file and is told as committed; its time begins when it was due, also when the client was late.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Self

import packetfs
from packetfs.errors import ConflictError

BINARY = Path(sys.executable).with_name("packetfs")
WORKERS = 4  # processes that clients are spread over
PUSHERS = 64  # sessions that the sustained pushes take turns on
TRIES = 100  # of a push that others overtake on the same ref
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class AtOnce:
    """Clients that push at once, and one that pushes as much alone."""

    clients: int
    failed: int
    retried: int
    rounds: int
    bytes_per_s: float
    alone_bytes_per_s: float
    """Medians of the rounds; `failed` and `retried` are of all."""

    @property
    def share(self) -> float:
        """Of what one client achieves."""
        return self.bytes_per_s / self.alone_bytes_per_s


@dataclass(frozen=True, slots=True)
class Sustained:
    """Small pushes beside idle sessions."""

    idle: int
    pushes: int
    failed: int
    pushes_per_s: float
    p50_ms: float
    p99_ms: float
    idle_anonymous_mib: float
    """Of the server, when all sessions were open and nothing was pushed yet."""
    anonymous_mib: tuple[float, ...]
    """The same while it was pushed, at equal intervals."""
    server_cpu: float
    """Share of a core."""
    clients_cpu: float
    """The same of those that push, on the same cores."""
    syncs: float | None
    """`fsync` and `fdatasync` of the server a push, where `strace` could count them."""


class Origin:
    """A root with a server, and one machine that may do everything; a context manager."""

    def __init__(self, place: Path, *options: str) -> None:
        self.root = place / "served"
        self.root.mkdir()
        self._place = place
        self._options = options
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self, machine: str) -> dict[str, str]:
        """Of a process on `machine`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PACKETFS_", "XDG_"))}
        return kept | {"HOME": str(self._place), "XDG_DATA_HOME": str(self._place / machine)}

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [BINARY, "serve", "--root", self.root, "--listen", "127.0.0.1:0", "--json", *self._options],
            env=self.environment("server"),
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.url = f"pfs://127.0.0.1:{json.loads(self.process.stdout.readline())['port']}/load"
        invited = self._run("server", "serve", "--root", self.root, "--invite", "--role", "admin", "--json")
        token = next(line["token"] for line in map(json.loads, invited.splitlines()) if "token" in line)
        self._run("client", "pair", "-q", token)
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def anonymous_mib(self) -> float:
        """RssAnon of the server."""
        assert self.process is not None
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def cpu_s(self) -> float:
        """CPU that the server has used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _run(self, machine: str, *arguments: str | Path) -> bytes:
        return subprocess.run(
            [BINARY, *arguments], env=self.environment(machine), stdout=subprocess.PIPE, check=True
        ).stdout


# -- at once -----------------------------------------------------------------------------------------------------------


def at_once(place: Path, clients: int, mib: int, *, one_ref: bool = False, rounds: int = 1) -> AtOnce:
    """`clients` push `mib` MiB of noise each into one volume, each to its own ref or all to one.

    The one and the many take turns, `rounds` times: memory that a virtual machine has not used yet is slower.
    """
    size = clients * mib << 20
    jobs = [(f"c{number}", mib) for number in range(clients)]
    alone, many, failed, retried = [], [], 0, 0
    with Origin(place, "--max-sessions", str(clients + 1)) as origin:
        for number in range(rounds):
            tail = f"-{number + 1}" if number else ""
            with scratch(place) as near:
                alone.append(size / max(spread(origin, near, f"alone{tail}", [("alone", mib * clients)], False)[0]))
            with scratch(place) as near:
                ended, lost, again = spread(origin, near, f"many{tail}", jobs, one_ref)
            many.append(size / max(ended))
            failed, retried = failed + lost, retried + again
    return AtOnce(clients, failed, retried, rounds, statistics.median(many), statistics.median(alone))


def spread(
    origin: Origin, near: Path, name: str, jobs: Sequence[tuple[str, int]], one_ref: bool
) -> tuple[list[float], int, int]:
    """Seconds after the start at which each process was done; what failed, what was tried again."""
    shares = [jobs[number::WORKERS] for number in range(min(WORKERS, len(jobs)))]
    calls = [(push_noise, (near / f"{name}{n}", share, one_ref)) for n, share in enumerate(shares)]
    with workers(origin, calls) as pipes:
        for pipe in pipes:
            pipe.recv()  # all sessions are open
        for pipe in pipes:
            pipe.send(None)
        answers = [pipe.recv() for pipe in pipes]
    return [a[0] for a in answers], sum(a[1] for a in answers), sum(a[2] for a in answers)


def push_noise(pipe: Pipe, url: str, place: Path, jobs: Sequence[tuple[str, int]], one_ref: bool) -> None:
    """In a process: one thread and one session for each job."""
    failed, retried = [], []

    def push(session: Any, name: str, ref: str) -> None:
        for number in range(TRIES):
            try:
                packetfs.push(session, [place / name], ref)
                return
            except ConflictError:
                retried.append(name)
                time.sleep(random.uniform(0, 0.01 * 2 ** min(number, 6)))
            except Exception as error:  # noqa: BLE001 - it is counted, whatever it is
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                break
        failed.append(name)

    with ExitStack() as stack:
        threads = []
        for name, mib in jobs:
            (place / name).mkdir(parents=True)
            with (place / name / "noise").open("wb") as file:
                for _ in range(mib):
                    file.write(os.urandom(1 << 20))
            session = packetfs.connect(f"{url}-{place.name[:-1]}", create=True, replica=str(place / f"{name}.replica"))
            stack.enter_context(session)
            ref = "main" if one_ref else name
            threads.append(threading.Thread(target=push, args=(session, name, ref)))
        pipe.send(None)
        pipe.recv()
        began_s = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send((time.monotonic() - began_s, len(failed), len(retried)))


# -- sustained ---------------------------------------------------------------------------------------------------------


def sustained(place: Path, idle: int, rate: float, seconds: float, *, count_syncs: bool = False) -> Sustained:
    """`rate` small pushes a second for `seconds`, beside `idle` sessions of which half could push."""
    with Origin(place, "--max-sessions", str(idle + 2 * PUSHERS)) as origin, scratch(place) as near:
        subprocess.run(
            [BINARY, "push", "-", "--name", "x", f"{origin.url}:first"],
            env=origin.environment("client") | {"XDG_CACHE_HOME": str(near)},
            input=b"x",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        resting = [
            (rest, (near / f"idle{n}", len(range(idle)[n::WORKERS]))) for n in range(WORKERS) if range(idle)[n::WORKERS]
        ]
        with workers(origin, resting) as idlers:
            for pipe in idlers:
                pipe.recv()
            quiet = origin.anonymous_mib()
            pushing = [
                (push_steadily, (near / f"busy{n}", PUSHERS // WORKERS, rate / WORKERS, seconds))
                for n in range(WORKERS)
            ]
            with workers(origin, pushing) as pipes:
                for pipe in pipes:
                    pipe.recv()
                before_s, began_s, memory = origin.cpu_s(), time.monotonic(), []
                for pipe in pipes:
                    pipe.send(None)
                with syncs_counted(origin) if count_syncs else no_syncs() as syncs:
                    for _ in range(10):
                        time.sleep(seconds / 10)
                        memory.append(origin.anonymous_mib())
                    answers = [pipe.recv() for pipe in pipes]
                lasted_s = time.monotonic() - began_s
                cpu = (origin.cpu_s() - before_s) / lasted_s
            for pipe in idlers:
                pipe.send(None)
    taken = sorted(second for answer in answers for second in answer[0])
    return Sustained(
        idle=idle,
        pushes=len(taken),
        failed=sum(answer[1] for answer in answers),
        pushes_per_s=len(taken) / max(answer[2] for answer in answers),
        p50_ms=statistics.median(taken) * 1000,
        p99_ms=statistics.quantiles(taken, n=100)[98] * 1000,
        idle_anonymous_mib=quiet,
        anonymous_mib=tuple(round(one, 1) for one in memory),
        server_cpu=cpu,
        clients_cpu=sum(answer[3] for answer in answers) / lasted_s,
        syncs=syncs[0] / len(taken) if syncs else None,
    )


def rest(pipe: Pipe, url: str, place: Path, count: int) -> None:
    """In a process: sessions that say nothing until the end."""
    with ExitStack() as stack:
        for number in range(count):
            replica = str(place / f"{number}.replica")
            stack.enter_context(packetfs.connect(url, writes=number % 2 == 0, replica=replica))
        pipe.send(None)
        pipe.recv()


def push_steadily(pipe: Pipe, url: str, place: Path, sessions: int, rate: float, seconds: float) -> None:
    """In a process: pushes that are due at equal intervals, each on the session whose turn it is."""
    taken: list[float] = []
    failed: list[str] = []
    start = threading.Event()
    began_s = 0.0

    def work(session: Any, turn: int) -> None:
        source = place / f"{turn}"
        start.wait()
        for number in range(turn, int(rate * seconds), sessions):
            due_s = began_s + number / rate
            time.sleep(max(0.0, due_s - time.monotonic()))
            (source / "file").write_bytes(b"push %d of %d\n" % (number, turn) * 40)
            try:
                packetfs.push(session, [source], f"{place.name}-{turn}")
            except Exception as error:  # noqa: BLE001 - as above
                failed.append(f"{type(error).__name__}: {error}")
            else:
                taken.append(time.monotonic() - due_s)

    with ExitStack() as stack:
        threads = []
        for turn in range(sessions):
            (place / f"{turn}").mkdir(parents=True)
            (place / f"{turn}" / "file").write_bytes(b"%d" % turn)
            session = stack.enter_context(packetfs.connect(url, replica=str(place / f"{turn}.replica")))
            packetfs.push(session, [place / f"{turn}"], f"{place.name}-{turn}")
            threads.append(threading.Thread(target=work, args=(session, turn)))
            threads[-1].start()
        pipe.send(None)
        pipe.recv()
        began_s, before_s = time.monotonic(), time.process_time()
        start.set()
        for thread in threads:
            thread.join()
        for line in sorted(set(failed))[:5]:
            print(line, file=sys.stderr)
        pipe.send((taken, len(failed), time.monotonic() - began_s, time.process_time() - before_s))


# -- what both need ----------------------------------------------------------------------------------------------------


@contextmanager
def workers(origin: Origin, calls: Sequence[tuple[Callable[..., None], tuple[object, ...]]]) -> Iterator[list[Pipe]]:
    """A process for each call, with a pipe to it; `call(pipe, url, *arguments)`."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for call, arguments in calls:
        here, there = context.Pipe()
        process = context.Process(
            target=begin, args=(call, there, origin.environment("client"), origin.url, arguments), daemon=True
        )
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    try:
        yield pipes
        for process in processes:
            process.join(120)
    finally:
        for process in processes:
            process.kill()


def begin(
    call: Callable[..., None], pipe: Pipe, environment: dict[str, str], url: str, arguments: tuple[object, ...]
) -> None:
    """In a new process."""
    from packetfs.sync.usage import prepare_process

    os.environ.update(environment)
    prepare_process()
    call(pipe, url, *arguments)


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Where clients keep what is theirs."""
    with tempfile.TemporaryDirectory(
        dir=MEMORY if os.access(MEMORY, os.W_OK) else place, prefix="packetfs-load-"
    ) as near:
        yield Path(near)


@contextmanager
def syncs_counted(origin: Origin) -> Iterator[list[int]]:
    """Counts, at the end, how often the server has synced a file meanwhile. It slows the server down."""
    assert origin.process is not None
    counts: list[int] = []
    command = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-p", str(origin.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield counts
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    rows = [line.split() for line in err.splitlines()]
    counts.append(sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync")))


@contextmanager
def no_syncs() -> Iterator[list[int]]:
    """Counts nothing."""
    yield []


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line of JSON for each part."""
    parser = argparse.ArgumentParser(prog="bench.load", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--mib", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="of the clients at once (default: 5)")
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", choices=["at-once", "one-ref", "sustained"])
    parser.add_argument("--syncs", action="store_true", help="count them with strace, which slows the server down")
    parser.add_argument("--place", type=Path)
    options = parser.parse_args(arguments)
    for part in [options.only] if options.only else ["at-once", "one-ref", "sustained"]:
        with tempfile.TemporaryDirectory(dir=options.place, prefix="packetfs-load-") as directory:
            place = Path(directory)
            if part == "sustained":
                seen: AtOnce | Sustained = sustained(
                    place, options.idle, options.rate, options.seconds, count_syncs=options.syncs
                )
            else:
                seen = at_once(place, options.clients, options.mib, one_ref=part == "one-ref", rounds=options.rounds)
            share = {"share": round(seen.share, 2)} if isinstance(seen, AtOnce) else {}
            print(json.dumps({"part": part, **asdict(seen), **share}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
