"""A directory on another machine ends as the one here, or the other way round; rsync is the judge."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.conftest import COMMAND, Remote, Result, Run, remote_environment
from tests.end_to_end.kills import Kills
from tests.end_to_end.special import grow_special, need_attributes, rsync_sees, specials, unlike
from tests.end_to_end.test_remote import kill_origin
from tests.end_to_end.trees import change, difference, facts, grow

pytestmark = pytest.mark.slow

Many = Callable[[int, int], int]
Start = Callable[..., subprocess.Popen[bytes]]
WAYS = ["there", "here"]


class Pair:
    """A directory that is read and one that is written, one of them on the far side."""

    def __init__(self, way: str, tmp_path: Path, remote: Remote) -> None:
        there, here = tmp_path / "far" / "dir", tmp_path / "dir"
        self.source, self.target = (here, there) if way == "there" else (there, here)
        self.names = (f"{here}/", "far:dir/") if way == "there" else ("far:dir/", f"{here}/")
        self.way = way
        self._remote = remote

    def sync(self, *options: str | Path, **how: object) -> Result:
        return self._remote("sync", *options, *self.names, **how)

    def json(self, *options: str | Path) -> tuple[dict[str, int], dict[str, int]]:
        """What was done, and what was moved."""
        done = self.sync("--json", "--no-progress", *options)
        return done.event("sync"), done.event("transfer")


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest, tmp_path: Path, remote: Remote) -> Pair:
    return Pair(request.param, tmp_path, remote)


def wire(traffic: dict[str, int]) -> int:
    return traffic["sent_bytes"] + traffic["received_bytes"]


def name_of(line: bytes) -> bytes:
    """The name in a line of `-i`, and whether it is deleted: to the far side a dry run knows more than the checkout."""
    return line if line.startswith(b"*deleting") else line[11:]


def done_nothing(done: dict[str, int]) -> bool:
    return not any(done[name] for name in ("created", "replaced", "metadata", "deleted", "written_bytes"))


def test_the_target_ends_as_the_source_and_a_second_sync_is_a_question(pair: Pair) -> None:
    grow(pair.source, 1)

    pair.sync()
    assert difference(facts(pair.source), facts(pair.target)) == []
    done, traffic = pair.json()
    change(pair.source, 1)
    changed, moved = pair.json("--delete")

    assert done_nothing(done)
    assert wire(traffic) < 1000
    assert traffic["round_trips"] <= 3
    assert changed["created"] >= 2  # the new file, the renamed one
    assert changed["deleted"] == 1
    assert 0 < moved["literal_bytes"] < 5 << 20
    assert difference(facts(pair.source), facts(pair.target)) == []
    assert rsync_sees(pair.source, pair.target) == []
    assert done_nothing(pair.json("--delete")[0])


def test_one_changed_file_costs_about_what_has_changed_in_it(pair: Pair) -> None:
    grow(pair.source, 2)
    pair.sync()
    with open(pair.source / "large", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"changed")

    _, traffic = pair.json()

    assert wire(traffic) < 4000
    assert difference(facts(pair.source), facts(pair.target)) == []


def test_what_a_file_is_beyond_its_bytes_comes_along(pair: Pair) -> None:
    pair.source.parent.mkdir(exist_ok=True)
    need_attributes(pair.source.parent)
    pair.source.mkdir()
    grow_special(pair.source)

    pair.sync("--delete")

    assert unlike(specials(pair.source), specials(pair.target)) == []
    assert rsync_sees(pair.source, pair.target) == []
    assert done_nothing(pair.json("--delete")[0])


def test_what_somebody_else_left_in_the_target_need_not_travel(pair: Pair) -> None:
    grow(pair.source, 3)
    shutil.copytree(pair.source, pair.target, symlinks=True)  # hard links become files, times of links are lost
    (pair.target / "large").write_bytes((pair.source / "large").read_bytes()[100:])
    (pair.target / "stray").write_bytes(random.Random(3).randbytes(2 << 20))

    done, traffic = pair.json("--delete")

    assert difference(facts(pair.source), facts(pair.target)) == []
    assert done["deleted"] == 1
    assert traffic["literal_bytes"] < 200_000  # the chunk at the beginning of `large`, and small change
    assert wire(traffic) < 250_000


def test_who_changes_the_target_meanwhile_is_overruled_at_the_cost_of_a_question(pair: Pair) -> None:
    grow(pair.source, 4)
    pair.sync()
    (pair.target / "large").write_bytes(b"edited in the wrong place")
    (pair.target / "d1" / "script").unlink()
    (pair.target / "stray").write_text("stray")

    kept, traffic = pair.json()
    removed, _ = pair.json("--delete")

    assert (kept["replaced"], kept["created"], kept["deleted"]) == (2, 1, 0)  # `large` has two names
    assert traffic["literal_bytes"] == 0
    assert removed["deleted"] == 1
    assert difference(facts(pair.source), facts(pair.target)) == []


def test_without_delete_a_sync_of_what_has_not_changed_stays_cheap(pair: Pair) -> None:
    grow(pair.source, 5)
    grow(pair.target, 6)
    pair.sync()
    pair.sync()

    done, traffic = pair.json()

    assert done_nothing(done)
    assert wire(traffic) < 1000


def test_the_slash_at_the_end_of_the_source_means_what_rsync_means(tmp_path: Path, remote: Remote) -> None:
    grow(tmp_path / "project", 7, files=5, large_bytes=1000)
    far = tmp_path / "far"
    expected = facts(tmp_path / "project")

    remote("sync", tmp_path / "project", "far:a/b")
    remote("sync", f"{tmp_path}/project/", "far:c")
    remote("sync", f"{tmp_path}/project/.", "far:e/")
    remote("sync", "far:a/b/project", tmp_path / "back")
    remote("sync", "far:a/b/project/", tmp_path / "contents")

    for place in (far / "a/b/project", far / "c", far / "e", tmp_path / "back/project", tmp_path / "contents"):
        assert difference(expected, facts(place)) == []
    assert os.listdir(far / "a/b") == ["project"]


def test_excluded_names_are_neither_read_nor_written_nor_deleted(pair: Pair) -> None:
    for top, where in ((pair.source, "source"), (pair.target, "target")):
        (top / "local").mkdir(parents=True)
        (top / "local" / "kept").write_text(where)
        (top / "a.o").write_text(where)
        (top / "only in" / where).mkdir(parents=True)
        (top / "both").write_text("the same text")
        os.utime(top / "both", ns=(0, 1_700_000_000_000_000_000))

    done, _ = pair.json("--delete", "--exclude", "*.o", "--exclude", "/local/")
    again, traffic = pair.json("--delete", "--exclude", "*.o", "--exclude", "/local/")

    assert (pair.target / "local" / "kept").read_text() == (pair.target / "a.o").read_text() == "target"
    assert sorted(os.listdir(pair.target / "only in")) == ["source"]
    assert done["deleted"] == 1
    assert done_nothing(again)
    assert wire(traffic) < 1000


def test_more_than_max_delete_names_are_not_deleted(pair: Pair) -> None:
    grow(pair.source, 8, files=5, large_bytes=1000)
    grow(pair.target, 8, files=5, large_bytes=1000)
    for number in range(3):
        (pair.target / f"stray-{number}").touch()

    would = pair.sync("-n", "--delete", "--max-delete", "2", code=3)
    refused = pair.sync("--delete", "--max-delete", "2", code=3)
    assert len(list(pair.target.glob("stray-*"))) == 3
    pair.sync("--delete", "--max-delete", "3")

    assert "--max-delete is 2" in would.err
    assert "--max-delete is 2" in refused.err
    assert difference(facts(pair.source), facts(pair.target)) == []


def test_what_is_replaced_or_deleted_is_kept_where_one_says(pair: Pair) -> None:
    for top, text in ((pair.source, "new text"), (pair.target, "old")):
        (top / "d").mkdir(parents=True)
        (top / "d" / "file").write_text(text)
    (pair.target / "stray").write_text("stray")

    pair.sync("--delete", "--backup-dir", "before")

    assert (pair.target / "d" / "file").read_text() == "new text"
    assert (pair.target / "before" / "d" / "file").read_text() == "old"
    assert (pair.target / "before" / "stray").read_text() == "stray"
    assert not (pair.target / "stray").exists()


def test_checksum_finds_what_size_and_time_hide(pair: Pair) -> None:
    grow(pair.source, 9, files=5, large_bytes=100_000)
    pair.sync()
    for top, text in ((pair.source, b"hidden"), (pair.target, b"HIDDEN")):
        (top / "same").write_bytes(text)
        os.utime(top / "same", ns=(0, 1_700_000_000_000_000_000))

    pair.sync("--checksum")

    assert (pair.target / "same").read_bytes() == b"hidden"


def test_what_cannot_be_read_is_told_and_nothing_is_deleted_for_it(pair: Pair, tmp_path: Path, ssh: Path) -> None:
    grow(pair.source, 18, files=5, large_bytes=1000)
    (pair.source / "locked").write_text("new")
    pair.target.mkdir()
    (pair.target / "locked").write_text("old")
    (pair.target / "stray").write_text("stray")
    (pair.source / "locked").chmod(0)
    mortal: list[str] = []
    if os.geteuid() == 0:  # root reads everything, unless it gives that up
        powers = "-dac_override,-dac_read_search"
        mortal = ["setpriv", "--inh-caps", powers, "--bounding-set", powers]

    options = ["--delete", "--json", "--no-progress", "-e", str(ssh), "--remote-packetfs", str(COMMAND)]
    done = subprocess.run(
        [*mortal, COMMAND, "sync", *options, *pair.names],
        env=remote_environment(tmp_path) | {"XDG_DATA_HOME": str(tmp_path / "near")},
        capture_output=True,
        check=False,
    )
    told = Result(done)

    assert told.code == 3, told.err
    assert told.event("problem")["path"] == "locked"
    assert told.event("sync")["unread"] == 1
    assert (pair.target / "locked").read_text() == "old"
    assert (pair.target / "stray").read_text() == "stray"
    assert (pair.target / "large").exists()


def test_a_dry_run_tells_what_will_be_done_and_touches_neither_directory(pair: Pair) -> None:
    grow(pair.source, 10)
    grow(pair.target, 11)
    (pair.target / "stray").mkdir()
    (pair.target / "stray" / "file").write_text("stray")
    before = facts(pair.target)
    source = facts(pair.source)

    told = pair.sync("-n", "-i", "--delete")
    _, traffic = pair.json("-n", "--delete")
    assert facts(pair.target) == before
    assert facts(pair.source) == source
    did = pair.sync("-i", "--delete")

    assert b"*deleting   stray/" in did.out.splitlines()
    assert sorted(map(name_of, told.out.splitlines())) == sorted(map(name_of, did.out.splitlines()))
    if pair.way == "here":
        assert sorted(told.out.splitlines()) == sorted(did.out.splitlines())
    assert traffic["literal_bytes"] == 0
    assert difference(source, facts(pair.target)) == []


def test_a_dry_run_makes_no_directory(pair: Pair) -> None:
    grow(pair.source, 12, files=5, large_bytes=1000)

    told = pair.sync("-n", "-i")

    assert not pair.target.exists()
    pair.sync("-i")
    assert len(told.out.splitlines()) > 5


def test_links_in_the_target_lead_nowhere(pair: Pair, tmp_path: Path) -> None:
    """A link where the source has a directory or a file: it gives way, and where it leads is not touched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("victim")
    grow(pair.source, 13, files=20, large_bytes=1000)
    pair.target.mkdir(parents=True)
    for name in ("d1", "d2", "empty directory"):
        (pair.target / name).symlink_to(outside)
    (pair.target / "large").symlink_to(outside / "victim")
    (pair.target / "d3").mkdir()
    (pair.target / "d3" / "e0").symlink_to("../../../outside")

    pair.sync("--delete")

    assert difference(facts(pair.source), facts(pair.target)) == []
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "victim"}


