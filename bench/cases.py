"""The rows of the transfer table: what is there, what changes, over which link, and what the figure must be.

Trees are made from pinned packages and seeded generators, so that two machines move the same bytes; only the pages of a
database carry the times at which it wrote them. A case decides nothing: `bench/transfer.py` plays and judges it.
"""

from __future__ import annotations

import glob
import os
import pwd
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import disk_image, parquet
from bench.harness import NEW_DAY_NS, Link, ticking
from bench.packages import DATA, Package, unpack
from bench.pairs import PAIRS, Pair
from bench.workloads import MIB, log_lines

Make = Callable[[Path], None]  # makes or changes the tree at this path
DAY_NS = 1_700_000_000_000_000_000  # any fixed day
SEED = 20_261_124

TREE_STORY = "the unpacked sdist of numpy 2.4.6 beside its wheel 2.2.3"
TREE = (
    Package("numpy", "numpy-2.4.6.tar.gz", "f3a3570c4a2a16746ac2c31a7c7c7b0c186b95ce902e33db6f28094ed7387dda"),
    next(pair.newer for pair in PAIRS if pair.name == "numpy 2.2.2 -> 2.2.3"),
)
SESSION, PUSH, PULL, SSH = "packetfs session", "packetfs push", "packetfs pull", "ssh alone"
SYNC = "packetfs sync"  # for the record: its goals are those of the push in it
PUSH_TLS, PULL_TLS = "packetfs push, TLS", "packetfs pull, TLS"
TLS = (PUSH_TLS, PULL_TLS)
RSYNC = ("rsync -a", "rsync -a -B4096", "rsync -az", "rsync -az -B4096")
TAR_ZSTD = "tar + zstd -3 over TCP"
STORES = ("restic", "borg", "casync")  # fill a repository or a store at the far side
PATCH, PATCH_PLAIN = "zstd --patch-from", "zstd --patch-from, plain tar"


@dataclass(frozen=True, slots=True)
class Goal:
    """What must be true of one figure. The figure of every subject of `ours` is judged, and the worst decides."""

    ours: tuple[str, ...]
    figure: str  # an attribute of Reading
    at_most: float  # bytes, seconds or round trips; or a factor, if one of the next is given
    beside: tuple[str, ...] = ()  # times the smallest of these subjects' figures
    of_source: bool = False  # times the bytes of the source
    over: str = ""  # after taking off what this case showed for the same subject
    net_of_ssh: bool = False  # after taking off what ssh alone takes, for who opens a connection


@dataclass(frozen=True, slots=True)
class Case:
    """One row. `old` is None for a first copy; `new` turns the old tree into what is to arrive."""

    name: str
    story: str
    old: Make | None
    new: Make
    goals: tuple[Goal, ...]
    subjects: tuple[str, ...]
    link: Link = field(default_factory=Link)
    timed: bool = False  # medians of several rounds; otherwise one, for bytes are exact
    probe_ms: int = 0  # a second run at this round trip tells how many round trips there were
    killed_at: float = 0.0  # of the source's bytes; the measured run is the one after
    full: bool = False  # takes so long or so much disk that it is run on request only
    pair: bool = False  # one of the version pairs, which have a median goal together
    here: bool = False  # needs one machine only
    by: Callable[..., Any] | None = None  # measures one run in the place of `transfer.measure_case`
    missing: Callable[[], str] = str  # what its data are made with and is not here, with how to get it; empty: nothing


def cases() -> list[Case]:
    """All rows, in the order of the table."""
    changes = [*_small_changes(), *_large_file(), *_version_pairs(), _replaced(), _many_files()]
    return [*changes, *_first_copies(), *_far_away(), *_memory(), _killed()]


# The rows


