"""The main job on real input: two adjacent releases of a large project into one volume and back, compared exactly.

Runs the `packetfs` command as a user would and adds nothing but the clock and the comparison. Exits non-zero if a
single byte, mode or time came back different.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from bench.packages import DATA, Package, unpack
from bench.trees import differences, size

FIRST = Package("ansible", "ansible-12.2.0.tar.gz", "0563dfd33ebd28caf6ccdc7a6d22a7fdafbd9c9c42fefcae5179616a53a35211")
SECOND = Package("ansible", "ansible-12.3.0.tar.gz", "02721f6fb432ddd47f1044ac49b04b5e9ae08890bd427def8df3db1607aeec51")
PLACE = DATA / "demo"
COMMAND = Path(sysconfig.get_path("scripts")) / "packetfs"


def main() -> int:
    """Push the first, push the second, push it again, pull both, compare, say what is stored."""
    print(f"Two releases from the package index, checked by SHA-256: {FIRST.filename}, {SECOND.filename}")
    first, second = unpack(FIRST, DATA / "trees"), unpack(SECOND, DATA / "trees")
    for tree in (first, second):
        amount = size(tree)
        print(f"  {tree.name}: {amount.files:,} files, {amount.bytes / 1e6:,.1f} MB")

    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    packetfs("push", first, "volume::main", of=first)
    packetfs("push", second, "volume::main", of=second)
    packetfs("push", second, "volume::main", of=second)
    packetfs("pull", "volume::main@~1", "pulled-first", of=first)
    packetfs("pull", "volume::main", "pulled-second", of=second)
    packetfs("status", "volume")
    status = compare((first, PLACE / "pulled-first"), (second, PLACE / "pulled-second"))
    print(f"\nThe volume and both trees are yours to look at in {PLACE}; `make clean` removes them.")
    return status


def packetfs(*arguments: str | Path, of: Path | None = None) -> None:
    """Run one command where the volume is, show what it says, then how fast the tree `of` went through."""
    shown = " ".join(a.name if isinstance(a, Path) else a for a in arguments)
    print(f"\n$ packetfs {shown}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([COMMAND, *arguments], cwd=PLACE, env=os.environ | {"NO_COLOR": "1"}, check=False)
    wall_s = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"packetfs {shown} ended with exit code {done.returncode}")
    rate = ""
    if of is not None:
        amount = size(of)
        rate = f", {amount.files / wall_s:,.0f} files/s, {amount.bytes / wall_s / 1e6:,.0f} MB/s"
    print(f"  ({wall_s:.2f} s with start-up{rate})", flush=True)


def compare(*pairs: tuple[Path, Path]) -> int:
    """Print for each pair whether what was pulled is exactly what was pushed; 0 if all are."""
    print()
    status = 0
    for expected, found in pairs:
        if wrong := differences(expected, found):
            print(f"{found.name} is NOT {expected.name}:", *wrong, sep="\n  ")
            status = 1
        else:
            print(f"{found.name} is exactly {expected.name}: every name, byte, mode, link and modification time")
    return status


if __name__ == "__main__":
    sys.exit(main())