def test_what_is_wrong_is_said_with_what_to_do(tmp_path: Path, remote: Remote) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "far" / "file").write_text("x")

    both = remote("sync", tmp_path / "dir", tmp_path / "other", code=2)
    neither = remote("sync", "far:a", "far:b", code=2)
    file = remote("sync", tmp_path / "file", "far:a", code=2)
    nothing = remote("sync", tmp_path / "nothing", "far:a", code=2)
    daemon = remote("sync", tmp_path / "dir", "far::module", code=2)
    later = remote("sync", tmp_path / "dir", "pfs://far/dir", code=2)
    missing = remote("sync", "far:missing/", tmp_path / "other", code=1)
    taken = remote("sync", f"{tmp_path}/dir/", "far:file", code=2)
    bound = remote("sync", "--max-delete", "1", f"{tmp_path}/dir/", "far:a", code=2)
    pattern = remote("sync", "--exclude", "[", f"{tmp_path}/dir/", "far:a", code=2)

    assert "rsync" in both.err
    assert "run packetfs on one of the two" in neither.err
    assert "is a single file" in file.err
    assert "does not exist" in nothing.err
    assert "daemon" in daemon.err
    assert "ssh" in later.err
    assert "missing" in missing.err
    assert "not a directory" in taken.err
    assert "--delete" in bound.err
    assert "pattern" in pattern.err
    assert not (tmp_path / "other").exists()


