"""What a first push of many small files costs with one build of PacketFS and with another: `python -m bench.cold_push
COMMAND...`. It judges nothing: it prints the median of the rounds for each command, and how far it is from the first.

Sources and volumes are in memory (/dev/shm), so that the disk does not decide; the commands take turns, and each round
has a new volume.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def grow(top: Path, files: int) -> None:
    """`files` files of up to 8 KB, twenty in a directory; every tenth has an extended attribute."""
    dice = random.Random(1)
    for number in range(files):
        folder = top / f"{number // 1000}" / f"{number // 20}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number}"
        path.write_bytes(dice.randbytes(dice.randrange(8192)))
        if number % 10 == 0:
            os.setxattr(path, "user.number", str(number).encode())


def push(command: str, source: Path, volume: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun_s = time.monotonic()
    subprocess.run([command, "-q", "push", source, f"{volume}::main"], check=True)
    seconds = time.monotonic() - begun_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cold pushes of many small files, by several builds of packetfs.")
    parser.add_argument("commands", metavar="COMMAND", nargs="+")
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        source, volume = Path(place) / "source", Path(place) / "volume"
        grow(source, options.files)
        found: dict[str, list[tuple[float, float]]] = {command: [] for command in options.commands}
        for _ in range(options.rounds):
            for command, rounds in found.items():
                rounds.append(push(command, source, volume))
                shutil.rmtree(volume)
    first_cpu_s = None
    for command, rounds in found.items():
        seconds, cpu_s = (statistics.median(column) for column in zip(*rounds, strict=True))
        first_cpu_s = first_cpu_s or cpu_s
        print(f"{command}: {seconds:.2f} s, {cpu_s:.2f} s of CPU ({100 * (cpu_s / first_cpu_s - 1):+.1f} %)")


if __name__ == "__main__":
    main(sys.argv[1:])
