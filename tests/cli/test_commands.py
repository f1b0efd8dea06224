"""Every command on a real volume, as a user types it."""

import base64
import os
import socket
from pathlib import Path

import pytest

from packetfs.cli import push
from packetfs.cli.output import Output
from packetfs.errors import PartialError
from packetfs.events import Problem
from packetfs.format.location import Location
from packetfs.volume import PushReport, Statistics
from tests.cli.conftest import COMMAND, Cli

pytestmark = pytest.mark.slow

ODD = b"not utf-8 \xff"
EVIL = "clear\x1b[2J\u202etxt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with everything in it that a listing has to cope with."""
    root = tmp_path / "tree"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "docs" / "guide.md").write_bytes(b"# A guide\n")
    (root / "docs" / "deep" / "big.bin").write_bytes(bytes(range(256)) * 1000)
    (root / "docs" / "again.bin").write_bytes(bytes(range(256)) * 1000)
    (root / "link").symlink_to("docs/guide.md")
    (root / EVIL).write_bytes(b"harmless")
    with open(os.fsencode(root) + b"/" + ODD, "wb") as file:
        file.write(b"odd")
    os.link(root / "docs" / "guide.md", root / "docs" / "hard.md")
    (root / "docs" / "guide.md").chmod(0o640)
    for path in root.rglob("*"):
        os.utime(path, ns=(0, 1_700_000_000_000_000_000), follow_symlinks=False)
    return root


@pytest.fixture
def pushed(cli: Cli, tree: Path) -> Path:
    """The tree with one snapshot of it in `volume::main`."""
    cli("push", tree, "volume::main", "-q")
    return tree


def test_init_makes_a_volume_once(cli: Cli) -> None:
    made = cli("init", "volume")

    assert made.out == b""
    assert "created the volume" in made.err
    assert cli("init", "volume", "--json", code=4).event("error")["code"] == "volume-exists"
    assert cli("refs", "volume").out == b""


def test_a_push_creates_a_missing_volume_and_says_so(cli: Cli, tree: Path) -> None:
    done = cli("push", tree, "volume::main")

    assert "created the volume" in done.err
    assert done.out == b""
    assert "created the volume" not in cli("push", tree, "volume::main").err


def test_a_quiet_push_says_nothing(cli: Cli, tree: Path) -> None:
    done = cli("push", "-q", tree, "volume::main")

    assert (done.out, done.err) == (b"", "")


def test_a_push_tells_what_was_new_and_an_unchanged_one_makes_no_snapshot(cli: Cli, tree: Path) -> None:
    first = cli("push", f"{tree}/", "volume::main", "--json").event("push")
    again = cli("push", tree, "volume::main", "--json").event("push")

    assert (first["created"], first["files"], first["symlinks"]) == (True, 7, 1)
    assert first["new_bytes"] > 0
    assert (again["created"], again["new_bytes"], again["snapshot"]) == (False, 0, first["snapshot"])
    assert len(cli("log", "volume::main").lines) == 1


def test_always_makes_a_snapshot_of_the_unchanged(cli: Cli, pushed: Path) -> None:
    cli("push", "--always", "-m", "again: \x1b[31m", pushed, "volume::main")

    log = cli("log", "volume::main")
    assert len(log.lines) == 2
    assert r"again: \x1b[31m" in log.lines[0]


def test_a_dry_push_stores_nothing(cli: Cli, tree: Path) -> None:
    done = cli("push", "-n", tree, "volume::main", "--json")

    assert done.event("push")["dry_run"]
    assert done.event("push")["changed"]
    assert done.event("notice")["code"] == "volume-not-found"
    assert not (cli.home / "volume").exists()
    cli("push", tree, "volume::main")
    before = cli("status", "volume", "--json").event("status")
    (tree / "new").write_bytes(b"new")
    assert cli("push", "-n", tree, "volume::main", "--json").event("push")["changed"]
    assert cli("status", "volume", "--json").event("status")["stored_bytes"] == before["stored_bytes"]