def _small_changes() -> list[Case]:
    peers = (*RSYNC, "unison", "rclone", *STORES)
    everyone = (SESSION, PUSH, PULL, SYNC, *TLS, SSH, *peers)
    warm = (SESSION,)

    def budget(limit: float, over: str = "") -> tuple[Goal, ...]:
        if over:
            return (Goal((SESSION, PUSH, PULL), "wire_bytes", limit, over=over),)
        return (Goal((SESSION, PUSH, PULL), "wire_bytes", limit, net_of_ssh=True),)

    return [
        Case(
            "no-op",
            "nothing has changed",
            _tree,
            _nothing,
            (Goal(warm, "wire_bytes", 200), Goal(warm, "round_trips", 1)),
            everyone,
        ),
        Case(
            "no-op over cold ssh",
            "nothing has changed; net of what ssh alone takes",
            _tree,
            _nothing,
            (
                Goal((PUSH, PULL), "wire_bytes", 1_000, net_of_ssh=True),
                Goal((PUSH, PULL), "round_trips", 2.5, net_of_ssh=True),  # counted by time: half a one is noise
            ),
            (PUSH, PULL, SYNC, SSH, "rsync -a", "unison"),
            probe_ms=400,  # a noisy half second is then one round trip
        ),
        Case(
            "no-op over cold TLS",
            "nothing has changed; a new connection, everything that TCP and TLS say and wait for included",
            _tree,
            _nothing,
            (Goal(TLS, "wire_bytes", 4_000), Goal(TLS, "round_trips", 3.5)),  # counted by time: half a one is noise
            (*TLS, SSH, "rsync -a", "rsync -a daemon", "unison"),
            probe_ms=400,
        ),
        Case("90 files", "28 random bytes appended to each of 90 files", _tree, _edit_90, budget(8_000), everyone),
        Case(
            "directory renamed",
            "the largest directory below the top that has at least 1,000 files",
            _tree,
            _rename_directory,
            budget(300, over="no-op"),
            everyone,
        ),
        Case("touch", "every file gets a new time", _tree, _touch, budget(50_000), everyone),
    ]


def _large_file() -> list[Case]:
    subjects = (SESSION, PUSH, PULL, *TLS, SSH, *RSYNC)
    all_ours = (SESSION, PUSH, PULL)
    name = "256 MiB"
    return [
        Case(
            f"{name}, no-op",
            "one incompressible file",
            _noise_256,
            _nothing,
            (),
            (*all_ours, SSH),
        ),
        Case(
            f"{name}, 100 x 16 B",
            "16 random bytes overwritten in 100 places of one incompressible file",
            _noise_256,
            _overwrite,
            (Goal(all_ours, "wire_bytes", 5_000, net_of_ssh=True),),
            subjects,
        ),
        Case(
            f"{name}, 1 B inserted",
            "one byte inserted at its front",
            _noise_256,
            _insert_byte,
            (Goal(all_ours, "wire_bytes", 1_000, net_of_ssh=True),),
            subjects,
        ),
        Case(
            f"{name}, renamed",
            "the file gets another name",
            _noise_256,
            _rename_file,
            (Goal(all_ours, "wire_bytes", 300, over=f"{name}, no-op"),),
            subjects,
        ),
    ]