def test_a_directory_with_the_volume_in_it_is_refused_before_anything_is_written(
    tmp_path: Path, remote: Remote
) -> None:
    """What is kept for syncs would be synced into itself, for ever."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "file").write_text("x")

    refused = remote("sync", f"{tmp_path}/dir/", f"far:{tmp_path}", code=8)

    assert "volume" in refused.err
    assert not (tmp_path / "file").exists()


def test_a_home_with_what_packetfs_keeps_in_it_is_synced_without_that(tmp_path: Path, remote: Remote) -> None:
    grow(tmp_path / "dir", 19, files=5, large_bytes=1000)
    expected = facts(tmp_path / "dir")
    how = ["--delete", "--exclude", "/.kept/"]

    remote("sync", *how, f"{tmp_path}/dir/", "far:dir/", home="dir/.kept")
    (tmp_path / "dir" / "large").unlink()
    refused = remote("sync", "--delete", "far:dir/", f"{tmp_path}/dir/", home="dir/.kept", code=8)
    remote("sync", *how, "far:dir/", f"{tmp_path}/dir/", home="dir/.kept")

    assert "--exclude" in refused.err
    assert (tmp_path / "dir" / ".kept" / "packetfs" / "sync").is_dir()
    for place in (tmp_path / "dir", tmp_path / "far" / "dir"):
        found = {path: fact for path, fact in facts(place).items() if not path.startswith(b".kept") and path}
        assert difference({path: fact for path, fact in expected.items() if path}, found) == []


def test_a_new_line_in_the_name_of_the_directory_is_a_name(tmp_path: Path, remote: Remote) -> None:
    grow(tmp_path / "dir", 14, files=5, large_bytes=100)

    remote("sync", f"{tmp_path}/dir/", "far:a\n$(touch x) 'b\udcff".encode("utf-8", "surrogateescape"))

    (made,) = (name for name in os.listdir(os.fsencode(tmp_path / "far")) if name.startswith(b"a\n"))
    assert made == b"a\n$(touch x) 'b\xff"


@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("victim", ["client", "origin"])
def test_a_sync_killed_on_either_side_leaves_each_name_old_or_new_and_is_finished_by_running_it_again(
    victim: str, pair: Pair, tmp_path: Path, start_remote: Start, many: Many
) -> None:
    grow(pair.source, 15)
    pair.sync()
    kills = Kills(many(8, 250), victim + pair.way, 0.6)
    for seed in kills:
        old = {path: fact.content for path, fact in facts(pair.target).items()}
        change(pair.source, seed)
        new = facts(pair.source)

        process = start_remote("sync", "--delete", *pair.names)
        kill = process.kill if victim == "client" else partial(kill_origin, tmp_path)
        assert "Traceback" not in kills.within(process, kill)

        for path, fact in facts(pair.target).items():
            if not path.startswith(b".packetfs-"):
                assert fact.content in {old.get(path), new[path].content if path in new else None}
        pair.sync("--delete")
        assert difference(new, facts(pair.target)) == []


def test_ctrl_c_ends_it_and_the_next_one_goes_on(pair: Pair, tmp_path: Path, start_remote: Start) -> None:
    pair.source.mkdir()
    (pair.source / "noise").write_bytes(random.Random(16).randbytes(64 << 20))
    process = start_remote("sync", "--bwlimit", "4M", *pair.names)
    replicas = tmp_path / "near" / "packetfs" / "replicas"
    while sum(path.stat().st_blocks * 512 for path in replicas.glob("*/segments/*.data")) < 4 << 20:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()

    assert process.returncode == 130, err
    assert not (pair.target / "noise").exists()
    pair.sync()
    assert difference(facts(pair.source), facts(pair.target)) == []


def test_the_volume_of_a_sync_is_sound_and_told_of(tmp_path: Path, remote: Remote, run: Run) -> None:
    grow(tmp_path / "dir", 17)

    done = remote("sync", "--json", f"{tmp_path}/dir/", "far:dir/").event("sync")
    (volume,) = (path for path in (tmp_path / "near" / "packetfs" / "sync").iterdir() if path.is_dir())

    assert done["far_disk_bytes"] > 6 << 20
    assert volume.stat().st_mode & 0o077 == 0
    run("verify", volume)


AWKWARD = b"!#a*b?[c]{d,e}\\ \xff\n\x1b "


@pytest.mark.parametrize("name", [b"file", AWKWARD, b"-n", b"a:b"], ids=["plain", "awkward", "option", "colon"])
def test_a_single_file_arrives_in_the_directory_and_nothing_beside_it_is_read_or_touched(
    name: bytes, remote: Remote, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "far" / "dir"
    (here / "d").mkdir(parents=True)
    (there / "d").mkdir(parents=True)
    path = os.fsencode(here) + b"/" + name
    for number, data in enumerate([b"first", b"second one"]):
        with open(path, "wb") as file:
            file.write(data)
        (there / "beside").write_bytes(b"beside")
        (there / "other").write_bytes(os.urandom(8 << 20))
        before = facts(there)

        dry = remote("sync", "-n", path, "far:dir/", "--json").event("sync")
        done = remote("sync", path, "far:dir/", "--json").event("sync")

        assert (dry["created"], dry["replaced"]) == (done["created"], done["replaced"]) == (1 - number, number)
        after = facts(there)
        assert after.pop(name) == facts(here)[name]
        before.pop(name, None)
        assert difference({**before, b"": after[b""]}, after) == []  # but for when the directory was written
        assert done["far_disk_bytes"] < 5 << 20  # the reserve is 4 MiB; of what lies beside it nothing was stored
    assert set(os.listdir(os.fsencode(there))) == {name, b"beside", b"other", b"d"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["file", "far:dir"], "new name"),
        (["file/", "far:dir/"], "is not a directory"),
        (["none", "far:dir/"], "does not exist"),
        (["--delete", "file", "far:dir/"], "--delete would empty"),
        (["--watch", "file", "far:dir/"], "is no directory"),
    ],
)
def test_what_a_single_file_cannot_mean_is_refused(
    arguments: list[str], message: str, remote: Remote, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    said = [
        f"{tmp_path}/{argument}" if argument[0] in "fn" and ":" not in argument else argument for argument in arguments
    ]

    assert message in remote("sync", *said, code=2).err
    assert not (tmp_path / "far" / "dir").exists()


@pytest.mark.parametrize("options", [[], ["--delete"]])
def test_a_volume_is_not_filled_with_other_files_but_can_be_copied(
    options: list[str], remote: Remote, tmp_path: Path
) -> None:
    """Who writes `sync` where `push` was meant; a copy of a volume onto an older copy is meant."""
    grow(tmp_path / "dir", 1)
    remote("push", tmp_path / "dir", "far:volume::main")
    before = facts(tmp_path / "far" / "volume")

    refused = remote("sync", *options, f"{tmp_path}/dir/", "far:volume/", "--json", code=8).event("error")
    single = remote("sync", COMMAND, "far:volume/", "--json", code=8).event("error")
    after = facts(tmp_path / "far" / "volume")
    remote("sync", "far:volume/", f"{tmp_path}/copy/")
    remote("push", COMMAND, "far:volume::other")
    remote("sync", *options, "far:volume/", f"{tmp_path}/copy/")

    assert "is a volume" in refused["message"]
    assert "packetfs push" in refused["hint"]
    assert single["message"] == refused["message"]
    assert difference(before, after) == []
    assert difference(facts(tmp_path / "far" / "volume"), facts(tmp_path / "copy")) == []


def test_whose_disk_it_is_that_fails_is_told(remote: Remote, tmp_path: Path) -> None:
    grow(tmp_path / "dir", 1)
    remote("sync", f"{tmp_path}/dir/", "far:dir/")

    there = remote("sync", f"{tmp_path}/dir/", "far:/sys/kernel/nowhere/", code=7)  # root may not, either
    here = remote("sync", "far:dir/", "/sys/kernel/nowhere/", code=7)

    assert there.err.startswith("packetfs: on the other machine: cannot create the directory '/sys/kernel/nowhere'")
    assert here.err.startswith("packetfs: cannot create the directory '/sys/kernel/nowhere'")