def test_several_sources_appear_under_their_names_and_a_duplicate_is_refused(cli: Cli, tree: Path) -> None:
    cli("push", tree / "docs", tree / "empty", "volume::main")
    assert cli("ls", "volume::main").lines == ["docs/", "empty"]

    (cli.home / "other" / "docs").mkdir(parents=True)
    failed = cli("push", tree / "docs", "other/docs", "volume::main", "--json", code=2)
    assert failed.event("error")["code"] == "duplicate-name"


def test_a_file_alone_appears_under_its_name(cli: Cli, tree: Path) -> None:
    cli("push", tree / "docs" / "guide.md", "volume::main")

    assert cli("ls", "volume::main").lines == ["guide.md"]


def test_standard_input_is_a_file_with_a_name(cli: Cli) -> None:
    cli("push", "-", "--name", "dump.sql", "volume::dumps", stdin=b"select 1;\n" * 100_000)
    cli("push", "-", "volume::other", stdin=b"")

    assert cli("cat", "volume::dumps:/dump.sql").out == b"select 1;\n" * 100_000
    assert cli("ls", "volume::other").lines == ["stdin"]
    assert cli("push", "-", "x", "volume::main", code=2).err.startswith("packetfs: standard input")
    assert "give - as the source" in cli("push", "--name", "x", "x", "volume::main", code=2).err


def test_a_source_that_is_missing_fails_before_a_volume_is_made(cli: Cli) -> None:
    failed = cli("push", "nothing", "volume::main", code=1)

    assert "nothing" in failed.err
    assert not (cli.home / "volume").exists()


def test_a_push_goes_to_a_ref_as_a_whole(cli: Cli, tree: Path) -> None:
    for location in ("volume::main@~1", "volume::main:/docs"):
        assert cli("push", tree, location, "--json", code=2).event("error")["code"] == "bad-location"


def test_a_pull_gives_back_what_was_pushed(cli: Cli, pushed: Path) -> None:
    done = cli("pull", "volume::main", "target")
    again = cli("pull", "volume::main", "target", "--json").event("pull")

    assert done.out == b""
    assert "created" in done.err
    assert picture(cli.home / "target") == picture(pushed)
    assert (again["created"], again["replaced"], again["deleted"], again["written_bytes"]) == (0, 0, 0, 0)


