"""What is measured on: a tree of real small files and a set of large ones, each with a 1 % change that can be undone.

Everything is deterministic: real files come from pinned packages, the rest from seeded generators, so that two runs on
two machines move the same bytes.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.packages import Package, unpack

MIB = 1 << 20
LARGE_FILES = 8
TREE_PACKAGES = (
    Package("ansible", "ansible-12.3.0.tar.gz", "02721f6fb432ddd47f1044ac49b04b5e9ae08890bd427def8df3db1607aeec51"),
    Package("numpy", "numpy-2.4.6.tar.gz", "f3a3570c4a2a16746ac2c31a7c7c7b0c186b95ce902e33db6f28094ed7387dda"),
)
CHANGE_SEED = 20_261_122


class Workload(Protocol):
    """A source tree, and a change of 1 % of it."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def story(self) -> str:
        """What it is made of and what its change is."""

    @property
    def traced(self) -> bool:
        """Whether system calls per file mean something for it."""

    def prepare(self, place: Path) -> Path:
        """Make the source beneath `place` if it is not there; its path."""

    def change(self, source: Path) -> None:
        """Change 1 %."""

    def restore(self, source: Path) -> None:
        """Undo `change`, times included."""


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """Unpacked releases of large projects; the change appends a line to every hundredth file."""

    name: str = "small files"
    story: str = "the unpacked sdists of ansible 12.3.0 and numpy 2.4.6; 1 % = a line appended to every hundredth file"
    traced: bool = True

    def prepare(self, place: Path) -> Path:
        """Unpack the packages side by side."""
        source = place / "small-files"
        for package in TREE_PACKAGES:
            unpack(package, source)
        return source

    def change(self, source: Path) -> None:
        """Append a line to every hundredth regular file, in order of path."""
        for number, path in enumerate(_every_hundredth(source)):
            path.chmod(path.stat().st_mode | 0o200)
            with path.open("ab") as file:
                file.write(_added_line(number))

    def restore(self, source: Path) -> None:
        """Cut the appended lines off and give the files their day back."""
        for number, path in enumerate(_every_hundredth(source)):
            status = path.stat()
            os.truncate(path, status.st_size - len(_added_line(number)))
            # An sdist says whole seconds; any fixed day will do, for every subject sees the same one.
            os.utime(path, ns=(status.st_atime_ns, 1_700_000_000_000_000_000))


@dataclass(frozen=True, slots=True)
class LargeFiles:
    """Eight large files, half noise (media, weights), half text (logs); the change overwrites 1 % of each."""

    mib: int = 1024
    name: str = "large files"
    story: str = (
        "eight equal files, seeded: four of incompressible noise, four of log lines; "
        "1 % = one run of bytes in the middle of each file overwritten with noise"
    )
    traced: bool = False

    def prepare(self, place: Path) -> Path:
        """Write the files, unless they are there."""
        source = place / f"large-files-{self.mib}"
        if not source.exists():
            unfinished = source.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            for number in range(LARGE_FILES):
                _write_large(unfinished / _large_name(number), number, self.mib * MIB // LARGE_FILES)
            unfinished.rename(source)
        return source

    def change(self, source: Path) -> None:
        """Overwrite the middle 1 % of each file."""
        for number in range(LARGE_FILES):
            path = source / _large_name(number)
            offset, length = _middle(path)
            saved = _saved(source, number)
            with path.open("r+b") as file:
                file.seek(offset)
                saved.write_bytes(file.read(length))
                file.seek(offset)
                file.write(random.Random(CHANGE_SEED + number).randbytes(length))

    def restore(self, source: Path) -> None:
        """Put the old bytes and times back."""
        for number in range(LARGE_FILES):
            path = source / _large_name(number)
            offset, _ = _middle(path)
            saved = _saved(source, number)
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(saved.read_bytes())
            saved.unlink()
            os.utime(path, ns=(0, 1_700_000_000_000_000_000))


def _every_hundredth(source: Path) -> list[Path]:
    files = sorted(
        Path(directory, name)
        for directory, _, names in os.walk(source)
        for name in names
        if not os.path.islink(os.path.join(directory, name))
    )
    return files[::100]


def _added_line(number: int) -> bytes:
    return b"# changed line %06d\n" % number


def _large_name(number: int) -> str:
    return f"noise-{number}.bin" if number < LARGE_FILES // 2 else f"service-{number}.log"


def _middle(path: Path) -> tuple[int, int]:
    length = path.stat().st_size
    return length // 2, length // 100


def _saved(source: Path, number: int) -> Path:
    # Beside the source, not in it: a subject must not see it.
    return source.with_name(f"{source.name}-saved-{number}")


def _write_large(path: Path, number: int, length: int) -> None:
    dice = random.Random(number)
    with path.open("wb") as file:
        while (left := length - file.tell()) > 0:
            piece = dice.randbytes(MIB) if number < LARGE_FILES // 2 else log_lines(dice)
            file.write(piece[:left])


def log_lines(dice: random.Random) -> bytes:
    """Some ten thousand lines as a web service writes them: fixed words, numbers that never repeat in order."""
    paths = ("/api/v1/items", "/api/v1/orders", "/health", "/static/app.js", "/login", "/search?q=")
    clock = dice.randrange(10**9)
    lines = []
    for _ in range(10_000):
        clock += dice.randrange(500)
        value = dice.getrandbits(64)
        lines.append(
            f"2026-11-{1 + clock // 10**8 % 28:02d}T{clock % 86_400_000:08d} INFO worker-{value % 16} "
            f"10.0.{value >> 8 & 255}.{value >> 16 & 255} GET {paths[value >> 24 & 3]} "
            f"{200 if value >> 32 & 31 else 404} {value >> 40 & 0xFFFF}us id={value:016x}\n"
        )
    return "".join(lines).encode()