def _version_pairs() -> list[Case]:
    names = {pair.name: pair for pair in PAIRS}

    def releases(*wanted: str, installed: bool = True) -> tuple[Make, Make]:
        chosen = [names[name] for name in wanted]
        make = partial(_releases, chosen, installed=installed)
        return partial(make, newer=False), partial(make, newer=True)

    rows: list[tuple[str, str, tuple[Make, Make]]] = [
        ("wheel numpy", "numpy 2.2.2 -> 2.2.3, unpacked", releases("numpy 2.2.2 -> 2.2.3")),
        ("wheel scipy", "scipy 1.15.1 -> 1.15.2, unpacked", releases("scipy 1.15.1 -> 1.15.2")),
        ("sdist django", "django 5.2.18 -> 5.2.19", releases("django 5.2.18 -> 5.2.19", installed=False)),
        ("sdist salt", "salt 3008.4 -> 3008.5", releases("salt 3008.4 -> 3008.5", installed=False)),
        (
            "node_modules",
            "typescript 5.7.2 -> 5.7.3, react-dom 19.0.0 -> 19.1.0, next 15.1.6 -> 15.1.7",
            releases("typescript 5.7.2 -> 5.7.3", "react-dom 19.0.0 -> 19.1.0", "next 15.1.6 -> 15.1.7"),
        ),
        (
            "crates",
            "six vendored crates, each to its next release",
            releases(*(pair.name for pair in PAIRS if pair.newer.filename.endswith(".crate"))),
        ),
        ("database pages", "PostgreSQL's base/ before and after pgbench", (partial(_pages, 0), partial(_pages, 1))),
        ("float32 rows", "64 MiB of 4,000-byte float32 rows, every tenth replaced", (_floats, _floats_changed)),
        ("insert", "1 KiB inserted into 128 MiB of log lines at 10 %", (partial(_log, 128), _log_insert)),
        ("append", "1 % appended to 128 MiB of log lines", (partial(_log, 128), _log_append)),
        (
            "parquet",
            "a table of a million rows in zstd-compressed Parquet; 1 % updated in its middle, 2 % appended",
            (partial(_table, 0), partial(_table, 1)),
        ),
        (
            "disk image",
            "an ext4 image of 768 MiB with a small Debian 12 server, before and after apt upgraded it in place",
            (partial(_disk_image, 0), partial(_disk_image, 1)),
        ),
    ]
    missing = {
        "database pages": no_postgresql,
        "parquet": parquet.missing,
        "disk image": disk_image.missing,
    }
    ours = (SESSION, PUSH, PULL)
    goal = Goal(ours, "wire_bytes", 1.02, beside=(PATCH,), net_of_ssh=True)  # a patch has no channel either
    peers = (TAR_ZSTD, "rsync -az", "rsync -az -B4096", "rclone", *STORES)
    subjects = (*ours, SSH, *peers, PATCH, PATCH_PLAIN, "xdelta3")
    return [
        Case(f"pair: {name}", story, old, new, (goal,), subjects, pair=True, missing=missing.get(name, str))
        for name, story, (old, new) in rows
    ]


def _replaced() -> Case:
    return Case(
        "256 MiB, replaced",
        "one incompressible file, and then another of the same length and name: nothing can be saved",
        _noise_256,
        _replace_noise,
        (Goal((SESSION, PUSH, PULL), "wire_bytes", 1.003, of_source=True),),
        (SESSION, PUSH, PULL, SYNC, *TLS, SSH, TAR_ZSTD, "rsync -a", "rsync -az", "rclone", *STORES),
    )


def _many_files() -> Case:
    return Case(
        "100,000 files",
        "100,000 files of 100 to 1,000 random bytes; 1 % get others, 200 are new, 200 are gone",
        _hundred_thousand,
        _edit_hundred_thousand,
        (),
        (SESSION, PUSH, PULL, SYNC, *TLS, SSH, TAR_ZSTD, *RSYNC, "unison", *STORES),  # rclone was not tried
        full=True,
    )


def _first_copies() -> list[Case]:
    gigabit = Link(mbit_per_s=1_000)
    both = (PUSH, PULL)
    peers = ("rsync -a", "rsync -az", "rsync -a daemon", "scp", "unison", "rclone", *STORES)
    return [
        Case(
            "first copy of the tree",
            TREE_STORY,
            None,
            _tree,
            (Goal(both, "wire_bytes", 0.77, beside=("rsync -az",)),),
            (SESSION, *both, SYNC, *TLS, TAR_ZSTD, *peers, PATCH),
        ),
        Case(
            "first copy of a bundle",
            "next 15.1.7 from npm: many of its files repeat what others hold, as in a tree of several versions",
            None,
            _bundle,
            (Goal(both, "wire_bytes", 0.77, beside=("rsync -az",)),),
            (SESSION, *both, TAR_ZSTD, "rsync -a", "rsync -az", *STORES, PATCH),
        ),
        Case(
            "first copy of 1 GiB",
            "one incompressible file",
            None,
            partial(_noise, 1024),
            (
                Goal(both, "wire_bytes", 1.003, of_source=True),
                Goal(both, "wall_s", 1.0, beside=("rsync -a",)),
                Goal(both, "cpu_s", 1.3, beside=("scp",)),
            ),
            (*both, *TLS, "rsync -a", "scp"),
            link=gigabit,
            timed=True,
        ),
    ]