def picture(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All that a pull must restore, times of directories and links included."""
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for path in [directory, *(os.path.join(directory, name) for name in names + files)]:
            state = os.lstat(path)
            content: bytes | None = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
            key = os.path.relpath(path, os.fsencode(root))
            found[key] = (state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, content)
    return found


def test_a_dry_pull_lists_what_it_would_do_and_does_nothing(cli: Cli, pushed: Path) -> None:
    done = cli("pull", "-n", "volume::main:/docs", "target")

    assert "+ guide.md" in done.lines
    assert "+ deep/big.bin" in done.lines
    assert not (cli.home / "target").exists()


def test_delete_removes_what_the_snapshot_has_not(cli: Cli, pushed: Path) -> None:
    cli("pull", "volume::main", "target")
    (cli.home / "target" / "docs" / "more").write_bytes(b"more")

    kept = cli("pull", "volume::main", "target", "--json").event("pull")
    dry = cli("pull", "-n", "--delete", "volume::main", "target")
    deleted = cli("pull", "-v", "--delete", "volume::main", "target")

    assert kept["deleted"] == 0
    assert "- docs/more" in dry.lines
    assert "- docs/more" in deleted.err
    assert picture(cli.home / "target") == picture(pushed)


def test_a_path_of_an_older_snapshot_is_pulled(cli: Cli, pushed: Path) -> None:
    (pushed / "docs" / "guide.md").write_bytes(b"# Changed\n")
    cli("push", pushed, "volume::main")

    cli("pull", "volume::main@~1:/docs/guide.md", "one")
    cli("pull", "volume::main:/docs", "all")

    assert (cli.home / "one" / "guide.md").read_bytes() == b"# A guide\n"
    assert (cli.home / "all" / "guide.md").read_bytes() == b"# Changed\n"
    assert (cli.home / "all" / "deep" / "big.bin").exists()


def test_what_was_pushed_by_name_lands_in_a_directory_that_stays_as_it_is(cli: Cli, pushed: Path) -> None:
    """Only a directory's own contents bring its mode, owner and time along."""
    target = cli.home / "target"
    target.mkdir(mode=0o700)
    (cli.home / "file").write_bytes(b"file")
    cli("push", "file", "volume::file")
    cli("push", pushed / "docs", "file", "volume::both")
    cli("push", "-", "volume::stream", stdin=b"stream")

    def attributes() -> tuple[int, int, int]:
        found = target.stat()
        return found.st_mode, found.st_uid, found.st_gid

    before = attributes()
    for ref in ("file", "both", "stream", "both:/file"):
        cli("pull", f"volume::{ref}", target)
        assert attributes() == before, ref
    assert sorted(os.listdir(target)) == ["docs", "file", "stdin"]

    pushed.chmod(0o751)
    cli("push", pushed, "volume::main")
    cli("pull", "volume::main", target)
    assert attributes()[0] & 0o7777 == 0o751
    assert target.stat().st_mtime_ns == pushed.stat().st_mtime_ns
    cli("pull", "volume::main:/docs", target)
    assert attributes()[0] == (pushed / "docs").stat().st_mode


def test_an_unusable_index_is_told_in_one_line(cli: Cli, pushed: Path) -> None:
    (cli.home / "volume" / "index").mkdir(exist_ok=True)
    (cli.home / "volume" / "index" / "manifest").write_bytes(b"garbage")

    listed = cli("ls", "volume::main")
    dry = cli("push", "-n", pushed, "volume::main", "--json").event("notice")
    stored = cli("push", pushed, "volume::main")
    after = cli("refs", "volume")

    assert [line for line in listed.err.splitlines() if "index" in line] == listed.err.splitlines()
    assert len(listed.err.splitlines()) == 1
    assert dry["code"] == "index-discarded"
    assert stored.err.count("the index could not be used") == 1
    assert after.err == ""


def test_a_pull_never_touches_the_volume_itself(cli: Cli, pushed: Path) -> None:
    assert cli("pull", "volume::main", "volume/segments", code=8).err.startswith("packetfs: ")
    assert "--delete would delete it" in cli("pull", "--delete", "volume::main", ".", code=8).err
    cli("verify", "volume")


def test_cat_writes_exact_bytes(cli: Cli, pushed: Path) -> None:
    both = cli("cat", "volume::main:/docs/guide.md", "volume::main:/docs/deep/big.bin")
    lines = cli("cat", "--json", "volume::main:/docs/deep/big.bin").events
    odd = cli("cat", b"volume::main:/" + ODD)

    assert both.out == b"# A guide\n" + bytes(range(256)) * 1000
    assert b"".join(base64.b64decode(line["data"]) for line in lines) == bytes(range(256)) * 1000
    assert [line["last"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert odd.out == b"odd"
    assert cli("cat", "volume::main:/empty", "--json").event("content")["last"]


@pytest.mark.parametrize("path", ["", ":/docs", ":/link"])
def test_cat_of_what_is_no_file_is_wrong_use(cli: Cli, pushed: Path, path: str) -> None:
    assert cli("cat", f"volume::main{path}", code=2).out == b""


def test_what_is_not_there_is_told_by_code(cli: Cli, pushed: Path) -> None:
    for arguments, code in (
        (["ls", "nowhere::main"], "volume-not-found"),
        (["ls", "volume::none"], "ref-not-found"),
        (["ls", "volume::main@~9"], "snapshot-not-found"),
        (["cat", "volume::main:/none"], "path-not-found"),
        (["cat", "volume::main:/empty/none"], "not-a-directory"),
    ):
        assert cli(*arguments, "--json", code=1).event("error")["code"] == code


def test_ls_shows_one_level_or_all_and_escapes_names(cli: Cli, pushed: Path) -> None:
    one = cli("ls", "volume::main").lines
    everything = cli("ls", "-R", "volume::main").lines
    long = cli("ls", "-l", "volume::main:/docs").lines

    assert one == [r"clear\x1b[2J\u202etxt", "docs/", "empty", "link", r"not utf-8 \xff"]
    assert "docs/deep/big.bin" in everything
    assert len(everything) == 10
    assert any(line.startswith("-rw-r-----") and line.endswith("guide.md") for line in long)
    assert cli("ls", "-l", "volume::main:/link").lines[0].endswith("link -> docs/guide.md")


def test_ls_gives_programs_everything(cli: Cli, pushed: Path) -> None:
    found = {event["path"]: event for event in cli("ls", "-R", "--json", "volume::main").events}

    odd = found["not utf-8 \ufffd"]
    assert base64.b64decode(odd["path_b64"]) == ODD
    assert found[EVIL]["size"] == 8
    assert found["link"]["target"] == "docs/guide.md"
    assert found["docs/guide.md"]["mode"] == 0o640
    assert found["docs/guide.md"]["link_id"] == found["docs/hard.md"]["link_id"] is not None
    assert found["docs/again.bin"]["digest"] == found["docs/deep/big.bin"]["digest"]
    assert found["docs/guide.md"]["mtime_ns"] == 1_700_000_000_000_000_000


def test_log_is_the_history_newest_first(cli: Cli, pushed: Path) -> None:
    for number in range(3):
        (pushed / "count").write_text(str(number))
        cli("push", pushed, "volume::main", "-m", f"number {number}")

    events = cli("log", "--json", "volume::main").events
    assert [event["message"] for event in events] == ["number 2", "number 1", "number 0", ""]
    assert [event["parent"] for event in events] == [event["snapshot"] for event in events[1:]] + [None]
    assert [line.split()[0] for line in cli("log", "volume::main").lines] == [e["snapshot"][:12] for e in events]
    assert len(cli("log", "-c", "2", "volume::main").lines) == 2
    assert len(cli("log", f"volume::main@{events[2]['snapshot'][:12]}").lines) == 2


def test_a_snapshot_is_found_by_what_log_prints(cli: Cli, pushed: Path) -> None:
    line = cli("log", "volume::main").lines[0]
    id_, day, time = line.split()[:3]

    assert cli("ls", f"volume::main@{id_}").out == cli("ls", "volume::main").out
    assert cli("ls", f"volume::main@{day}T{time}").out == cli("ls", "volume::main").out


def test_refs_lists_every_ref(cli: Cli, pushed: Path) -> None:
    cli("push", pushed / "docs", "volume::docs")

    assert [line.split()[0] for line in cli("refs", "volume").lines] == ["docs", "main"]
    assert [event["ref"] for event in cli("refs", "--json", "volume").events] == ["docs", "main"]


def test_diff_tells_every_kind_of_change(cli: Cli, pushed: Path) -> None:
    (pushed / "docs" / "deep" / "big.bin").rename(pushed / "moved.bin")
    (pushed / "empty").unlink()
    (pushed / "new").write_bytes(b"new")
    (pushed / EVIL).write_bytes(b"harmless still")
    (pushed / "docs" / "again.bin").chmod(0o600)
    cli("push", pushed, "volume::main")

    shown = cli("diff", "-v", "volume::main@~1", "volume::main")
    brief = cli("diff", "volume::main@~1", "volume::main")
    summary = cli("diff", "volume::main@~1", "volume::main", "--json").event("diff")

    assert "+ new  3 B" in shown.lines
    assert "- empty  0 B" in shown.lines
    assert "m docs/again.bin  256 kB" in shown.lines
    assert brief.lines == [line for line in shown.lines if not line.startswith("m ")]
    assert "with other metadata only" in brief.err
    assert "> docs/deep/big.bin -> moved.bin  256 kB" in shown.lines
    assert r"~ clear\x1b[2J\u202etxt  8 B -> 14 B" in shown.lines
    assert (summary["added"], summary["removed"], summary["changed"], summary["renamed"]) == (1, 1, 1, 1)
    assert cli("diff", "volume::main", "volume::main").out == b""
    assert cli("diff", "volume::main@~1:/docs/guide.md", "volume::main:/docs/guide.md").out == b""


def test_diff_needs_one_volume(cli: Cli, pushed: Path) -> None:
    cli("push", pushed, "other::main")

    assert cli("diff", "volume::main", "other::main", "--json", code=2).event("error")["code"] == "different-volumes"


def test_status_counts(cli: Cli, pushed: Path) -> None:
    status = cli("status", "volume", "--json").event("status")
    cli("push", "--always", pushed, "volume::main")
    later = cli("status", "volume", "--json").event("status")

    assert (status["refs"], status["snapshots"], later["snapshots"]) == (1, 1, 2)
    assert later["logical_bytes"] == 2 * status["logical_bytes"]
    assert later["position_seq"] == status["position_seq"] + 1
    assert status["stored_bytes"] >= status["unique_bytes"] > 0
    assert cli("status", "volume").lines[0].startswith("volume")


def test_a_configured_volume_need_not_be_named(cli: Cli, pushed: Path) -> None:
    env = {"PACKETFS_VOLUME": "volume"}
    config = cli.home / ".config" / "packetfs"
    config.mkdir(parents=True)

    assert cli("ls", "main", env=env).out == cli("ls", "volume::main").out
    assert cli("ls", "::", env=env).out == cli("ls", "volume::main").out
    assert cli("ls", "--volume", "volume", "main:/docs", env={"PACKETFS_VOLUME": "none"}).lines
    assert cli("status", env=env).out == cli("status", "volume").out
    assert cli("refs", code=2).err.startswith("packetfs: ")
    (config / "config.toml").write_text('volume = "volume"\n')
    assert cli("ls", "main").out == cli("ls", "volume::main").out
    assert cli("push", pushed, "main", "--json").event("push")["created"] is False


def test_options_may_stand_before_the_command(cli: Cli, pushed: Path) -> None:
    assert cli("--json", "refs", "volume").out == cli("refs", "volume", "--json").out


def test_what_cannot_be_read_is_listed_and_the_rest_stored(cli: Cli, tree: Path) -> None:
    (tree / "secret").write_bytes(b"secret")
    (tree / "secret").chmod(0)
    mortal: list[str] = []
    if os.geteuid() == 0:  # root reads everything, unless it gives that up
        powers = "-dac_override,-dac_read_search"
        mortal = ["setpriv", "--inh-caps", powers, "--bounding-set", powers]

    done = cli._run([*mortal, COMMAND, "push", tree, "volume::main", "--json"], code=3, env=None, stdin=b"")

    assert done.event("problem")["kind"] == "unreadable"
    assert done.event("problem")["path"] == "secret"
    assert done.event("push")["problems"] == 1
    assert done.events[-1]["code"] == "partial"
    assert "empty" in cli("ls", "volume::main").lines


def test_a_socket_is_left_out_with_a_word(cli: Cli, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))

    done = cli("push", tree, "volume::main", "--json")

    assert done.event("problem")["kind"] == "unsupported"


def test_bytes_on_standard_output_are_unmixed_with_words(cli: Cli, pushed: Path) -> None:
    """Standard output is for what was asked for; everything else is on standard error."""
    for arguments in (["push", str(pushed), "volume::main"], ["pull", "volume::main", "target"], ["verify", "volume"]):
        assert cli(*arguments).out == b""


def test_what_changed_or_could_not_be_read_makes_a_push_partial(capfd: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem(path=b"locked\x1b", kind="unreadable", errno=13),
        Problem(path=b"log", kind="changed"),
        Problem(path=b"gone", kind="vanished"),
        Problem(path=b"socket", kind="unsupported"),
        Problem(path=b"many", kind="attributes", errno=7),
    ]
    report = PushReport(
        ref="main",
        snapshot=None,
        changed=True,
        dry_run=True,
        statistics=Statistics(files=4, problems=5),
        problems=tuple(problems),
        seconds=0.1,
    )

    with pytest.raises(PartialError) as caught:
        push._conclude(Output(json=False, verbosity=-1, progress=False), Location("volume"), report)

    assert dict(caught.value.values) == {"unreadable": 1, "changed": 1, "missing": 0, "attributes": 1}
    assert capfd.readouterr().err.splitlines() == [
        r"packetfs: locked\x1b: cannot be read: Permission denied",
        "packetfs: log: changed during each of three readings; what the last one found is stored",
        "packetfs: many: is stored without its extended attributes: Argument list too long",
    ]
