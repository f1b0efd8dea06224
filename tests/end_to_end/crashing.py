"""The real command with a crash armed: `python crashing.py N push ...` dies by SIGKILL at the N-th sync or rename."""

import sys

from packetfs import kernel
from packetfs.cli import main

if __name__ == "__main__":
    kernel.crash_at(int(sys.argv.pop(1)))
    main()