def _far_away() -> list[Case]:
    far = Link(round_trip_ms=100)
    story = "web-sys 0.3.77, 1,664 files"
    peers = ("rsync -a", "rsync -az", "unison", "rclone", *STORES)
    return [
        Case(
            "100 ms, no-op",
            story,
            _files_1664,
            _nothing,
            (Goal((SESSION,), "wall_s", 0.15),),
            (SESSION, PUSH, PULL, SYNC, *TLS, *peers),
            link=far,
            timed=True,
        ),
        Case(
            "100 ms, first copy",
            story,
            None,
            _files_1664,
            (Goal((PUSH, PULL), "wall_s", 1.0, beside=("rsync -a", "rsync -az")),),
            (PUSH, PULL, SYNC, *TLS, *peers),
            link=far,
            timed=True,
        ),
    ]


def _memory() -> list[Case]:
    goal = Goal((PUSH, PULL), "anon_bytes", 96 * MIB)
    subjects = (PUSH, PULL, "rsync -a")
    return [
        Case("memory, 4 GiB", "one incompressible file", None, partial(_noise, 4096), (goal,), subjects, full=True),
        Case("memory, 10^6 files", "a million files of 100 bytes", None, _million, (goal,), subjects, full=True),
    ]


def _killed() -> Case:
    return Case(
        "killed at 60 %",
        "256 MiB incompressible, first copy killed with SIGKILL once 60 % are sent; the figure is of the run after",
        None,
        _noise_256,
        (Goal((PUSH,), "sent_bytes", 0.45, of_source=True),),
        (PUSH, PUSH_TLS, "rsync -a", "rsync -a --partial"),
        link=Link(mbit_per_s=1_000),
        killed_at=0.6,
    )


# The trees


def _tree(place: Path) -> None:
    for package in TREE:
        _copy(unpack(package, DATA / "trees"), place / package.project / package.stem)


def _bundle(place: Path) -> None:
    pair = next(pair for pair in PAIRS if pair.name == "next 15.1.6 -> 15.1.7")
    _copy(pair.trees()[1], place)


def _files_1664(place: Path) -> None:
    pair = next(pair for pair in PAIRS if pair.name == "web-sys 0.3.76 -> 0.3.77")
    _copy(pair.trees()[1], place)


def _releases(pairs: list[Pair], place: Path, *, newer: bool, installed: bool) -> None:
    """One release of each, with the archive's times; or as an installer leaves it, which dates everything anew.

    npm and crates.io date all files of all releases alike, and rsync would not notice a change that kept the size.
    """
    # At the same path before and after: the directory's name does not say the version.
    _emptied(place)
    for pair in pairs:
        tree = place / pair.name.split()[0]
        _copy(pair.trees()[newer], tree)
        if installed:
            for path in [tree, *tree.rglob("*")]:
                os.utime(path, follow_symlinks=False)


def _noise_256(place: Path) -> None:
    _noise(256, place)


def _noise(mib: int, place: Path) -> None:
    kept = DATA / "generated" / f"noise-{mib}.bin"

    def write(path: Path) -> None:
        dice = random.Random(SEED)
        with path.open("wb") as file:
            for _ in range(mib):
                file.write(dice.randbytes(MIB))

    _copy(_generated(kept, write), place / "noise.bin")


def _floats(place: Path) -> None:
    _floats_of(place, every_changed=0)


def _floats_changed(place: Path) -> None:
    _floats_of(place, every_changed=10)


def _floats_of(place: Path, every_changed: int) -> None:
    # Weights: three bytes of noise, one of sign and exponent that takes few values.
    exponents = bytes((0x3C, 0x3D, 0x3D, 0xBC, 0xBD, 0xBD, 0x3E, 0xBE)[value & 7] for value in range(256))
    dice, other = random.Random(SEED), random.Random(SEED + 1)
    length, rows = 4_000, 64 * MIB // 4_000
    with (place / "weights.f32").open("wb") as file:
        for _ in range(rows):
            row = dice.randbytes(length)
            if every_changed and other.randrange(every_changed) == 0:
                row = other.randbytes(length)
            values = bytearray(row)
            values[3::4] = values[3::4].translate(exponents)
            file.write(values)


def _log(mib: int, place: Path) -> None:
    def write(path: Path) -> None:
        dice = random.Random(SEED)
        with path.open("wb") as file:
            while file.tell() < mib * MIB:
                file.write(log_lines(dice))
            file.truncate(mib * MIB)

    _copy(_generated(DATA / "generated" / f"log-{mib}.log", write), place / "service.log")


