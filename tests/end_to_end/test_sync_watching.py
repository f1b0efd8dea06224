"""`sync --watch`: what is saved here is there one round trip later, also after the far side was gone."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run
from tests.end_to_end.served import Counting, Served
from tests.end_to_end.test_watching import Watching, watching
from tests.end_to_end.trees import difference, facts
from tests.volume.conftest import grown

pytestmark = pytest.mark.slow

Process = subprocess.Popen[bytes]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return grown(tmp_path / "source", {"deep/er/file": b"first", "other": b"other"})


@pytest.fixture
def served(served: Served, tmp_path: Path) -> Served:
    """With a directory to export."""
    (tmp_path / "site").mkdir()
    return served


def save(path: Path, data: bytes) -> None:
    """As editors do: a new file takes the place of the old one, so that it is one change."""
    scratch = path.parents[2] / "scratch"
    scratch.write_bytes(data)
    scratch.rename(path)


def until(watch: Watching, true: Callable[[], bool]) -> list[dict[str, int]]:
    """What each sync has moved until it is so; every one of them is a change, so it ends."""
    moved = []
    while not true():
        watch.next("sync")
        moved.append(watch.next("transfer"))
    return moved


def test_over_ssh_each_change_is_one_round_trip_and_one_connection_serves_until_it_breaks(
    start_remote: Callable[..., Process], source: Path, tmp_path: Path
) -> None:
    there, pid = tmp_path / "far" / "dir", tmp_path / "far" / "origin.pid"
    options = ["--watch", "--delete", "--exclude", "*.o", "--json"]
    with watching(start_remote("sync", *options, f"{source}/", "host:dir/")) as watch:
        assert watch.next("sync")["created"] == 4
        watch.next("transfer")
        first = pid.read_text()

        save(source / "deep" / "file", b"second")
        watch.next("sync")
        moved = watch.next("transfer")
        assert (there / "deep" / "file").read_bytes() == b"second"
        assert moved["round_trips"] == 1
        (source / "file.o").write_bytes(b"not this")
        (source / "deep").rename(source / "moved")
        (source / "other").unlink()
        moves = until(watch, lambda: {path.name for path in there.iterdir()} == {"moved"})
        assert {moved["round_trips"] for moved in moves} == {1}
        assert pid.read_text() == first

        os.kill(int(first), signal.SIGKILL)
        (source / "two").write_bytes(b"two")
        assert "trying again" in watch.next("notice")["message"]
        until(watch, (there / "two").exists)
        assert pid.read_text() != first

    expected = {path: fact for path, fact in facts(source).items() if path not in (b"", b"file.o")}
    assert difference(expected, {path: fact for path, fact in facts(there).items() if path}) == []


def test_what_is_written_there_meanwhile_gives_way_to_the_next_change_and_a_backup_keeps_it(
    start_remote: Callable[..., Process], source: Path, tmp_path: Path
) -> None:
    there = tmp_path / "far" / "dir"
    options = ["--watch", "--backup-dir", "../kept", "--json"]
    with watching(start_remote("sync", *options, f"{source}/", "host:dir/")) as watch:
        watch.next("transfer")
        (there / "other").write_bytes(b"somebody else's")
        (there / "stray").write_bytes(b"somebody else's, too")

        save(source / "deep" / "file", b"second")
        until(watch, (there / "deep" / "file").exists)

    assert (there / "other").read_bytes() == b"other"
    assert (tmp_path / "far" / "kept" / "other").read_bytes() == b"somebody else's"
    assert (there / "stray").exists()  # there was no --delete


def test_over_tls_a_change_is_one_turn_waiting_is_silent_and_a_restart_of_the_server_is_survived(
    served: Served, source: Path, tmp_path: Path
) -> None:
    served.start("--export", f"site={tmp_path / 'site'}")
    served.pair("ada", "--role", "write")
    counting = Counting(served.port)
    served("ada", "pair", "--address", f"127.0.0.1:{counting.port}", served.invite("--role", "write"))
    place = f"pfs://127.0.0.1:{counting.port}/site:/dir"
    with watching(served.begin("ada", "sync", "--watch", "--json", f"{source}/", place)) as watch:
        watch.next("transfer")
        counting.reset()
        save(source / "deep" / "file", b"second")
        watch.next("sync")
        assert watch.next("transfer")["round_trips"] == 1
        turns, bytes_ = counting.turns, counting.bytes
        served("ada", "version")  # some time passes
        assert (turns, bytes_) == (counting.turns, counting.bytes)
        assert turns == 1
        assert bytes_ < 1500
        assert (tmp_path / "site" / "dir" / "deep" / "file").read_bytes() == b"second"

        port = served.port
        served.stop()
        (source / "late").write_bytes(b"late")
        assert "trying again" in watch.next("notice")["message"]
        served.start("--export", f"site={tmp_path / 'site'}", port=port)
        until(watch, (tmp_path / "site" / "dir" / "late").exists)
        assert (tmp_path / "site" / "dir" / "late").read_bytes() == b"late"
    counting.close()


def test_it_gives_up_after_the_time_it_was_given(
    start_remote: Callable[..., Process], source: Path, tmp_path: Path
) -> None:
    with start_remote("sync", "--watch", "--retry", "0.5s", "--json", f"{source}/", "host:dir/") as process:
        watch = Watching(process)
        watch.next("transfer")
        (tmp_path / "ssh").unlink()  # nobody is reached any more
        os.kill(int((tmp_path / "far" / "origin.pid").read_text()), signal.SIGKILL)
        (source / "one").write_bytes(b"one")
        assert watch.next("error")["code"] == "peer-unreachable"
        assert process.wait() == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "host:dir/", "source/"], "as SRC"),
        (["--watch", "-n", "source/", "host:dir/"], "--dry-run"),
        (["--retry", "3s", "source/", "host:dir/"], "--retry is for --watch"),
        (["--watch", "--retry", "soon", "source/", "host:dir/"], "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    run: Run, source: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    said = [f"{source}/" if argument == "source/" else argument for argument in arguments]

    assert message in run("sync", *said, code=2).err
