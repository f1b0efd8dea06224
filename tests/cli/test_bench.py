"""`packetfs bench`: what it counts is what a push says it moved; it reads only, and leaves nothing."""

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetfs.sync.reckoning import Link, Moved, reckoned_s
from tests.cli.conftest import COMMAND, Cli

LINKS = st.builds(Link, st.floats(1, 1e12), st.floats(0, 10))
MOVES = st.builds(Moved, st.integers(0, 1 << 50), st.none() | st.integers(0, 1000), st.none() | st.floats(0, 1e6))


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    """Two small directories, one file of them edited, one new; in both an empty directory."""
    for name, edit in (("old", b""), ("new", b" and more")):
        (tmp_path / name / "empty").mkdir(parents=True)
        for number in range(8):
            (tmp_path / name / f"{number}").write_bytes(b"%d is small" % number + (edit if number == 3 else b""))
            os.utime(tmp_path / name / f"{number}", (1_700_000_000 + len(edit), 1_700_000_000 + len(edit)))
    (tmp_path / "new" / "added").write_bytes(b"added")
    (tmp_path / "scratch").mkdir()
    return tmp_path / "old", tmp_path / "new"


def state(place: Path) -> dict[str, tuple[int, ...]]:
    found = {str(path): path.lstat() for path in (place, *place.rglob("*"))}
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for name, one in found.items()}


def without_rsync(place: Path) -> dict[str, str]:
    (place / "nothing").mkdir()
    return {"PATH": str(place / "nothing")}


@given(MOVES, LINKS)
def test_no_link_is_faster_than_the_work_the_bytes_or_the_waiting(moved: Moved, link: Link) -> None:
    seconds = reckoned_s(moved, link)

    assert seconds >= (moved.seconds or 0)
    assert seconds >= moved.wire_bytes * 8 / link.bits_s
    assert seconds >= (moved.round_trips or 0) * link.round_trip_s
    assert seconds >= reckoned_s(moved, Link(2 * link.bits_s, link.round_trip_s / 2))


@pytest.mark.slow
def test_its_bytes_are_those_that_pushes_of_the_same_say_they_moved(
    cli: Cli, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = versions
    before = state(old), state(new)
    stand_in = tmp_path / "ssh"
    stand_in.write_text(f"#!/bin/sh\nexec {shlex.quote(str(COMMAND))} serve --stdio\n")
    stand_in.chmod(0o755)
    place = tmp_path / "scratch" / "packetfs-bench-12345678" / "packetfs"  # as long as what bench makes
    place.mkdir(parents=True)

    counted = cli("bench", old, new, "--json", "--scratch", tmp_path / "scratch", "--link", "8mbit,10ms")
    moved = [
        cli("push", "-e", stand_in, path, f"bench:{place}/volume::main", "--json").event("transfer")
        for path in (old, new, new)
    ]

    rows = [event for event in counted.events if event["event"] == "bench-row"]
    ours = [row for row in rows if row["subject"] == "packetfs"]
    assert [row["round_trips"] for row in ours] == [one["round_trips"] for one in moved]
    assert [row["wire_bytes"] for row in ours] == pytest.approx(
        [one["sent_bytes"] + one["received_bytes"] for one in moved],
        abs=24,  # keys are drawn for each volume, and literals that hold them differ by as much when compressed
    )
    full = [row["wire_bytes"] for row in rows if row["subject"] == "full copy"]
    assert full == [sum(path.stat().st_size for path in one.iterdir() if path.is_file()) for one in (old, new, new)]
    assert ours[0]["links"][0]["seconds"] >= ours[0]["seconds"] + ours[0]["round_trips"] * 0.01
    assert counted.events[-1]["event"] == "bench"
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["packetfs-bench-12345678"]
    assert (state(old), state(new)) == before


@pytest.mark.slow
def test_without_rsync_it_says_so_and_the_table_has_the_rest(
    cli: Cli, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = versions[0] / "3", versions[1] / "3"

    done = cli("bench", old, new, "--scratch", tmp_path / "scratch", env=without_rsync(tmp_path))

    assert sum("rsync" in line and line.endswith("not installed") for line in done.lines) == 3
    assert sum(line.startswith("  packetfs") for line in done.lines) == 3
    assert any("reckoned, not measured" in line for line in done.lines)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_an_rsync_that_left_something_out_is_told_to_have_moved_only_a_part(
    cli: Cli, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    real = shutil.which("rsync")
    if real is None:
        pytest.skip("rsync is not installed")
    (tmp_path / "bin").mkdir()
    lossy = tmp_path / "bin" / "rsync"
    lossy.write_text(f'#!/bin/sh\n{real} "$@" || exit\ncase "$*" in *--stats*) exit 23;; esac\n')
    lossy.chmod(0o755)

    done = cli(
        "bench", *versions, "--scratch", tmp_path / "scratch", env={"PATH": f"{lossy.parent}:{os.environ['PATH']}"}
    )

    assert sum(line.startswith("  rsync -az, in part  ") for line in done.lines) == 3


@pytest.mark.parametrize("text", ["", "fast", "0mbit", "100mbit,", "100mbit,25", "-1mbit", "nanbit", "1mbit,1h"])
def test_a_link_that_is_none_is_an_error(cli: Cli, text: str) -> None:
    failed = cli("bench", "--json", "--link", text, code=2)

    assert failed.event("error")["code"] == "bad-link"


def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    cli: Cli, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = versions

    assert cli("bench", old, "--json", code=2).event("error")["code"] == "usage"
    assert cli("bench", old, tmp_path / "none", "--json", code=1).event("error")["code"] == "source-not-found"
    assert cli("bench", old, new / "3", "--json", code=2).event("error")["code"] == "usage"
    assert cli("bench", old, new, "--scratch", new, "--json", code=2).event("error")["code"] == "usage"
    missing = cli("bench", old, new, "--scratch", tmp_path / "none", "--json", code=1)
    assert missing.event("error")["code"] == "file-not-found"
    with open(old / "huge", "wb") as file:
        file.truncate(1 << 43)
    full = cli("bench", old, new, "--scratch", tmp_path / "scratch", "--json", code=7)
    assert full.event("error")["code"] == "not-enough-space"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_interrupted_while_rsync_runs_it_leaves_neither_files_nor_processes(
    cli: Cli, versions: tuple[Path, Path], tmp_path: Path
) -> None:
    """The rsync here only says that it has begun, and waits for somebody to read what nobody will."""
    (tmp_path / "bin").mkdir()
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "never")
    fake = tmp_path / "bin" / "rsync"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec echo rsync\n'
        f"echo $$ > {shlex.quote(str(tmp_path / 'begun'))}\ncat {shlex.quote(str(tmp_path / 'never'))}\n"
    )
    fake.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    with cli.start("bench", *versions, "--scratch", tmp_path / "scratch", env={"PATH": path}) as process:
        theirs = int((tmp_path / "begun").read_text())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert b"nothing was kept" in err
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not Path(f"/proc/{theirs}/cmdline").exists() or Path(f"/proc/{theirs}/cmdline").read_bytes() == b""
