"""Reading what a volume on this machine holds: 4 KiB by name and by address, and much of it through the map.

One process, no network, everything in the page cache. A view (`packetfs.open(...).space.view`) is the mapped segment
itself: to ask for one checks each of its chunks against its digest, every time; to hold one and read it again does not.
Beside it the same bytes in a plain file, and in plain memory.
"""

from __future__ import annotations

import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from platform import python_version

import packetfs
from bench.cases import SEED, Case
from bench.harness import Machines, Reading, Subject, WrongCopyError
from bench.movers.mover import Mover
from bench.transfer import Run
from bench.workloads import MIB

PIECE, WHOLE = "4 KiB of a file", "128 MiB through the map"
PIECE_BYTES, FILES, WHOLE_BYTES = 4096, 2_000, 128 * MIB
BY_NAME, BY_ADDRESS, OPEN, MEMORY = "packetfs, by name", "packetfs, by address", "open, pread, close", "memcpy"
HELD, ASKED = "packetfs, a view that is held", "packetfs, a view asked for anew"
READ, MAPPED = "read of a file", "mmap of a file"

Extents = Sequence[tuple[int, int]]
Ways = dict[str, Callable[[int], object]]


def cases() -> list[Case]:
    """Both cases."""

    def local(name: str, story: str, subjects: tuple[str, ...]) -> Case:
        return Case(name, story, None, lambda _: None, (), subjects, timed=True, here=True, by=measure)

    return [
        local(
            PIECE,
            f"{FILES:,} files of 4 KiB, each read whole into memory, in an order of chance; the median of them",
            (BY_NAME, BY_ADDRESS, OPEN, MEMORY),
        ),
        local(
            WHOLE,
            "one incompressible file of 128 MiB, copied into memory that is there already",
            (HELD, ASKED, READ, MAPPED, MEMORY),
        ),
    ]


class Here(Mover):
    """A way to read that is a few lines of this file."""

    def __init__(self, name: str, promise: str) -> None:
        self.name = name
        self.promise = promise

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"packetfs {packetfs.__version__}" if self.name.startswith("packetfs") else f"Python {python_version()}"


def subjects() -> list[Subject]:
    """Who is measured here and moves nothing elsewhere."""
    return [
        Here(BY_NAME, "finds the entry, its extent, asks for the view: the chunk is checked; reads"),
        Here(BY_ADDRESS, "asks for the view at an address it knows: the chunk is checked; reads"),
        Here(HELD, "reads through views that it has asked for before"),
        Here(ASKED, "asks for every view again: every chunk is checked"),
        Here(OPEN, "a plain file in the page cache; checks nothing"),
        Here(READ, "a plain file in the page cache, opened once; checks nothing"),
        Here(MAPPED, "a plain file in the page cache, mapped once; checks nothing"),
        Here(MEMORY, "the same bytes in memory, into the same target"),
    ]


def measure(_: Machines | None, case: Case, subject: Subject, place: Path, number: int) -> Run:
    """One round of one way. Raises WrongCopyError if what was read is not what was written."""
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        count, length = (FILES, PIECE_BYTES) if case.name == PIECE else (1, WHOLE_BYTES)
        read = _Reads(scratch, stack, count, length).ways()[subject.name]
        order = random.Random(SEED + number).sample(range(count), count)
        passes = 2 if count > 1 else 10
        taken = [_timed(read, file) for _pass in range(passes) for file in order][count:]  # the first warms
    return Run(case.name, subject.name, number, length, 1, Reading(wall_s=statistics.median(taken)))


def _timed(read: Callable[[int], object], file: int) -> float:
    began_s = time.perf_counter()
    read(file)
    return time.perf_counter() - began_s


class _Reads:
    """Some files of equal length: plain, in a volume, and in memory."""

    def __init__(self, scratch: Path, stack: ExitStack, count: int, length: int) -> None:
        dice = random.Random(SEED)
        tree = scratch / "tree"
        tree.mkdir()
        self.paths = [tree / f"{number:04}" for number in range(count)]
        self.memory = [dice.randbytes(length) for _ in range(count)]
        for path, content in zip(self.paths, self.memory, strict=True):
            path.write_bytes(content)
        self.target = memoryview(bytearray(length))
        self.volume = stack.enter_context(packetfs.open(scratch / "volume", create=True))
        packetfs.push(self.volume, [tree], "main")
        self.snapshot = self.volume.resolve("main")
        self.names = [os.fsencode(path.name) for path in self.paths]
        self.extents: list[Extents] = [self._extents(name) for name in self.names]
        self.views = [[self.volume.space.view(*extent) for extent in extents] for extents in self.extents]
        stack.callback(self.views.clear)
        self._maps: dict[int, mmap.mmap] = {}
        self._check()

    def ways(self) -> Ways:
        """Every way to bring file number so-and-so into the target."""
        return {
            BY_NAME: lambda number: self._gather(self._extents(self.names[number])),
            BY_ADDRESS: lambda number: self._gather(self.extents[number]),
            ASKED: lambda number: self._gather(self.extents[number]),
            HELD: self._through_views,
            OPEN: self._open,
            READ: self._open,
            MAPPED: self._mapped,
            MEMORY: self._copy,
        }

    def _extents(self, name: bytes) -> Extents:
        return self.volume.space.extents(self.volume.entry(self.snapshot, name))

    def _gather(self, extents: Extents) -> None:
        at = 0
        for address, length in extents:
            self.target[at : at + length] = self.volume.space.view(address, length)
            at += length

    def _through_views(self, number: int) -> None:
        at = 0
        for view in self.views[number]:
            self.target[at : at + len(view)] = view
            at += len(view)

    def _open(self, number: int) -> None:
        handle = os.open(self.paths[number], os.O_RDONLY)
        try:
            at = 0
            while count := os.preadv(handle, [self.target[at:]], at):
                at += count
        finally:
            os.close(handle)

    def _mapped(self, number: int) -> None:
        if number not in self._maps:
            with self.paths[number].open("rb") as file:
                self._maps[number] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.target[:] = memoryview(self._maps[number])

    def _copy(self, number: int) -> None:
        self.target[:] = self.memory[number]

    def _check(self) -> None:
        for name, read in self.ways().items():
            self.target[:] = bytes(len(self.target))
            read(len(self.paths) - 1)
            if self.target != self.memory[-1]:
                raise WrongCopyError(f"{name} did not read what was written")
