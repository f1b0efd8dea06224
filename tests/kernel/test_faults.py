"""Bytes that cannot be read any more end an operation, not the process; and faulthandler still does its work."""

import subprocess
import sys
from pathlib import Path

import pytest

VIEW_A_SEGMENT = """
import faulthandler, os, sys
if sys.argv[2] == "before":
    faulthandler.enable()
from packetfs.errors import DamagedError
from packetfs.kernel import Space

volume = sys.argv[1]
os.mkdir(volume + "/segments")
os.mkdir(volume + "/index")
space = Space(os.fsencode(volume), bytes(16), bytes(32), 8192, 32768, 131072, 2)
lease = space.lease(1, 0, 0, True)
address = lease.append_journal(b"x" * 60000)
space.admit([lease.sync()])
view = space.view(address, 60000)
if sys.argv[2] != "before":
    faulthandler.enable()
"""

CUT_IT_SHORT = """
os.truncate(f"{volume}/segments/{space.slot(1)}.data", 0)
try:
    space.view(address, 60000)
except DamagedError:
    print("damaged", view[59999])
"""

FAULT_ELSEWHERE = """
import mmap
with open(volume + "/file", "w+b") as file:
    file.write(bytes(8192))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 8192)
    os.truncate(file.name, 0)
    mapped[0]
"""


def run(program: str, volume: Path, when: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, str(volume), when]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_segment_cut_short_under_a_view_is_damage_whenever_faulthandler_came(tmp_path: Path, when: str) -> None:
    done = run(VIEW_A_SEGMENT + CUT_IT_SHORT, tmp_path, when)

    assert (done.returncode, done.stdout) == (0, "damaged 0\n"), done.stderr


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_in_somebody_elses_mapping_is_still_reported_by_faulthandler(tmp_path: Path, when: str) -> None:
    done = run(VIEW_A_SEGMENT + FAULT_ELSEWHERE, tmp_path, when)

    assert done.returncode < 0
    assert "Fatal Python error: Bus error" in done.stderr
