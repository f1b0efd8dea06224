"""A small workload for who has none at hand: two versions of a directory of texts, a log and a large file.

The same bytes and times on every machine. It stands for no data but itself.
"""

import os
import random  # noqa: TID251 - a seed of our own: the same bytes on every machine
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["DESCRIPTION", "SAMPLE_BYTES_MAX", "write_sample"]

DESCRIPTION: Final = (
    "built-in sample: 240 texts, ten of them edited and forty in a directory that is renamed; "
    "a log that grows; 16 MiB of noise with 100 bytes inserted"
)
SAMPLE_BYTES_MAX: Final = 32 << 20  # of one version

_SEED: Final = 6
_OLD_TIME_S: Final = 1_700_000_000
_NEW_TIME_S: Final = _OLD_TIME_S + 86_400


class _File(NamedTuple):
    """One file in both versions; where nothing has changed, `new` is the same object as `old`."""

    old_name: str
    new_name: str
    old: bytes
    new: bytes


def write_sample(old: str, new: str) -> None:
    """Make both versions, in directories that do not exist yet. What has not changed has the same time in both."""
    for file in _files():
        _write(f"{old}/{file.old_name}", file.old, _OLD_TIME_S)
        _write(f"{new}/{file.new_name}", file.new, _OLD_TIME_S if file.new is file.old else _NEW_TIME_S)


def _files() -> Iterator[_File]:
    dice = random.Random(_SEED)  # noqa: S311 - nothing secret
    words = [dice.randbytes(dice.randint(1, 5)).hex() for _ in range(3000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]  # as in any language: few words are most of it

    def text(lines: int) -> bytes:
        drawn = iter(dice.choices(words, weights, k=10 * lines))
        return "".join(" ".join(next(drawn) for _ in range(10)) + "\n" for _ in range(lines)).encode()

    for number in range(240):
        group = number % 6
        directory = f"texts/{group}"
        old = new = text(dice.randint(100, 900))
        if number % 24 == 1:
            middle = old.index(b"\n", len(old) // 2)
            new = old[:middle] + b"\n" + text(2) + old[middle + 40 :]
        yield _File(f"{directory}/{number}.txt", f"{'renamed' if group == 4 else directory}/{number}.txt", old, new)
    log = text(50_000)
    yield _File("log", "log", log, log + text(300))
    noise = dice.randbytes(16 << 20)
    yield _File("noise", "noise", noise, noise[: 5 << 20] + dice.randbytes(100) + noise[5 << 20 :])


def _write(path: str, content: bytes, time_s: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(content)
    os.utime(path, (time_s, time_s))
