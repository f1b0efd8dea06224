"""From the save of a file to the far side, a long way off: who watches, and who is called when something was saved.

The engine of bench/watch.py between the two machines of bench/harness.py. A file gets new content by write and rename
over the old one; the time ends when the far side has that content under that name: somebody looks at it all the time.
Who has to be called is called at the moment of the save; `scp` is told which file it is, and lsyncd not to wait.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Self

from bench.cases import Case, cases
from bench.harness import HOST, OLD_DAY_NS, Link, Machines, Reading, Scene, Subject, check, made, staged
from bench.measure import CommandFailedError
from bench.movers.lsyncd import Lsyncd
from bench.movers.mover import Mover
from bench.movers.packetfs_tls import EXPORT, SyncOverTLS
from bench.movers.ssh import Scp
from bench.movers.tar import Tar
from bench.transfer import Run
from bench.trees import size
from bench.watch import Sync

NAME = "a save, 25 ms away"
WATCHING = "packetfs sync --watch, TLS"


def case(saves: int) -> Case:
    """So many saves of one file of a tree; the time is their median."""
    tree = next(case for case in cases() if case.name == "pair: wheel numpy")
    return Case(
        NAME,
        f"one file of numpy 2.2.2, unpacked, is saved {saves} times; the median until the far side has it",
        tree.old,
        lambda _: None,
        (),
        (WATCHING, "tar over TCP", "rsync -a", "rsync -az", "lsyncd", "scp of the file"),
        link=Link(round_trip_ms=25),
        timed=True,
        by=partial(measure, saves=saves),
    )


class Watching(SyncOverTLS):
    """`sync --watch` over TLS, which is connected and waits when the time begins."""

    name = WATCHING
    promise = SyncOverTLS.promise + "; it watches, its connection is open"


class LsyncdAtOnce(Lsyncd):
    """lsyncd, which calls rsync as soon as it hears of a change."""

    name = "lsyncd"
    promise = "watches, and calls rsync -a --delete over ssh for what has changed; told to gather for 0 s instead of 15"
    delay_s = 0
    forgets = frozenset({"directory mtime"})

    def prepare(self, scene: Scene) -> None:
        pass  # it does so itself when it begins


class ScpOfFile(Scp):
    """`scp` of the one file: it knows what has changed."""

    name = "scp of the file"
    promise = Scp.promise + "; is told which file it is"

    def prepare(self, scene: Scene) -> None:
        subprocess.run(["cp", "-aT", scene.source, self.arrived(scene)], check=True)  # so far away scp takes minutes

    def update(self, scene: Scene, saved: Path) -> list[str | Path]:
        """Bring that file, which is named below the source."""
        return ["scp", *scene.machines.ssh[1:], "-pq", scene.source / saved, f"{HOST}:{self.arrived(scene)}/{saved}"]


def subjects() -> list[Subject]:
    """Who is measured here and moves nothing elsewhere."""
    return [Watching(), LsyncdAtOnce(), ScpOfFile()]


def measure(machines: Machines, case: Case, subject: Subject, place: Path, number: int, *, saves: int) -> Run:
    """Bring the tree there, save, compare the trees."""
    assert case.old is not None
    with staged(machines, subject, place / "round", case.link) as scene:
        made(scene.source, case.old, OLD_DAY_NS)
        moved = size(scene.source)
        subject.prepare(scene)
        with _way(scene, subject) as way:
            taken = [way.save(save) for save in range(1, saves + 1)]
        machines.wait_until_quiet()
        subject.clean(scene)
        machines.set_link(Link())
        # Two saves come within a second, and rsync takes a directory for dated already if the second is right.
        check(subject, scene, frozenset({"directory mtime"}))
    reading = Reading(wall_s=statistics.median(taken), notes={"saves_s": taken})
    return Run(case.name, subject.name, number, moved.bytes, moved.files, reading)


def _way(scene: Scene, subject: Subject) -> _Way:
    assert isinstance(subject, Mover)
    if isinstance(subject, Watching):
        return _Watching(scene, subject)
    return _Lsyncd(scene, subject) if isinstance(subject, Lsyncd) else _Called(scene, subject)


class _Way(Sync):
    """One way for a save to the far side; a context manager."""

    def __init__(self, scene: Scene, mover: Mover) -> None:
        super().__init__(scene.source.parent)
        self.there = mover.arrived(scene)
        files = sorted(path for path in scene.source.rglob("*") if path.is_file() and not path.is_symlink())
        self.saved = files[len(files) // 2].relative_to(scene.source)
        self.scene = scene


class _Watching(_Way):
    def __init__(self, scene: Scene, mover: Watching) -> None:
        super().__init__(scene, mover)
        self._environment = mover.environment(scene)
        self.location = f"pfs://{mover.address(scene)}/{EXPORT}:/"

    def started(self, command: list[str]) -> subprocess.Popen[str]:
        return self.scene.machines.converse(command, self._environment)

    def __exit__(self, *_: object) -> None:
        self.scene.machines.end(self.process)


class _Called(_Way):
    def __init__(self, scene: Scene, mover: Mover) -> None:
        super().__init__(scene, mover)
        self._mover = mover

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def save(self, number: int) -> float:
        machines, mover = self.scene.machines, self._mover
        content = self.written(number)
        command = mover.update(self.scene, self.saved) if isinstance(mover, ScpOfFile) else mover.command(self.scene)
        receiver = mover.receive(self.scene) if isinstance(mover, Tar) else None
        began_s = time.perf_counter()
        (self.place / "new").rename(self.source / self.saved)
        process = machines.converse(command, mover.environment(self.scene))
        self.arrived(content)
        taken_s = time.perf_counter() - began_s
        code = machines.wait(process) or (machines.wait(receiver) if receiver else 0)
        if code:
            raise CommandFailedError(f"{mover.name}: exit {code}")
        machines.wait_until_quiet()
        return taken_s


class _Lsyncd(_Way):
    def __init__(self, scene: Scene, mover: Lsyncd) -> None:
        super().__init__(scene, mover)
        self._mover = mover

    def __enter__(self) -> Self:
        self.process = self._mover.started(self.scene, self._mover.command(self.scene))
        return self

    def __exit__(self, *_: object) -> None:
        self.scene.machines.end(self.process)

    def save(self, number: int) -> float:
        self.scene.machines.wait_until_quiet()  # what the last save began
        content = self.written(number)
        began_s = time.perf_counter()
        (self.place / "new").rename(self.source / self.saved)
        self.arrived(content)
        return time.perf_counter() - began_s
