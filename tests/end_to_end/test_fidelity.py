"""What a file is beyond its bytes goes in and comes out: the rows of docs/design/fidelity.md."""

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import COMMAND, Result, Run, environment
from tests.end_to_end.special import (
    extents,
    grow_roots,
    grow_special,
    need_attributes,
    need_root,
    rsync_sees,
    sparse,
    specials,
    unlike,
)

NOBODY = 65534


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree of what everybody may make."""
    need_attributes(tmp_path)
    top = tmp_path / "source"
    top.mkdir()
    grow_special(top)
    return top


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[..., Result]:
    """The command as an unprivileged user: it may read everything, so that it finds itself, and do nothing else."""
    need_root()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", NOBODY, NOBODY)
    becomes = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --bounding-set=-all,+dac_read_search"
    becomes += " --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"

    def finish(*arguments: str | Path, code: int = 0) -> Result:
        done = subprocess.run(
            [*becomes.split(), COMMAND, *arguments],
            env=environment(tmp_path / "home"),
            capture_output=True,
            check=False,
        )
        result = Result(done)
        assert "Traceback" not in result.err, result.err
        assert result.code == code, f"exit {result.code}: {result.err}"
        return result

    return finish


def give_to_nobody(*paths: Path) -> None:
    """With all that is in them."""
    for top in paths:
        for path in (top, *top.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def test_everything_that_anybody_can_make_survives(tmp_path: Path, source: Path, run: Run) -> None:
    run("push", source, f"{tmp_path}/volume::main")

    run("pull", f"{tmp_path}/volume::main", tmp_path / "target")

    assert unlike(specials(source), specials(tmp_path / "target")) == []
    assert rsync_sees(source, tmp_path / "target") == []


def test_everything_that_root_can_make_survives(tmp_path: Path, source: Path, run: Run) -> None:
    """Devices, owners without a name here, capabilities, trusted attributes, those of links and devices too."""
    need_root()
    grow_roots(source)

    run("push", source, f"{tmp_path}/volume::main")
    run("pull", f"{tmp_path}/volume::main", tmp_path / "target")

    assert unlike(specials(source), specials(tmp_path / "target")) == []
    assert rsync_sees(source, tmp_path / "target") == []


def test_a_second_push_and_a_second_pull_find_nothing_to_do(tmp_path: Path, source: Path, run: Run) -> None:
    run("push", source, f"{tmp_path}/volume::main")
    run("pull", f"{tmp_path}/volume::main", tmp_path / "target")

    pushed = run("push", source, f"{tmp_path}/volume::main", "--json").event("push")
    pulled = run("pull", "--delete", f"{tmp_path}/volume::main", tmp_path / "target", "--json").event("pull")

    assert (pushed["changed"], pushed["new_bytes"]) == (False, 0)
    assert pulled["unchanged"] == len(specials(source)) - 1
    assert pulled["created"] + pulled["replaced"] + pulled["metadata"] + pulled["deleted"] == 0


def test_what_changed_in_nothing_but_attributes_is_pushed_and_pulled(tmp_path: Path, source: Path, run: Run) -> None:
    """Neither size nor time tells. The file keeps its bytes and its place on the disk."""
    target, volume = tmp_path / "target", f"{tmp_path}/volume::main"
    run("push", source, volume)
    run("pull", volume, target)
    number = os.stat(target / "plain").st_ino
    times = os.stat(source / "a")
    os.setxattr(source / "plain", "user.new", b"1")
    os.removexattr(source / "a", "user.of a directory")
    os.setxattr(source / "locked", "user.kept", b"another")
    os.utime(source / "a", ns=(times.st_atime_ns, times.st_mtime_ns))

    pushed = run("push", source, volume, "--json").event("push")
    pulled = run("pull", volume, target, "--json").event("pull")

    assert (pushed["created"], pushed["new_bytes"]) == (True, 0)
    assert (pulled["metadata"], pulled["written_bytes"]) == (3, 0)
    assert os.stat(target / "plain").st_ino == number
    assert unlike(specials(source), specials(target)) == []


def test_what_changed_in_nothing_but_holes_is_pushed_and_pulled(tmp_path: Path, run: Run) -> None:
    """Size, time and bytes are as before; that the target was last pulled from the other tree tells."""
    source, target, volume = tmp_path / "source", tmp_path / "target", f"{tmp_path}/volume::main"
    source.mkdir()
    (source / "f").write_bytes(bytes(1 << 20))
    os.utime(source / "f", ns=(0, 10**18))
    run("push", source, volume)
    run("pull", volume, target)
    with open(source / "f", "wb") as file:
        file.truncate(1 << 20)
    os.utime(source / "f", ns=(0, 10**18))

    pushed = run("push", source, volume, "--json").event("push")
    run("pull", volume, target)

    assert pushed["created"]
    assert extents(source / "f") == extents(target / "f") == []


def test_attributes_that_somebody_changed_in_the_target_are_put_right(tmp_path: Path, source: Path, run: Run) -> None:
    target, volume = tmp_path / "target", f"{tmp_path}/volume::main"
    run("push", source, volume)
    run("pull", volume, target)
    os.setxattr(target / "plain", "user.surplus", b"1")
    os.setxattr(target / "a", "user.of a directory", b"other")
    os.removexattr(target / "listed", "system.posix_acl_access")
    shutil.rmtree(tmp_path / "volume" / "cache")  # the other way of knowing: looking
    os.setxattr(target / "c" / "inherits", "user.surplus", b"1")

    run("pull", volume, target)

    assert unlike(specials(source), specials(target)) == []


def test_a_list_of_rights_that_a_directory_hands_down_does_not_reach_what_is_pulled(
    tmp_path: Path, source: Path, run: Run
) -> None:
    from tests.end_to_end.special import acl

    (tmp_path / "target").mkdir()
    os.setxattr(tmp_path / "target", "system.posix_acl_default", acl(7))
    run("push", source, f"{tmp_path}/volume::main")

    run("pull", f"{tmp_path}/volume::main", tmp_path / "target")

    assert unlike(specials(source), specials(tmp_path / "target")) == []


def test_a_huge_hole_costs_next_to_nothing(tmp_path: Path, run: Run) -> None:
    """1 TiB with 1 MiB of bytes in it: neither volume nor target nor memory grow with the hole."""
    source, volume = tmp_path / "source", tmp_path / "volume"
    source.mkdir()
    with open(source / "huge", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(os.urandom(1 << 20))

    pushed = run("push", source, f"{volume}::main", "--json").event("push")
    pulled = run("pull", f"{volume}::main", tmp_path / "target", "--json").event("pull")

    assert (pushed["logical_bytes"], pushed["new_bytes"]) == (1 << 40, 1 << 20)
    assert (pulled["written_bytes"], pulled["seconds"] < 20, pushed["seconds"] < 20) == (1 << 20, True, True)
    assert extents(source / "huge") == extents(tmp_path / "target" / "huge")
    assert sum(path.stat().st_blocks for path in volume.rglob("*")) * 512 < 80 << 20
    assert run("verify", volume).code == 0
    assert run("diff", f"{volume}::main", f"{volume}::main").code == 0


def test_a_hole_reads_as_zeros(tmp_path: Path, run: Run) -> None:
    source = tmp_path / "source"
    source.mkdir()
    sparse(source / "f", 9_000_001)

    run("push", source, f"{tmp_path}/volume::main")

    assert run("cat", f"{tmp_path}/volume::main:/f").out == (source / "f").read_bytes()


def test_what_may_not_be_set_is_counted_told_and_all_else_done(
    tmp_path: Path, source: Path, run: Run, as_nobody: Callable[..., Result]
) -> None:
    """As another user than root, exit code 3. Running it again says the same; as root it is put right."""
    grow_roots(source)
    volume, target = tmp_path / "volume", tmp_path / "target"
    run("push", source, f"{volume}::main")
    target.mkdir()
    give_to_nobody(volume, target)

    # The link has two names: they are one when it is made, and two when they are looked at.
    for attributes in (["capable", "link", "plain"], ["c/same link", "capable", "link", "plain"]):
        done = as_nobody("pull", f"{volume}::main", target, "--json", code=3)

        end = done.events[-1]
        assert (end["code"], end["values"]["unsupported"]) == ("pull-incomplete", 2)
        assert end["values"]["owner_not_set"] == len(specials(source))
        assert end["values"]["attributes_not_set"] == len(attributes)
        problems = [event for event in done.events if event["event"] == "problem"]
        kinds = [problem["kind"] for problem in problems]
        assert kinds.count("owner-not-set") == 10
        assert {problem["path"] for problem in problems if problem["kind"] == "device-not-made"} == {"a/null", "disk"}
    here, there = specials(source), specials(target)
    assert here.keys() - there.keys() == {b"a/null", b"disk"}
    for path, found in there.items():
        assert found.mtime_ns == here[path].mtime_ns, path
        assert found.extents == here[path].extents
        kept = {name: value for name, value in here[path].attributes.items() if not name.startswith(("trusted", "sec"))}
        assert found.attributes == kept
        assert not stat.S_IMODE(found.mode) & 0o6000, "no program of somebody else's is made ours"
    assert "does not belong to its owner" in as_nobody("pull", f"{volume}::main", target, code=3).err
    run("pull", f"{volume}::main", target)
    assert unlike(here, specials(target)) == []


def test_attributes_on_a_file_system_that_has_none_are_counted(tmp_path: Path, run: Run) -> None:
    need_root()
    need_attributes(tmp_path)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("f", "g"):
        (source / name).write_bytes(b"file")
    os.setxattr(source / "f", "user.a", b"1")
    run("push", source, f"{tmp_path}/volume::main")
    if subprocess.run(["mount", "-t", "ramfs", "none", target], capture_output=True, check=False).returncode:
        pytest.skip("no file system without attributes can be mounted here")

    try:
        for _ in range(2):
            done = run("pull", f"{tmp_path}/volume::main", target, "--json", code=3)
            assert (done.events[-1]["values"]["attributes_not_set"], done.event("problem")["path"]) == (1, "f")
            assert (target / "f").read_bytes() == b"file"
    finally:
        subprocess.run(["umount", target], check=True)


def test_owners_that_are_not_wished_are_not_missed(tmp_path: Path, run: Run, as_nobody: Callable[..., Result]) -> None:
    source, volume, target = tmp_path / "source", tmp_path / "volume", tmp_path / "target"
    source.mkdir()
    (source / "f").write_bytes(b"f")
    run("push", source, f"{volume}::main")
    target.mkdir()
    give_to_nobody(volume, target)

    as_nobody("pull", "--no-owner", f"{volume}::main", target)

    assert (os.stat(target / "f").st_uid, os.stat(target / "f").st_gid) == (NOBODY, NOBODY)


def test_owners_go_by_name_unless_numbers_or_somebody_else_are_wished(tmp_path: Path, run: Run) -> None:
    need_root()
    someone = next(entry for entry in pwd.getpwall() if entry.pw_uid not in (0, NOBODY))
    source, volume = tmp_path / "source", f"{tmp_path}/volume::main"
    source.mkdir()
    (source / "f").write_bytes(b"f")
    os.chown(source / "f", someone.pw_uid, 54321)
    run("push", source, volume)

    for options, owner in (
        ([], (someone.pw_uid, 54321)),
        (["--numeric-ids"], (someone.pw_uid, 54321)),
        (["--no-owner"], (0, 0)),
        (["--chown", ":12345"], (someone.pw_uid, 12345)),
        (["--chown", "4321"], (4321, 54321)),
        (["--chown", f"{someone.pw_name}:{NOBODY}"], (someone.pw_uid, NOBODY)),
    ):
        target = tmp_path / f"target {options}"
        run("pull", *options, volume, target)
        found = os.stat(target / "f")
        assert (found.st_uid, found.st_gid) == owner, options
    listed = run("ls", "--json", volume).event("entry")
    assert (listed["user"], listed["group"]) == (someone.pw_name, "")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--chown", "no such user"], "owner-unknown"),
        (["--chown", ":"], "usage"),
        (["--chown", "0", "--no-owner"], "usage"),
        (["--chown", "4294967295"], "owner-unknown"),
    ],
)
def test_an_owner_that_makes_no_sense_is_refused_before_anything_is_done(
    tmp_path: Path, run: Run, options: list[str], code: str
) -> None:
    (tmp_path / "source").mkdir()
    run("push", tmp_path / "source", f"{tmp_path}/volume::main")

    done = run("pull", *options, f"{tmp_path}/volume::main", tmp_path / "target", "--json", code=2)

    assert done.events[-1]["code"] == code
    assert not (tmp_path / "target").exists()


def test_what_a_snapshot_holds_beyond_bytes_can_be_listed(tmp_path: Path, source: Path, run: Run) -> None:
    need_root()
    grow_roots(source)
    run("push", source, f"{tmp_path}/volume::main")

    lines = run("ls", "-lR", f"{tmp_path}/volume::main").out.decode().splitlines()
    listed = {event["path"]: event for event in run("ls", "-R", "--json", f"{tmp_path}/volume::main").events}

    assert any(line.startswith("crw-rw-rw-") and " 1, 3 " in line for line in lines)
    assert any(line.startswith("brw-r-----+") and " 259, 70000 " in line for line in lines)
    assert listed["disk"]["rdev"] == "259:70000"
    assert listed["capable"]["xattrs"].keys() == {"security.capability"}
    assert listed["a/pipe"]["kind"] == "fifo"


def test_a_snapshot_of_attributes_differs_in_metadata_only(tmp_path: Path, source: Path, run: Run) -> None:
    run("push", source, f"{tmp_path}/volume::main")
    os.setxattr(source / "plain", "user.new", b"1")
    run("push", source, f"{tmp_path}/volume::main")

    compared = run("diff", "--json", f"{tmp_path}/volume::main@~1", f"{tmp_path}/volume::main").event("diff")

    assert (compared["metadata"], compared["changed"], compared["added"]) == (1, 0, 0)


def test_somebody_else_than_root_keeps_a_backup_also_of_what_he_may_not_write_to(
    tmp_path: Path, run: Run, as_nobody: Callable[..., Result]
) -> None:
    source, volume, target, backup = (tmp_path / name for name in ("source", "volume", "target", "backup"))
    source.mkdir()
    run("push", source, f"{volume}::main")
    (target / "read only/below").mkdir(parents=True)
    (target / "read only/file").write_bytes(b"f")
    (target / "read only").chmod(0o555)
    backup.mkdir()
    give_to_nobody(volume, target, backup)

    as_nobody("pull", "--no-owner", "--delete", "--backup-dir", backup, f"{volume}::main", target)

    assert os.listdir(target) == []
    assert (backup / "read only/file").read_bytes() == b"f"
    assert stat.S_IMODE((backup / "read only").stat().st_mode) == 0o555