def _table(state: int, place: Path) -> None:
    """A table before (0) and after (1) a day's changes; a program that saves it writes the whole file anew."""
    kept = _generated(DATA / "generated" / f"orders-{state}.parquet", partial(parquet.write, changed=bool(state)))
    _copy(kept, place / "orders.parquet")
    (place / "orders.parquet").touch()


def _disk_image(state: int, place: Path) -> None:
    """A server's disk before (0) and after (1) its upgrade."""
    kept = DATA / "generated" / "disk-image"
    if not kept.exists():
        unfinished = kept.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        disk_image.make(unfinished)
        unfinished.rename(kept)
    _copy(kept / ("before.img", "after.img")[state], place / "disk.img")
    (place / "disk.img").touch()


def _million(place: Path) -> None:
    dice = random.Random(SEED)
    for outer in range(1_000):
        directory = place / f"{outer:03d}"
        directory.mkdir()
        for inner in range(1_000):
            (directory / f"{inner:03d}").write_bytes(dice.randbytes(100))


def _hundred_thousand(place: Path) -> None:
    _small_noise(place, directories=100, files_each=1_000)


def _small_noise(place: Path, *, directories: int, files_each: int) -> None:
    dice = random.Random(SEED)
    for outer in range(directories):
        directory = place / f"{outer:03d}"
        directory.mkdir()
        for inner in range(files_each):
            (directory / f"{inner:04d}").write_bytes(dice.randbytes(dice.randint(100, 1_000)))


def _edit_hundred_thousand(place: Path) -> None:
    edit_small_files(place, changed=1_000, added=200, removed=200)


def _pages(state: int, place: Path) -> None:
    """The data files of a small database, before (0) and after (1) two thousand transactions."""
    _emptied(place)
    _copy(_databases() / "pages" / str(state), place)


def database_dump(state: int, place: Path) -> None:
    """The same database as `pg_dump` writes it, before (0) and after (1)."""
    _copy(_databases() / f"dump-{state}.sql", place / "bench.sql")


def _databases() -> Path:
    kept = DATA / "generated" / "database"
    if not (kept / "dump-1.sql").exists():
        shutil.rmtree(kept, ignore_errors=True)
        _run_pgbench(kept)
    return kept


def no_postgresql() -> str:
    """Why there can be no database here; empty if there can."""
    return "" if _postgresql() else "not installed: apt-get install postgresql"


def _postgresql() -> list[str]:
    return sorted(glob.glob("/usr/lib/postgresql/*/bin"))


def _run_pgbench(kept: Path) -> None:
    tools = Path(_postgresql()[-1])
    owner = pwd.getpwnam("postgres")
    as_owner = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    with tempfile.TemporaryDirectory(prefix="packetfs-pages-") as scratch:
        os.chown(scratch, owner.pw_uid, owner.pw_gid)
        data = f"{scratch}/data"

        def tool(*command: str) -> None:
            # No shared library is asked for a locale: the pages must not depend on the desk.
            whole = [*as_owner, str(tools / command[0]), *command[1:]]
            done = subprocess.run(whole, cwd=scratch, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(whole)}: {done.stderr[-500:]}")

        def server(act: str) -> None:
            settings = f"-c listen_addresses='' -c unix_socket_directories={scratch} -c fsync=off -c autovacuum=off"
            tool("pg_ctl", "-D", data, "-w", "-l", f"{scratch}/log", "-o", settings, act)

        tool("initdb", "-D", data, "--no-locale", "--encoding=UTF8", "--no-sync", "-A", "trust")
        server("start")
        tool("createdb", "-h", scratch, "bench")

        def dump(state: int) -> None:
            tool("pg_dump", "-h", scratch, "-f", f"{scratch}/{state}.sql", "bench")
            _copy(Path(scratch, f"{state}.sql"), kept / f"dump-{state}.sql")

        tool("pgbench", "-h", scratch, "-i", "-q", "-s", "10", "bench")
        dump(0)
        server("stop")
        _copy(Path(data, "base"), kept / "pages/0")
        server("start")
        tool("pgbench", "-h", scratch, "-n", "-t", "2000", f"--random-seed={SEED}", "bench")
        server("stop")
        _copy(Path(data, "base"), kept / "pages/1")
        server("start")
        dump(1)  # after the pages: who reads them may mark them
        server("stop")


