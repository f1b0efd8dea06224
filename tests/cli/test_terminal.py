"""What moves on a terminal, and what stands still in a log."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.cli.conftest import Cli

pytestmark = pytest.mark.slow

METERED = """
import sys
from packetfs.cli import progress
from packetfs.cli.lines import Notice
from packetfs.cli.output import Output
from packetfs.events import Progress

clock = [0.0]
progress.time.monotonic = lambda: clock[0]
output = Output(json={json}, verbosity={verbosity}, progress=True)
with output.meter("push") as meter:
    for step in range(1, 61):
        clock[0] += 1.0
        total = None if step < 20 else 60_000_000
        meter(Progress(phase="storing", bytes=step * 1_000_000, bytes_total=total, new_bytes=5, path=b"a\\x1b[2Jb"))
        if step == 30:
            output.notice(Notice(code="x", message="said meanwhile"), "said meanwhile")
output.flush()
print("rich" in sys.modules, file=sys.stdout)
"""


def on_a_terminal(cli: Cli, script: str, env: dict[str, str] | None = None) -> tuple[str, bytes]:
    """What the script wrote to a terminal as its standard error, and to its standard output."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=cli.environment({"COLUMNS": "100", **(env or {})}),
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as running:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 1 << 16):
                seen += piece
        except OSError:  # the other end is closed: Linux says EIO
            pass
        assert running.stdout is not None
        out = running.stdout.read()
    os.close(ours)
    assert running.returncode == 0, seen
    return seen.decode(), out


def test_a_terminal_sees_a_moving_line_that_counts_until_the_total_is_known(cli: Cli) -> None:
    seen, out = on_a_terminal(cli, METERED.format(json=False, verbosity=0))

    assert out == b"True\n"
    before, _, after = seen.partition("said meanwhile")
    assert "counting" in before
    assert "33 %" in before
    assert "left" in before
    assert "counting" not in after
    assert "100 %" in after
    assert r"a\x1b[2Jb" in seen
    assert "\x1b[2J" not in seen


def test_no_color_means_no_color(cli: Cli) -> None:
    """The line still moves; nothing is painted."""
    seen, _ = on_a_terminal(cli, METERED.format(json=False, verbosity=0), {"NO_COLOR": "1"})

    assert "\x1b[3" not in seen
    assert "\x1b[9" not in seen


def test_a_log_gets_a_plain_line_now_and_then(cli: Cli) -> None:
    done = cli.python(METERED.format(json=False, verbosity=0))

    lines = done.err.splitlines()
    assert lines[0] == r"push: 5.00 MB, 5 B new, counting, a\x1b[2Jb"
    assert lines[1].startswith("push: 20.0 MB, 5 B new, 33 %, 40 s left")
    assert "said meanwhile" in lines
    assert len(lines) == 5
    assert done.out == b"False\n"


def test_json_has_progress_with_totals_when_they_are_known(cli: Cli) -> None:
    done = cli.python(METERED.format(json=True, verbosity=0))

    events = [json.loads(line) for line in done.lines[:-1]]
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[0]["bytes_total"] is None
    assert progress[-1]["bytes_total"] == 60_000_000
    assert done.err == ""


@pytest.mark.parametrize("json", [False, True])
def test_quiet_is_quiet(cli: Cli, json: bool) -> None:
    done = cli.python(METERED.format(json=json, verbosity=-1))

    assert "progress" not in done.out.decode()
    assert done.err == ""


def test_a_short_operation_never_loads_the_display(cli: Cli) -> None:
    script = METERED.replace("clock[0] += 1.0", "clock[0] += 0.001")

    seen, out = on_a_terminal(cli, script.format(json=False, verbosity=0))

    assert out == b"False\n"
    assert seen == "said meanwhile\r\n"
