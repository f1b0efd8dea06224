"""The real command with a fault armed: `python crashing.py N push ...` dies by SIGKILL at the N-th sync or rename.

With `N:ERRNO:LASTING` the N-th step fails instead; what it was is written to the file that $MET names.
"""

import atexit
import os
import sys
from pathlib import Path

from packetfs import kernel
from packetfs.cli import main


def _tell() -> None:
    if met := kernel.fault_met():
        Path(os.environ["MET"]).write_text(met)


if __name__ == "__main__":
    n, *failing = map(int, sys.argv.pop(1).split(":"))
    if failing:
        kernel.fail_at(n, failing[0], bool(failing[1]))
        atexit.register(_tell)
    else:
        kernel.crash_at(n)
    main()