# The changes


def _nothing(place: Path) -> None:
    pass


def _edit_90(place: Path) -> None:
    files = _files(place)
    dice = random.Random(SEED)
    for number in range(90):
        path = files[number * len(files) // 90]
        os.chmod(path, os.stat(path).st_mode | 0o200)
        with open(path, "ab") as file:
            file.write(dice.randbytes(28))


def _rename_directory(place: Path) -> None:
    """Rename the largest directory that has at least 1,000 files beneath it, and none of its children has."""
    counts: dict[str, int] = {}
    for path in _files(place):
        for parent in Path(path).relative_to(place).parents:
            counts[str(parent)] = counts.get(str(parent), 0) + 1
    large = {path: count for path, count in counts.items() if count >= 1_000 and path != "."}
    leaves = [path for path in large if not any(other.startswith(f"{path}/") for other in large)]
    chosen = place / max(leaves, key=lambda path: (large[path], path))
    chosen.rename(chosen.with_name(f"{chosen.name}-renamed"))


def _touch(place: Path) -> None:
    """What `find -exec touch {} +` does: a few dozen times, in the order in which directories list their files."""
    dice = random.Random(SEED)
    listed = sorted(_files(place), key=lambda path: (os.path.dirname(path), dice.random()))
    for path, moment in zip(listed, ticking(NEW_DAY_NS, files_per_tick=200), strict=False):
        os.utime(path, ns=(moment, moment))


def _overwrite(place: Path) -> None:
    path = place / "noise.bin"
    dice = random.Random(SEED + 2)
    with path.open("r+b") as file:
        for _ in range(100):
            file.seek(dice.randrange(path.stat().st_size - 16))
            file.write(dice.randbytes(16))


def edit_small_files(place: Path, *, changed: int, added: int, removed: int) -> None:
    """Give some files other bytes of the same length, remove others, and put new ones beside what is there."""
    dice = random.Random(SEED + 5)
    files = _files(place)
    chosen = dice.sample(files, changed + removed)
    for path in chosen[:changed]:
        Path(path).write_bytes(dice.randbytes(os.path.getsize(path)))
    for path in chosen[changed:]:
        os.unlink(path)
    for number, path in enumerate(dice.sample(files, added)):
        Path(path).with_name(f"new-{number:04d}").write_bytes(dice.randbytes(dice.randint(100, 1_000)))


def _replace_noise(place: Path) -> None:
    _replace_with_noise(place / "noise.bin")


def _replace_with_noise(path: Path) -> None:
    """As a program saves that writes anew: the same name and length, no byte in its place."""
    dice = random.Random(SEED + 6)
    left = path.stat().st_size
    with path.open("wb") as file:
        while left:
            left -= file.write(dice.randbytes(min(left, MIB)))


def _insert_byte(place: Path) -> None:
    path = place / "noise.bin"
    path.write_bytes(b"\x01" + path.read_bytes())


def _rename_file(place: Path) -> None:
    (place / "noise.bin").rename(place / "renamed.bin")


def _log_insert(place: Path) -> None:
    path = place / "service.log"
    content = path.read_bytes()
    at = len(content) // 10
    path.write_bytes(content[:at] + random.Random(SEED + 3).randbytes(1024) + content[at:])


def _log_append(place: Path) -> None:
    path = place / "service.log"
    dice = random.Random(SEED + 4)
    with path.open("ab") as file:
        added = bytearray()
        while len(added) < path.stat().st_size // 100:
            added += log_lines(dice)
        file.write(added[: path.stat().st_size // 100])


# The tools


def _files(place: Path) -> list[str]:
    found = [os.path.join(directory, name) for directory, _, names in os.walk(place) for name in names]
    return sorted(path for path in found if not os.path.islink(path))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        subprocess.run(["cp", "-a", "-T", source, target], check=True)
    else:
        subprocess.run(["cp", "-p", source, target], check=True)


def _emptied(place: Path) -> None:
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _generated(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        write(unfinished)
        os.utime(unfinished, ns=(DAY_NS, DAY_NS))
        unfinished.replace(path)
    return path
